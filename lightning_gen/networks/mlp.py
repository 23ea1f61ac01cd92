"""Perceptron generator and discriminator, for any image shape."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_gen.core import ImageSpec, check_positive
from lightning_gen.networks.conditional import FeatureDiscriminator, check_conditional, last_of, require_labels


def hidden_layers(
    inputs: int, widths: Sequence[int], negative_slope: float, batch_norm: bool = False
) -> list[nn.Module]:
    """Return Linear (-> BatchNorm) -> LeakyReLU blocks of the given widths."""
    layers: list[nn.Module] = []
    for width in widths:
        layers.append(nn.Linear(inputs, width, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.LeakyReLU(negative_slope, inplace=True))
        inputs = width
    return layers


class MLPGenerator(nn.Module):
    r"""Perceptron from a latent to an image, :math:`x = \tanh(W_n \phi(\dots \phi(W_1 z)))` (Goodfellow et al. 2014).

    Args:
        spec: image format; any shape.
        latent_dim: dimension of the latent z.
        widths: widths of the hidden layers; empty for a linear generator.
        negative_slope: slope of the leaky ReLU :math:`\phi`.
        batch_norm: batch normalisation of hidden layers (Ioffe and Szegedy 2015), as in many tutorials.
        conditional: whether to append a learnt embedding of the class to the latent (Mirza and Osindero 2014), of the
            same dimension and initial distribution as the latent.

    Raises:
        InputError: for a width or latent size below 1, or ``conditional`` without classes.
    """

    def __init__(
        self,
        spec: ImageSpec,
        latent_dim: int = 64,
        widths: Sequence[int] = (1024, 1024),
        negative_slope: float = 0.2,
        batch_norm: bool = False,
        conditional: bool = False,
    ):
        super().__init__()
        check_positive(self, latent_dim=latent_dim, **{f"widths[{i}]": width for i, width in enumerate(widths)})
        if conditional:
            check_conditional(self, spec)
        self.latent_dim = latent_dim
        self.conditional = conditional
        self.shape = spec.shape
        inputs = 2 * latent_dim if conditional else latent_dim
        hidden = hidden_layers(inputs, widths, negative_slope, batch_norm)
        self.net = nn.Sequential(*hidden, nn.Linear([inputs, *widths][-1], spec.dims), nn.Tanh())
        self.embedding = nn.Embedding(spec.num_classes, latent_dim) if conditional else None

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map latents (B, latent_dim), of classes ``labels`` (B,) if conditional, to unit images (B, C, H, W)."""
        if self.embedding is not None:
            latent = torch.cat([latent, self.embedding(require_labels(self, labels))], 1)
        return self.net(latent).unflatten(1, self.shape)


class MLPDiscriminator(FeatureDiscriminator):
    r"""Perceptron from an image to one score per image (Goodfellow et al. 2014).

    Args:
        spec: image format; any shape.
        widths: widths of the hidden layers.
        negative_slope: slope of the leaky ReLU.
        conditional: whether scores depend on labels, by projection of the last hidden layer (Miyato and Koyama 2018).
        classifier: whether to add an auxiliary classifier on the last hidden layer, see :meth:`scores_and_logits`.

    Raises:
        InputError: for a width below 1, or images without classes if these are needed.
    """

    def __init__(
        self,
        spec: ImageSpec,
        widths: Sequence[int] = (1024, 1024),
        negative_slope: float = 0.2,
        conditional: bool = False,
        classifier: bool = False,
    ):
        super().__init__()
        check_positive(self, **{f"widths[{i}]": width for i, width in enumerate(widths)})
        hidden = hidden_layers(spec.dims, widths, negative_slope)
        num_features = [spec.dims, *widths][-1]
        self.net = nn.Sequential(*hidden, nn.Linear(num_features, 1))
        self.add_heads(spec, num_features, conditional, classifier)

    def features_and_scores(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, scores = last_of(self.net, torch.flatten(images, 1))
        return features, scores.squeeze(1)
