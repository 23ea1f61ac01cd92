"""A semi-supervised variational autoencoder (model M2)."""

import math
from collections.abc import Callable

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_gen.core import (
    Figure,
    ImageSpec,
    InputError,
    at_least_float32,
    check_at_least,
    check_output,
    check_positive,
    evaluating,
    full_precision,
    keyed_generator,
)
from lightning_gen.data import Batch
from lightning_gen.models.vae import VAE
from lightning_gen.objectives import Terms


class ClassTerms(Terms):
    """Terms of a batch that contains each image once per class."""

    def _of_a_batch(self, *args: object) -> None:
        raise InputError(
            "it looks at a batch as a whole, in which each image stands once for each class: take ELBO or IWAE"
        )

    moments = property(_of_a_batch)
    prior_draw = _of_a_batch


class SemiSupervisedVAE(VAE):
    r"""Class-conditional VAE for partly labelled images (M2: Kingma et al. 2014).

    :math:`L(x, y)` is the objective of an image given its class, plus :math:`-\log p(y) = \log C` for uniform classes.
    It is the loss of a labelled image; an unlabelled one averages over classes with the classifier :math:`q(y \mid x)`:

    .. math:: U(x) = \sum_y q(y \mid x)\, \big(L(x, y) + \log q(y \mid x)\big), \qquad
        \text{loss} = \mathbb E[L \text{ or } U] - \alpha\, \mathbb E_{\text{labelled}} \log q(y \mid x)

    The sum over classes is exact, so a step needs one pass per class. The labelled images are drawn at random with
    ``label_seed``, independently of their labels; labels of the other images are not used.

    Without labels the likelihood is the bound on :math:`\log \sum_y p(y)\, p(x \mid y)`, and :meth:`encode` uses the
    class that the classifier predicts.

    Args:
        spec: image format, given by the data module; must have classes.
        classifier: factory of a network from the spec and the number of classes, (unit images (B, C, H, W), None) ->
            logits (B, num_classes), such as an encoder. Avoid batch norm where few images of a batch are labelled.
        labelled: number of labelled training images. If the size of the data is not known (no ImageDataModule), these
            are the first ones by index.
        label_seed: seed of their random choice.
        alpha: weight :math:`\alpha` of the classification loss.
        encoder, decoder, optimizer, options: as in :class:`VAE`; the decoder must be class-conditional, and the
            objective must be a sum over images.

    Raises:
        InputError: for numbers out of range, images without classes, or parts that do not fit; at the start of training
            for more labels than images, or a class without labelled images.
    """

    terms_class = ClassTerms

    figures = (
        *VAE.figures,
        Figure("bound", "negative bound on the log-probability of images, nats"),
        Figure("cross_entropy", "of the classifier, on labelled images, nats"),
    )

    def __init__(
        self,
        spec: ImageSpec,
        encoder: Callable[[ImageSpec, int], nn.Module],
        decoder: Callable[[ImageSpec, int, int], nn.Module],
        optimizer: OptimizerCallable,
        classifier: Callable[[ImageSpec, int], nn.Module],
        labelled: int = 100,
        label_seed: int = 0,
        alpha: float = 1.0,
        **options,
    ):
        super().__init__(spec, encoder, decoder, optimizer, **options)
        check_positive(self, labelled=labelled)
        check_at_least(self, 0, alpha=alpha)
        if not self.conditional:
            raise InputError("SemiSupervisedVAE: the decoder must be class-conditional: give it conditional: true")
        classes = self.spec.num_classes
        self.classifier = classifier(self.spec, classes)
        images = torch.zeros(2, *self.spec.shape)
        check_output(self, self.classifier, images, None, shape=(classes,), meaning="a number for each class")
        self.labelled_images = LabelledImages(labelled, label_seed)
        self.alpha = alpha

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        n, classes = len(batch.levels), self.spec.num_classes
        # All classes of an image share their noise, so that their costs differ by the class alone.
        noise = self.context.normal("posterior", self.objective.samples, n, self.latent_dim, dim=1)
        every = torch.arange(classes, device=self.device).repeat_interleave(n)
        terms = self.terms(batch.levels.repeat(classes, 1, 1, 1), every, noise.repeat(1, classes, 1))
        with full_precision(self.device):
            costs = (self.objective(terms, self.context) + math.log(classes)).view(classes, n).T
        log_q = self._log_classes(batch.levels)
        unknown = (log_q.exp() * (costs + log_q)).sum(1)

        seen = self.labelled_images.among(batch.index)
        labels = torch.where(seen, batch.labels, 0)[:, None]
        known, surprise = costs.gather(1, labels)[:, 0], -log_q.gather(1, labels)[:, 0]
        generative = torch.where(seen, known, unknown).mean()
        classification = (surprise * seen).mean() / self.labelled_images.share
        loss = generative + self.alpha * classification
        self.track(loss=loss, bound=generative, cross_entropy=classification)
        self.count_images(batch)
        return loss

    def on_fit_start(self) -> None:
        labels = self.trainer.datamodule.images("train").labels if self.num_images > 1 else None
        self.labelled_images.choose(None if labels is None else torch.as_tensor(labels), self.spec.num_classes)

    def classify(self, levels: Tensor) -> Tensor:
        """Return log q(y | x), (B, num_classes), of levels (B, C, H, W)."""
        self.spec.check(levels)
        with evaluating(self):
            return self._log_classes(levels)

    def _log_classes(self, levels: Tensor) -> Tensor:
        logits = self.classifier(self.spec.to_unit(levels, self.dtype), None)
        return torch.log_softmax(at_least_float32(logits), 1)

    def encode(self, levels: Tensor, labels: Tensor | None = None) -> Tensor:
        return super().encode(levels, self.classify(levels).argmax(1) if labels is None else labels)


class LabelledImages:
    """The random choice of the training images whose labels are used.

    Args:
        count: number of labelled images.
        seed: seed of the choice.
    """

    def __init__(self, count: int, seed: int):
        self.count = count
        self.seed = seed
        self.chosen: Tensor | None = None

    def choose(self, labels: Tensor | None, classes: int) -> None:
        """Choose them among all images, given the labels (N,); without labels (None), take the first ones.

        Raises:
            InputError: for more of them than images, or a class without labelled images.
        """
        self.chosen = None
        if labels is None:
            return
        if self.count > len(labels):
            raise InputError(f"SemiSupervisedVAE: labelled is {self.count} of {len(labels)} training images")
        places = torch.randperm(len(labels), generator=keyed_generator(self.seed, "labelled"))[: self.count]
        if missing := set(range(classes)) - set(labels[places].tolist()):
            raise InputError(
                f"SemiSupervisedVAE: none of the {self.count} labelled images is of class {min(missing)}: raise "
                "labelled, or take another label_seed"
            )
        self.chosen = torch.zeros(len(labels), dtype=torch.bool).index_fill_(0, places, True)

    def among(self, index: Tensor) -> Tensor:
        """Return whether the images with the given index (B,) are labelled: bool (B,)."""
        if self.chosen is None:
            return index < self.count
        self.chosen = self.chosen.to(index.device)
        return self.chosen[index]

    @property
    def share(self) -> float:
        """The labelled share of the training images; 1 if their number is not known."""
        return 1.0 if self.chosen is None else self.count / len(self.chosen)
