"""Hidden Markov models of images that are read row by row, or pixel by pixel."""

from functools import partial
from typing import Literal

from lightning_gen.bijections import UniformDequantizer
from lightning_gen.core import ImageSpec, check_choice
from lightning_gen.distributions import CategoricalComponents, Components, DiagonalGaussianComponents
from lightning_gen.distributions.hidden_markov import HiddenMarkov, Scan
from lightning_gen.models.classical.base import ClassicalModel


class CategoricalEmission:
    """What a state emits: independent categoricals over levels.

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
    """What a state emits: independent Gaussians of dequantized levels, as :class:`GaussianMixture` sees them.

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
    """Hidden Markov model of an image that is read in steps, see :class:`~lightning_gen.distributions.HiddenMarkov`.

    Args:
        spec: the images.
        states: S, for each class where conditional.
        scan: what one step is: a row of the image, or a pixel in raster order.
        emission: what states emit; categoricals if not given.
        homogeneous: whether steps share their parameters.
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
