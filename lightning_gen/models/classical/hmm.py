"""Hidden Markov models of images, over rows or over pixels in raster order."""

from functools import partial
from typing import Literal

from lightning_gen.bijections import UniformDequantizer
from lightning_gen.core import ImageSpec, check_choice
from lightning_gen.distributions import CategoricalComponents, Components, DiagonalGaussianComponents
from lightning_gen.distributions.hidden_markov import HiddenMarkov, Scan
from lightning_gen.models.classical.base import ClassicalModel


class CategoricalEmission:
    """Emission distribution of a state: independent categoricals over levels.

    Args:
        smoothing, shared, blur, blur_width, blur_ends: as in :class:`CategoricalMixture`.
    """

    dequantizer = None

    def __init__(
        self,
        smoothing: float = 1.0,
        shared: float = 0.0,
        blur: float = 0.0,
        blur_width: float = 1.0,
        blur_ends: float = 0.0,
    ):
        self.smoothing = smoothing
        self.shared = shared
        self.blur = blur
        self.blur_width = blur_width
        self.blur_ends = blur_ends

    def make(self, count: int, dims: int, levels: int) -> Components:
        """Return the emissions of ``count`` states, of ``dims`` pixels each."""
        return CategoricalComponents(
            count, dims, levels, self.smoothing, self.shared, self.blur, self.blur_width, self.blur_ends
        )


class GaussianEmission:
    """Emission distribution of a state: independent Gaussians of dequantized levels, as in :class:`GaussianMixture`.

    Args:
        prior_strength, prior_variance, dequantizer: as in :class:`GaussianMixture`.
    """

    def __init__(
        self,
        prior_strength: float = 10.0,
        prior_variance: float = 0.1,
        dequantizer: UniformDequantizer | None = None,
    ):
        self.prior_strength = prior_strength
        self.prior_variance = prior_variance
        self.dequantizer = dequantizer or UniformDequantizer()

    def make(self, count: int, dims: int, levels: int) -> Components:
        """Return the emissions of ``count`` states, of ``dims`` pixels each."""
        variance = self.dequantizer.variance
        return DiagonalGaussianComponents(
            count, dims, variance, self.prior_strength, self.prior_variance, variance=levels**2 * variance
        )


class HiddenMarkovModel(ClassicalModel):
    r"""Hidden Markov model of an image as a sequence of T steps, fitted by the Baum-Welch algorithm (Baum et al. 1970).

    .. math:: p(x) = \sum_{s_1, \dots, s_T} p(s_1)\, p(x_1 \mid s_1) \prod_{t=2}^T p(s_t \mid s_{t-1})\, p(x_t \mid s_t)

    See :class:`~lightning_gen.distributions.HiddenMarkov`.

    Args:
        spec: image format.
        states: number of hidden states S (per class if conditional).
        scan: one step is a row of the image, or a pixel in raster order.
        emission: emission distribution of the states; categorical if not given.
        homogeneous: whether all steps share their parameters.
        conditional, start_images, restarts, tolerance: as in :class:`ClassicalModel`.

    Raises:
        InputError: for numbers out of range; at the start of training for more states than images.
    """

    def __init__(
        self,
        spec: ImageSpec,
        states: int = 20,
        scan: Literal["rows", "pixels"] = "rows",
        emission: CategoricalEmission | GaussianEmission | None = None,
        homogeneous: bool = True,
        conditional: bool = False,
        start_images: int = 10_000,
        restarts: int = 1,
        tolerance: float = 1e-3,
    ):
        check_choice(self, ("rows", "pixels"), scan=scan)
        spec, emission = ImageSpec.of(spec), emission or CategoricalEmission()
        order = Scan(spec.shape, scan == "rows")
        make = partial(HiddenMarkov, partial(emission.make, levels=spec.levels), states, order, homogeneous)
        super().__init__(spec, make, emission.dequantizer, conditional, start_images, restarts, tolerance)
