"""Autoencoders whose latent is a grid of codes, with a prior over the codes that is fitted afterwards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from lightning_gen.data import Batch
from lightning_gen.distributions import CategoricalPixels, PixelLikelihood
from lightning_gen.errors import InputError
from lightning_gen.metrics import bits_per_dimension
from lightning_gen.models.base import (
    CHECKPOINT_KEY,
    GenerativeModule,
    HasLikelihood,
    Likelihood,
    evaluating,
    full_precision,
    probe,
)
from lightning_gen.models.checkpoint import load, read_checkpoint
from lightning_gen.networks.quantize import Quantized, Quantizer, VectorQuantizer, perplexity
from lightning_gen.objectives.precision import at_least_float32
from lightning_gen.samplers.codes import CodeSampler
from lightning_gen.spec import ImageSpec

HISTOGRAM_HALF_LIFE = 10_000  # images
MOST_CELLS = 2**27  # of all histograms together: half a GiB
UNSEEN = 0.5  # uses that each code has in each histogram beforehand (Krichevsky and Trofimov 1981)


class VQVAE(GenerativeModule):
    r"""Autoencoder onto a grid of codes, :math:`\max \log p(x \mid e_{c(x)}) - \text{loss}` (van den Oord et al. 2017).

    The encoder's map is quantized place by place, ``c(x)``, and the decoder is given the codes' values ``e``; gradients
    pass from these to the map as if nothing lay between. Which codes there are is up to the ``quantizer``.

    Training says nothing of how likely codes are. Two priors do: histograms of each place's codes over training, as if
    they were independent, which every model has; and whichever model is fitted to the codes of a trained one
    (:class:`lightning_gen.models.Codes` is their data) and named by ``sampler.prior``. Images are drawn from the one
    that is there, and its likelihood is the two-part bound

    .. math:: \log p(x) = \log \sum_c p(c)\, p(x \mid e_c) \ge \log p(x \mid e_{c(x)}) + \log p(c(x)).

    Evaluation reports ``reconstruction_bpd``, the first part alone, in bits per dimension: it is no likelihood, as it
    does not count the bits of the codes. And of all codes of a part, ``perplexity`` and ``used_codes``.

    Args:
        spec: images, the data module's.
        encoder: factory of a network from the spec and the numbers D of each place, unit images (B, C, H, W) ->
            (B, D, h, w).
        decoder: factory of a network from the spec, D and the number of planes, (B, D, h, w) -> (B, planes, H, W).
        optimizer: factory of the optimizer of everything but the codebook.
        quantizer: factory of the quantizer, which has the D.
        likelihood: factory of the pixels' distribution from the spec; categorical levels if not given.
        sampler: how :meth:`sample` draws, and from which prior.

    Raises:
        InputError: for parts that do not fit the images or each other; at the start of training for a fitted prior.
    """

    histogram: Tensor

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
        super().__init__(spec)
        self.quantizer = quantizer()
        self.pixels = likelihood(self.spec)
        self.encoder = encoder(self.spec, self.quantizer.dim)
        self.decoder = decoder(self.spec, self.quantizer.dim, self.pixels.planes)
        self.optimizer = optimizer
        self.sampler = sampler or CodeSampler()
        self.grid = self._check_parts()
        places = self.grid[0] * self.grid[1]
        self.register_buffer("histogram", torch.zeros(places, self.quantizer.codes))
        self._fitted: tuple[str, GenerativeModule, str] | None = None
        self._uses: Tensor | None = None
        self._nats, self._images = 0.0, 0
        self._fitted_prior()

    def _check_parts(self) -> tuple[int, int]:
        """Return height and width of the grid."""
        names = {name: type(part).__name__ for name, part in self.named_children()}
        grid = probe(self, self.encoder, torch.zeros(2, *self.spec.shape))
        if grid.ndim != 4 or grid.shape[:2] != (2, self.quantizer.dim):
            raise InputError(
                f"VQVAE: {names['encoder']} must give ({self.quantizer.dim}, h, w) for {names['quantizer']}, and gave "
                f"{tuple(grid.shape[1:])}"
            )
        planes = probe(self, self.decoder, torch.zeros_like(grid))
        expected = self.pixels.planes, self.spec.height, self.spec.width
        if planes.shape != (2, *expected):
            raise InputError(
                f"VQVAE: {names['decoder']} must give {expected} for {names['pixels']}, and gave "
                f"{tuple(planes.shape[1:])}: as many halvings as the encoder's?"
            )
        height, width = grid.shape[2:]
        if height * width * self.quantizer.codes > MOST_CELLS:
            raise InputError(
                f"VQVAE: {self.quantizer.codes:,} codes at {height}x{width} places are too many to count each: take "
                "fewer codes"
            )
        return height, width

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters())

    # --- training -------------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        if str(self.trainer.precision) in ("16-true", "bf16-true"):
            raise InputError(
                f"VQVAE: uses of codes are averaged in float32, which trainer.precision {self.trainer.precision} has "
                "not: use bf16-mixed"
            )
        if self.sampler.prior is not None:
            raise InputError(
                "sampler.prior is fitted to the codes of a trained model, which training would change: leave it out"
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        z = self.encode_to_map(batch.levels)
        quantized = self.quantize(z)
        nats = self.log_conditional(batch.levels, quantized.values)
        loss = (quantized.loss - nats).mean()
        rank, world = self.ranks
        with full_precision(self.device.type):
            generator = self.random("revival")
            self.quantizer.learn(z.detach(), quantized.indices, generator, rank, world, self.mean_over_ranks)
        uses = self._learn_histogram(quantized.indices)
        self.track(
            loss=loss,
            commitment=quantized.loss.mean(),
            reconstruction_bpd=bits_per_dimension(nats.detach().mean(), self.spec),
            perplexity=perplexity(uses),
        )
        self.count_images(batch)
        return loss

    def _learn_histogram(self, indices: Tensor) -> Tensor:
        """Take the codes (B, h, w) of a batch into the histograms, and return their mean uses (K,) over all ranks."""
        places, codes = self.histogram.shape
        cells = indices.flatten(1) + codes * torch.arange(places, device=self.device)
        counts = torch.bincount(cells.flatten(), minlength=places * codes).view(places, codes)
        uses = self.mean_over_ranks(counts.to(self.histogram.dtype) / len(indices))
        images = len(indices) * self.ranks[1]
        self.histogram.mul_(0.5 ** (images / HISTOGRAM_HALF_LIFE)).add_(uses, alpha=images)
        return uses.sum(0)

    def encode_to_map(self, levels: Tensor) -> Tensor:
        """Return what is quantized, (B, D, h, w), of levels (B, C, H, W)."""
        return at_least_float32(self.encoder(self.spec.to_unit(levels, self.dtype)))

    def quantize(self, z: Tensor) -> Quantized:
        """Quantize a map (B, D, h, w), in full precision."""
        with full_precision(self.device.type):
            return self.quantizer(z)

    def log_conditional(self, levels: Tensor, values: Tensor) -> Tensor:
        """Return log p(x | e), nats (B,), of levels (B, C, H, W) and codes' values (B, D, h, w)."""
        planes = at_least_float32(self.decoder(values))
        with full_precision(self.device.type):
            return self.pixels.log_prob(levels, planes)

    # --- the prior ------------------------------------------------------------------------------------------------

    @property
    def code_spec(self) -> ImageSpec:
        """Grids of codes as images of one channel, whose levels are the codes.

        Raises:
            InputError: for more codes than levels can be.
        """
        if self.quantizer.codes > 256:
            raise InputError(
                f"VQVAE: {self.quantizer.codes} codes cannot be the levels of images, of which there are at most 256: "
                "take fewer codes to fit a prior to them"
            )
        return ImageSpec(1, *self.grid, levels=self.quantizer.codes, num_classes=self.spec.num_classes)

    def fingerprint(self) -> str:
        """Return a hash (32 hexadecimal digits) of what images are encoded by: codes of others mean something else."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.encoder, self.quantizer):
            for name, value in part.state_dict().items():
                digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
                digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def _fitted_prior(self) -> GenerativeModule | None:
        """Return the prior that the sampler names, on this device, or None.

        Raises:
            InputError: for a checkpoint of another grid, or one that was not fitted to codes.
        """
        path = self.sampler.prior
        if path is None:
            return None
        if self._fitted is None or self._fitted[0] != path:
            checkpoint = read_checkpoint(path)
            prior = load(path, trust=self.sampler.trust, checkpoint=checkpoint)
            if not isinstance(prior, GenerativeModule):
                raise InputError(f"sampler.prior: {path} holds a {type(prior).__name__}, which draws nothing")
            own = self.code_spec
            if (prior.spec.shape, prior.spec.levels) != (own.shape, own.levels):
                raise InputError(
                    f"sampler.prior: {path} is of images {prior.spec.shape} with {prior.spec.levels} levels, and the "
                    f"codes are {own.shape} with {own.levels}: fit a prior to the codes of this model"
                )
            self._fitted = path, prior, fingerprint_of_codes(checkpoint, path)
        return self._fitted[1].to(self.device)

    def prior(self) -> GenerativeModule | None:
        """Return the fitted prior, or None where there are only histograms.

        Raises:
            InputError: for one that was fitted to the codes of another model, or of this one with other weights.
        """
        prior = self._fitted_prior()
        if prior is not None and self._fitted[2] != self.fingerprint():
            raise InputError(
                f"sampler.prior: {self.sampler.prior} was fitted to the codes of other weights than these: fit it to "
                "the codes of this checkpoint"
            )
        return prior

    def _log_shares(self) -> Tensor:
        """Return the log probability of each code at each place by the histograms, (places, K), float64."""
        counts = self.histogram.double() + UNSEEN
        return (counts / counts.sum(1, keepdim=True)).log()

    def code_likelihood(self, indices: Tensor, labels: Tensor | None = None) -> Likelihood:
        """Return log p(c) of codes (B, h, w) under the prior that is there."""
        prior = self.prior()
        if prior is None:
            of_places = self._log_shares()[None].expand(len(indices), -1, -1)
            return Likelihood(of_places.gather(2, indices.flatten(1)[:, :, None]).flatten(1).sum(1), "exact")
        if not isinstance(prior, HasLikelihood):
            raise InputError(
                f"sampler.prior: a {type(prior).__name__} draws codes and does not say how likely they are: set "
                "evaluation.likelihood to false, or fit a prior that has a likelihood"
            )
        with evaluating(prior):
            return prior.likelihood(indices[:, None].to(torch.uint8), labels if prior.conditional else None)

    # --- the protocol ---------------------------------------------------------------------------------------------

    @property
    def conditional(self) -> bool:
        prior = self._fitted_prior()
        return prior is not None and prior.conditional

    def likelihood(self, levels: Tensor, labels: Tensor | None = None) -> Likelihood:
        """Return the two-part bound on log p(x), of levels (B, C, H, W); see the class.

        Args:
            levels: (B, C, H, W).
            labels: classes (B,), where the prior is class-conditional.

        Raises:
            InputError: for images of another size, or a prior without likelihood.
        """
        self.spec.check(levels)
        with evaluating(self):
            quantized = self.quantize(self.encode_to_map(levels))
            first = self.log_conditional(levels, quantized.values).double()
            codes = self.code_likelihood(quantized.indices, labels)
        is_bound = codes.kind in ("exact", "dequantized", "bound")
        return Likelihood(first + codes.nats.double(), "bound" if is_bound else codes.kind, codes.num_samples)

    def encode(self, levels: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the codes, int64 (B, h, w), of levels (B, C, H, W)."""
        self.spec.check(levels)
        with evaluating(self):
            return self.quantize(self.encode_to_map(levels)).indices

    def decode(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map codes (B, h, w) to levels (B, C, H, W), the expected values of the pixels."""
        with evaluating(self):
            return self.spec.to_levels(self.pixels.mean(self._planes(latent)))

    def _planes(self, indices: Tensor) -> Tensor:
        if indices.shape[1:] != self.grid or indices.is_floating_point():
            raise InputError(
                f"VQVAE: codes are whole numbers (B, {self.grid[0]}, {self.grid[1]}), got {indices.dtype} "
                f"{tuple(indices.shape)}"
            )
        indices = indices.to(torch.int64)
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < self.quantizer.codes:
            raise InputError(
                f"VQVAE: codes are 0 .. {self.quantizer.codes - 1}, got {indices.min()} .. {indices.max()}"
            )
        return self.decoder(self.quantizer.lookup(indices).to(self.dtype)).float()

    def sample(self, n: int, labels: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        generator = generator or self.fresh_generator()
        indices = self.draw_codes(n, labels, generator)
        if self.sampler.pixels == "mean":
            return self.decode(indices)
        with evaluating(self):
            return self.pixels.sample(self._planes(indices), generator)

    def draw_codes(self, n: int, labels: Tensor | None, generator: torch.Generator) -> Tensor:
        """Draw codes, int64 (n, h, w), from the prior that is there."""
        prior = self.prior()
        if prior is None:
            drawn = torch.multinomial(self._log_shares().exp(), n, replacement=True, generator=generator)
            return drawn.T.reshape(n, *self.grid)
        with evaluating(prior):
            drawn = prior.sample(n, labels if prior.conditional else None, generator=generator)
        return drawn[:, 0].to(torch.int64)

    # --- how it stands --------------------------------------------------------------------------------------------

    def diagnostics(self, batch: Batch) -> dict[str, Tensor]:
        r"""Return the two parts of each image's bound, nats (B,): ``reconstruction``, :math:`-\log p(x \mid e_{c(x)})`,
        and ``code_cost``, :math:`-\log p(c(x))` by the histograms."""
        with evaluating(self):
            quantized = self.quantize(self.encode_to_map(batch.levels))
            return {
                "reconstruction": -self.log_conditional(batch.levels, quantized.values),
                "code_cost": -self.code_likelihood(quantized.indices, batch.labels).nats,
            }

    def take_in(self, batch: Batch) -> None:
        quantized = self.quantize(self.encode_to_map(batch.levels))
        uses = torch.bincount(quantized.indices.flatten(), minlength=self.quantizer.codes)
        self._uses = uses if self._uses is None else self._uses + uses
        self._nats += float(self.log_conditional(batch.levels, quantized.values).double().sum())
        self._images += len(batch.levels)

    def own_figures(self) -> tuple[dict[str, float], dict[str, bool]]:
        """Return what reconstructions cost, codes left out, and how evenly and how many codes are in use."""
        none = torch.zeros(self.quantizer.codes, dtype=torch.int64, device=self.device)
        sums = torch.tensor([self._nats, self._images], dtype=torch.float64, device=self.device)
        total = self.mean_over_ranks(torch.cat([none if self._uses is None else self._uses, sums]))
        uses, (nats, images) = total[:-2], total[-2:]
        self._uses, self._nats, self._images = None, 0.0, 0
        figures = {
            "reconstruction_bpd": float(bits_per_dimension(nats / images, self.spec)),
            "perplexity": float(perplexity(uses)),
            "used_codes": float((uses > 0).sum()),
        }
        return figures, {"reconstruction_bpd": False}


def fingerprint_of_codes(checkpoint: dict[str, Any], path: str) -> str:
    """Return by which weights the codes were encoded that a checkpoint's model was fitted to.

    Raises:
        InputError: where its data were no codes.
    """
    data = checkpoint[CHECKPOINT_KEY]["data"] or {}
    source = data.get("init_args", {}).get("source", {})
    found = source.get("init_args", {}).get("fingerprint_of_codes") if isinstance(source, dict) else None
    if found is None:
        raise InputError(
            f"sampler.prior: {path} was not fitted to codes: fit a model with data.source lightning_gen.models.Codes"
        )
    return found
