"""Vector-quantized autoencoders, with a prior over the codes that is fitted afterwards."""

from collections.abc import Callable

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_gen.core import (
    Figure,
    ImageSpec,
    InputError,
    Likelihood,
    at_least_float32,
    check_output,
    evaluating,
    full_precision,
    heeded_labels,
    refuse_precision,
)
from lightning_gen.data import Batch
from lightning_gen.distributions import CategoricalPixels, PixelLikelihood
from lightning_gen.distributions.histograms import CodeHistograms
from lightning_gen.metrics import bits_per_dimension
from lightning_gen.metrics.codes import CodePerplexity, ReconstructionBits, UsedCodes
from lightning_gen.models.base import GenerativeModule
from lightning_gen.models.code_prior import CodePrior, FittedPrior, HistogramPrior
from lightning_gen.models.state import fingerprint
from lightning_gen.models.variational import RECONSTRUCTION
from lightning_gen.networks.quantize import Quantized, Quantizer, VectorQuantizer, perplexity
from lightning_gen.samplers import CodeSampler

MOST_CELLS = 2**27  # cells of all histograms together: half a GiB


class VQVAE(GenerativeModule):
    r"""Autoencoder onto a grid of codes, :math:`\max \log p(x \mid e_{c(x)}) - \text{loss}` (van den Oord et al. 2017).

    Each vector of the encoder's feature map is replaced by a codebook vector: ``c(x)`` are the code indices, ``e`` the
    code vectors that the decoder receives. Gradients pass straight through the quantization. The codebook, and the loss
    that ties encoder and codebook, belong to the ``quantizer``.

    Two priors over codes are available: independent histograms of the codes at each position, which training collects,
    or a model that is fitted to the codes of a trained VQVAE (see :class:`lightning_gen.models.Codes`) and given as
    ``sampler.prior``. Samples are drawn from the fitted prior if there is one, and the likelihood is the bound

    .. math:: \log p(x) = \log \sum_c p(c)\, p(x \mid e_c) \ge \log p(x \mid e_{c(x)}) + \log p(c(x)).

    Evaluation reports ``reconstruction_bpd``, the first term in bits per dimension, and ``perplexity`` and
    ``used_codes`` of the codes of the whole part.

    Args:
        spec: image format, given by the data module.
        encoder: factory of a network from the spec and D, unit images (B, C, H, W) -> (B, D, h, w).
        decoder: factory of a network from the spec, D and the number of channels, (B, D, h, w) -> (B, out_channels, H,
            W).
        optimizer: factory of the optimizer of all parameters except the codebook.
        quantizer: factory of the quantizer, whose code dimension is D.
        likelihood: factory of p(x | e) from the spec; categorical if not given.
        sampler: sampling method of :meth:`sample`, with the fitted prior if any.

    Raises:
        InputError: for parts that do not fit the images or each other; at the start of training for a fitted prior.
    """

    figures = (
        *GenerativeModule.figures,
        RECONSTRUCTION,
        Figure("reconstruction_bpd", "bits per dimension given the codes: no likelihood", higher=False, leads=True),
        Figure("code_cost", "negative log-probability of the codes, nats per image"),
        Figure("commitment", "mean squared distance of what is quantized to its code"),
        Figure("perplexity", "codes in use, weighed by their shares", leads=True),
        Figure("used_codes", "codes in use at all", leads=True),
    )

    def __init__(
        self,
        spec: ImageSpec,
        encoder: Callable[[ImageSpec, int], nn.Module],
        decoder: Callable[[ImageSpec, int, int], nn.Module],
        optimizer: OptimizerCallable,
        quantizer: Callable[[], Quantizer] = VectorQuantizer,
        likelihood: Callable[[ImageSpec], PixelLikelihood] = CategoricalPixels,
        sampler: CodeSampler | None = None,
    ):
        super().__init__(spec, sampler or CodeSampler())
        self.quantizer = quantizer()
        self.pixels = likelihood(self.spec)
        self.encoder = encoder(self.spec, self.quantizer.dim)
        self.decoder = decoder(self.spec, self.quantizer.dim, self.pixels.out_channels)
        self.optimizer = optimizer
        self.histograms = CodeHistograms(self.check_parts(), self.quantizer.codes)
        codes = self.quantizer.codes
        figures = {"perplexity": CodePerplexity(codes), "used_codes": UsedCodes(codes)}
        self.held_out = MetricCollection({"reconstruction_bpd": ReconstructionBits(self.spec), **figures})
        self._prior: tuple[CodeSampler, CodePrior] | None = None
        _ = self.prior  # raises for a fitted prior that does not fit

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        z = self.encoder_map(batch.levels)
        quantized = self.quantize(z)
        nats = self.log_conditional(batch.levels, quantized.values)
        loss = (quantized.loss - nats).mean()
        with full_precision(self.device):
            self.quantizer.learn(z.detach(), quantized.indices, self.context)
        self.track(
            loss=loss,
            commitment=quantized.loss.mean(),
            reconstruction_bpd=bits_per_dimension(nats.detach().mean(), self.spec),
            perplexity=perplexity(self.histograms.learn(quantized.indices, self.ranks)),
        )
        self.count_images(batch)
        return loss

    def encoder_map(self, levels: Tensor) -> Tensor:
        """Return the feature map (B, D, h, w) of levels (B, C, H, W), before quantization."""
        return at_least_float32(self.encoder(self.spec.to_unit(levels, self.dtype)))

    def quantize(self, z: Tensor) -> Quantized:
        """Quantize a feature map (B, D, h, w), in full precision."""
        with full_precision(self.device):
            return self.quantizer(z)

    def log_conditional(self, levels: Tensor, values: Tensor) -> Tensor:
        """Return log p(x | e), nats (B,), of levels (B, C, H, W) and code vectors (B, D, h, w)."""
        theta = at_least_float32(self.decoder(values))
        with full_precision(self.device):
            return self.pixels.log_prob(levels, theta)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters())

    def on_fit_start(self) -> None:
        refuse_precision(self, ("16-true", "bf16-true"), "uses of codes are averaged in float32: use bf16-mixed")
        if self.sampler.prior is not None:
            raise InputError(
                "sampler.prior is fitted to the codes of a trained model, which training would change: leave it out"
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        quantized = self.quantize(self.encoder_map(batch.levels))
        nats = self.log_conditional(batch.levels, quantized.values)
        self.held_out.update(nats=nats, indices=quantized.indices)

    @property
    def code_spec(self) -> ImageSpec:
        """Format of the code grids as images of one channel, whose levels are the codes."""
        return ImageSpec(1, *self.histograms.grid, levels=self.quantizer.codes, num_classes=self.spec.num_classes)

    @property
    def prior(self) -> CodePrior:
        """The prior p(c): the sampler's fitted one, else the histograms collected in training."""
        if self._prior is None or self._prior[0] is not self.sampler:
            fitted = self.sampler.prior is not None
            prior = FittedPrior(self.code_spec, self.sampler) if fitted else HistogramPrior(self.histograms)
            self._prior = self.sampler, prior
        return self._prior[1]

    def fingerprint(self) -> str:
        """Return a hash (32 hexadecimal digits) of encoder and quantizer, which identifies the codes they produce."""
        return fingerprint(self.encoder, self.quantizer)

    latents = "discrete"

    @property
    def conditional(self) -> bool:
        return self.prior.conditional

    def draw_latents(self, n: int, labels: Tensor | None = None, *, generator: torch.Generator) -> Tensor:
        """Draw codes, int64 (n, h, w), from :attr:`prior`."""
        self.prior.check(self)
        return self.prior.sample(n, heeded_labels(self, labels, n), generator).to(self.device)

    def likelihood(
        self, levels: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Likelihood:
        """Return the lower bound of the class docstring, nats (B,), of levels (B, C, H, W)."""
        self.spec.check(levels)
        self.prior.check(self)
        quantized = self.quantize(self.encoder_map(levels))
        first = self.log_conditional(levels, quantized.values).double()
        codes = self.prior.likelihood(quantized.indices, heeded_labels(self, labels, len(levels)), generator)
        is_bound = codes.kind in ("exact", "dequantized", "bound")
        return Likelihood(first + codes.nats.double(), "bound" if is_bound else codes.kind, codes.num_samples)

    def encode(self, levels: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the codes, int64 (B, h, w), of levels (B, C, H, W)."""
        self.spec.check(levels)
        with evaluating(self):
            return self.quantize(self.encoder_map(levels)).indices

    def decode(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map codes (B, h, w) to levels (B, C, H, W), the expected values of the pixels."""
        with evaluating(self):
            return self.spec.to_levels(self.pixels.mean(self.pixel_parameters(latent)))

    def pixel_parameters(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the parameters (B, out_channels, H, W) of p(x | e) for codes (B, h, w).

        Raises:
            InputError: for codes of another shape or out of range.
        """
        self.histograms.check(latent)
        return self.decoder(self.quantizer.lookup(latent.to(torch.int64)).to(self.dtype)).float()

    def diagnostics(self, batch: Batch) -> dict[str, Tensor]:
        r"""Return the two terms of each image's negative bound, nats (B,): ``reconstruction``,
        :math:`-\log p(x \mid e_{c(x)})`, and ``code_cost``, :math:`-\log p(c(x))`."""
        with evaluating(self):
            quantized = self.quantize(self.encoder_map(batch.levels))
            labels = heeded_labels(self, batch.labels, len(batch.levels))
            return {
                "reconstruction": -self.log_conditional(batch.levels, quantized.values),
                "code_cost": -self.prior.likelihood(quantized.indices, labels, None).nats,
            }

    def check_parts(self) -> tuple[int, int]:
        """Return height and width of the code grid.

        Raises:
            InputError: for networks that do not fit the images or the quantizer.
        """
        dim, images = self.quantizer.dim, torch.zeros(2, *self.spec.shape)
        grid = check_output(self, self.encoder, images, shape=(dim, None, None), meaning="what is quantized")
        shape = (self.pixels.out_channels, *self.spec.shape[1:])
        zeros = torch.zeros_like(grid)
        check_output(self, self.decoder, zeros, shape=shape, meaning="pixels (as many halvings as the encoder's?)")
        height, width = grid.shape[2:]
        if height * width * self.quantizer.codes > MOST_CELLS:
            raise InputError(
                f"VQVAE: {self.quantizer.codes:,} codes at {height}x{width} places are too many to count each: take "
                "fewer codes"
            )
        return height, width
