"""Differentiable augmentations of the critic's input, against overfitting on small data sets."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_gen.core import (
    Draws,
    ImageSpec,
    InputError,
    Ranks,
    TrainingContext,
    at_least_float32,
    check,
    check_positive,
    check_within,
)


class CriticAugmentation(nn.Module, ABC):
    """A random transformation T of all images, real and generated, before the critic scores them.

    T must be differentiable in the images, since the generator's gradient passes through it (once suffices: gradient
    penalties are taken with respect to T(x)). All state is in buffers, which are only modified in place.
    """

    @abstractmethod
    def forward(self, images: Tensor, draws: Draws) -> Tensor:
        """Return transformed unit images (B, C, H, W), of the same shape and dtype.

        All random numbers come from ``draws``, in an order that does not depend on the images: with equal draws, image
        i of two batches is transformed in the same way.
        """

    def observe(self, realness: Tensor, ranks: Ranks) -> dict[str, Tensor]:
        """Update the state after a critic step, and return figures to log.

        Args:
            realness: :meth:`AdversarialLoss.realness` (B,) of this rank, detached.
            ranks: the distributed processes.
        """
        return {}

    def check(self, spec: ImageSpec) -> None:
        """Raise InputError if this cannot be applied to images of ``spec``."""


def augmenter(
    augmentation: CriticAugmentation | None, context: TrainingContext, purpose: str
) -> Callable[[Tensor], Tensor]:
    """Return an augmentation of images (B, C, H, W) with fixed random numbers: the same for image i of every batch."""
    if augmentation is None:
        return lambda images: images
    return lambda images: augmentation(images, context.draws(purpose, len(images)))


def check_names(owner: object, argument: str, names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return ``names`` as a tuple.

    Raises:
        InputError: for none, an unknown or a repeated name.
    """
    among = ", ".join(known)
    check(owner, argument, names, bool(names) and not isinstance(names, str), f"a list of some of {among}")
    for name in names:
        check(owner, argument, name, name in known, f"among {among}")
    check(owner, argument, list(names), len(set(names)) == len(names), "without repetitions")
    return tuple(names)


class DiffAugment(CriticAugmentation):
    r"""Differentiable augmentation, applied to every image (DiffAugment, Zhao et al. 2020).

    In the order of ``policy``, with independent u uniform on [0, 1) per image and operation:

    - ``colour``: brightness, :math:`x + b (2u - 1)`; then saturation, which scales the difference from the mean over
      channels by :math:`1 + s (2u - 1)` (no effect on grey images); then contrast, which scales the difference from the
      image's mean by :math:`1 + c (2u - 1)`.
    - ``translation``: by whole pixels, uniform on :math:`\{-r, ..., r\}` along height and width, where r is the rounded
      fraction of the height or width; uncovered pixels are filled.
    - ``cutout``: a rectangle with the given fraction of height and width, centred anywhere in the image, is filled.

    Values are not clamped to [-1, 1].

    Args:
        policy: which of ``colour``, ``translation``, ``cutout``.
        brightness: b, in units of unit images.
        saturation: s, in [0, 1].
        contrast: c, in [0, 1].
        translation: largest shift as a fraction of height and width, above 0 and below 1.
        cutout: size of the rectangle as a fraction of height and width, above 0 and below 1.
        fill: unit value of filled pixels. 0, as in the authors' code, is mid-grey; -1 is the background of images of
            digits.

    Raises:
        InputError: for an unknown name or a number outside its range.
    """

    def __init__(
        self,
        policy: Sequence[str] = ("colour", "translation", "cutout"),
        brightness: float = 0.5,
        saturation: float = 1.0,
        contrast: float = 0.5,
        translation: float = 0.125,
        cutout: float = 0.5,
        fill: float = 0.0,
    ):
        super().__init__()
        self.policy = check_names(self, "policy", policy, ("colour", "translation", "cutout"))
        check_within(self, "[0, 2]", brightness=brightness)
        check_within(self, "[0, 1]", saturation=saturation, contrast=contrast)
        check_within(self, "[-1, 1]", fill=fill)
        for name, value in (("translation", translation), ("cutout", cutout)):
            check(self, name, value, 0 < value < 1, "a share of the side above 0 and below 1")
        self.brightness = brightness
        self.saturation = saturation
        self.contrast = contrast
        self.translation = translation
        self.cutout = cutout
        self.fill = fill

    def check(self, spec: ImageSpec) -> None:
        """Raise InputError if a shift or rectangle would be smaller than one pixel on images of ``spec``."""
        for name in {"translation", "cutout"}.intersection(self.policy):
            if not any(pixels(getattr(self, name), side) for side in (spec.height, spec.width)):
                raise InputError(
                    f"DiffAugment: {name} {getattr(self, name)} is less than a pixel of {spec.height}x{spec.width} "
                    "images: raise it, or leave it out of policy"
                )

    def forward(self, images: Tensor, draws: Draws) -> Tensor:
        steps = {"colour": self.change_colour, "translation": self.move, "cutout": self.cut_out}
        for name in self.policy:
            images = steps[name](images, draws)
        return images

    def change_colour(self, images: Tensor, draws: Draws) -> Tensor:
        numbers = draws.uniform(3).to(images.dtype).mul(2).sub(1)
        brightness, saturation, contrast = numbers.view(-1, 3, 1, 1, 1).unbind(1)
        images = images + self.brightness * brightness
        if images.shape[1] > 1:
            grey = images.mean(1, keepdim=True)
            images = grey + (1 + self.saturation * saturation) * (images - grey)
        mean = images.mean((1, 2, 3), keepdim=True)
        return mean + (1 + self.contrast * contrast) * (images - mean)

    def move(self, images: Tensor, draws: Draws) -> Tensor:
        numbers = draws.uniform(2).unbind(1)
        for dim, number in zip((2, 3), numbers, strict=True):
            side = images.shape[dim]
            most = pixels(self.translation, side)
            shift = number.mul(2 * most + 1).long() - most
            source = torch.arange(side, device=images.device) - shift[:, None]  # (B, side)
            shape = [len(images), 1, 1, 1]
            shape[dim] = side
            source = source.view(shape)
            moved = images.gather(dim, source.clamp(0, side - 1).expand_as(images))
            images = torch.where((source >= 0) & (source < side), moved, self.fill)
        return images

    def cut_out(self, images: Tensor, draws: Draws) -> Tensor:
        hole = torch.ones((), dtype=torch.bool, device=images.device)
        for dim, number in zip((2, 3), draws.uniform(2).unbind(1), strict=True):
            side = images.shape[dim]
            size = pixels(self.cutout, side)
            centre = number.mul(side + (1 - size % 2)).long()
            place = torch.arange(side, device=images.device) - centre[:, None] + size // 2
            shape = [len(images), 1, 1, 1]
            shape[dim] = side
            hole = hole & ((place >= 0) & (place < size)).view(shape)
        return torch.where(hole, self.fill, images)


def pixels(share: float, side: int) -> int:
    """Return a fraction of a height or width in whole pixels, rounding halves up."""
    return int(share * side + 0.5)


GEOMETRY = ("flip", "rotate90", "translate", "scale", "rotate", "stretch", "shift")
COLOUR = ("brightness", "contrast", "luma_flip", "hue", "saturation")


class ADA(CriticAugmentation):
    r"""Adaptive discriminator augmentation (ADA): its strength follows the critic's overfitting (Karras et al. 2020).

    Each operation is applied to each image independently with probability p, in this order (u uniform on [-1, 1), n
    standard normal):

    - ``flip``: horizontally with probability 1/2; ``rotate90``: by a random multiple of 90 degrees; ``translate``: by
      :math:`u / 8` of width and height, in whole pixels;
    - ``scale``: by :math:`2^{0.2 n}`; ``rotate``: by :math:`\pi u`, before and after ``stretch``, each with
      probability :math:`1 - \sqrt{1 - p}`; ``stretch``: the width by :math:`2^{0.2 n}`, the height by its inverse;
      ``shift``: by :math:`n / 8` of width and height;
    - ``brightness``: :math:`x + 0.2 n`; ``contrast``: :math:`2^{0.5 n} x`; ``luma_flip``: negate the mean of the
      channels with probability 1/2; ``hue``: rotate colours by :math:`\pi u` about the grey axis; ``saturation``: scale
      the difference from grey by :math:`2^n`. The last two have no effect on grey images.

    These are the paper's "bgc" set, of which ``operations`` is a subset: flips and rotations are unsuitable for digits,
    and augmentations that the generator can imitate "leak" into samples as p approaches 1.

    p starts at ``initial``, and after every ``interval`` critic steps, with b real images in total, is updated by

    .. math:: p \leftarrow \mathrm{clip}(p + \mathrm{sign}(r_t - \mathrm{target}) \, b / \mathrm{adjust\_images}),
        \qquad r_t = \overline{\mathrm{sign}(\mathrm{realness})}

    with the mean over those steps and all ranks. :math:`r_t` is near 0 for a critic that cannot distinguish the images,
    and 1 for one that recognises every real image.

    All geometric operations of an image are composed to one affine map, applied by bilinear interpolation with
    reflection at the borders. The paper adds wavelet filters, which reduce both aliasing and blur; on small images,
    results are somewhat softer here. Images that are not transformed are returned bit for bit. On CUDA the gradient of
    grid_sample is not deterministic, so runs with geometric operations are reproducible only up to rounding.

    Args:
        target: target of r_t; None keeps p at ``initial``.
        adjust_images: real images over which p can change from 0 to 1 (the paper: 500,000; small data need fewer).
        interval: critic steps between updates of p.
        initial: initial p.
        maximum: largest p; leaks become likely above 0.8.
        operations: names of the operations in use, in any order.

    Raises:
        InputError: for an unknown operation or a number outside its range.
    """

    def __init__(
        self,
        target: float | None = 0.6,
        adjust_images: int = 500_000,
        interval: int = 4,
        initial: float = 0.0,
        maximum: float = 1.0,
        operations: Sequence[str] = GEOMETRY + COLOUR,
    ):
        super().__init__()
        self.operations = check_names(self, "operations", operations, GEOMETRY + COLOUR)
        check(self, "target", target, target is None or -1 <= target <= 1, "in [-1, 1] (or null)")
        check_positive(self, adjust_images=adjust_images, interval=interval)
        check(self, "maximum", maximum, 0 <= maximum <= 1, "a probability between 0 and 1")
        check(self, "initial", initial, 0 <= initial <= maximum, f"between 0 and maximum ({maximum})")
        self.target = target
        self.adjust_images = adjust_images
        self.interval = interval
        self.initial = initial
        self.maximum = maximum
        self.register_buffer("p", torch.tensor(float(initial)))
        self.register_buffer("signs", torch.tensor(0.0))  # sum over the steps since the last update
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("images", torch.tensor(0))

    def check(self, spec: ImageSpec) -> None:
        """Raise InputError for colour operations on images that are neither grey nor RGB."""
        colour = [name for name in self.operations if name in COLOUR]
        if colour and spec.channels not in (1, 3):
            raise InputError(
                f"ADA: colour operations ({', '.join(colour)}) need 1 or 3 channels, got {spec.channels}: "
                "leave them out of operations"
            )

    @torch.no_grad()
    def observe(self, realness: Tensor, ranks: Ranks) -> dict[str, Tensor]:
        if self.target is not None:
            self.move(realness, ranks)
        return {"augmentation_strength": self.p.clone()}  # the buffer is modified in place

    def move(self, realness: Tensor, ranks: Ranks) -> None:
        """Accumulate the signs of realness, and update p if an interval is over."""
        self.signs += ranks.mean(realness.float().sign().mean())
        self.steps += 1
        self.images += len(realness) * ranks.count
        # On the device, without a branch: reading ``due`` would synchronise the host at every step.
        due = self.steps == self.interval
        move = (self.signs / self.steps - self.target).sign() * self.images / self.adjust_images
        self.p.copy_(torch.where(due, (self.p + move).clamp(0, self.maximum), self.p))
        for total in (self.signs, self.steps, self.images):
            total.mul_(~due)

    def forward(self, images: Tensor, draws: Draws) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            # All numbers at once, used or not: two copies to the device instead of twenty.
            uniform, normal = iter(draws.uniform(21).unbind(1)), iter(draws.normal(7).unbind(1))
            changed = at_least_float32(images)
            changed = self.change_geometry(changed, uniform, normal)
            changed = self.change_colour(changed, uniform, normal)
        return changed.to(images.dtype)

    def choose(self, name: str, chance: Tensor, value: Tensor, neutral: float, p: Tensor | None = None) -> Tensor:
        """Return ``value`` (B,) where a uniform ``chance`` is below p and the operation is in use, else ``neutral``."""
        if name not in self.operations:
            return torch.full_like(value, neutral)
        return torch.where(chance < (self.p if p is None else p), value, neutral)

    def change_geometry(self, images: Tensor, uniform: Iterator[Tensor], normal: Iterator[Tensor]) -> Tensor:
        choose = self.choose
        height, width = images.shape[2:]
        once = 1 - (1 - self.p).sqrt()
        mirror = choose("flip", next(uniform), random_sign(next(uniform)), 1)
        quarters = choose("rotate90", next(uniform), next(uniform).mul(4).floor(), 0)
        chance = next(uniform)
        right = choose("translate", chance, symmetric(next(uniform)).mul(width / 8).round(), 0)
        down = choose("translate", chance, symmetric(next(uniform)).mul(height / 8).round(), 0)
        size = choose("scale", next(uniform), torch.exp2(0.2 * next(normal)), 1)
        first = choose("rotate", next(uniform), math.pi * symmetric(next(uniform)), 0, once)
        stretch = choose("stretch", next(uniform), torch.exp2(0.2 * next(normal)), 1)
        second = choose("rotate", next(uniform), math.pi * symmetric(next(uniform)), 0, once)
        chance = next(uniform)
        further_right = choose("shift", chance, next(normal) * (width / 8), 0)
        further_down = choose("shift", chance, next(normal) * (height / 8), 0)
        if set(GEOMETRY).isdisjoint(self.operations):
            return images
        # Each factor is the inverse of its operation, in the order of application.
        inverse = (
            scaling(mirror, torch.ones_like(mirror))
            @ rotation(-math.pi / 2 * quarters)
            @ translation(-right, -down)
            @ scaling(1 / size, 1 / size)
            @ rotation(-first)
            @ scaling(1 / stretch, stretch)
            @ rotation(-second)
            @ translation(-further_right, -further_down)
        )
        moved = (inverse != torch.eye(3, device=inverse.device)).flatten(1).any(1)
        return torch.where(moved.view(-1, 1, 1, 1), warp(images, inverse), images)

    def change_colour(self, images: Tensor, uniform: Iterator[Tensor], normal: Iterator[Tensor]) -> Tensor:
        choose, dtype = self.choose, images.dtype
        brightness = choose("brightness", next(uniform), 0.2 * next(normal), 0)
        contrast = choose("contrast", next(uniform), torch.exp2(0.5 * next(normal)), 1)
        mirror = choose("luma_flip", next(uniform), random_sign(next(uniform)), 1)
        hue = choose("hue", next(uniform), math.pi * symmetric(next(uniform)), 0)
        saturation = choose("saturation", next(uniform), torch.exp2(next(normal)), 1)
        if set(COLOUR).isdisjoint(self.operations):
            return images
        scale = (contrast * mirror).to(dtype).view(-1, 1, 1, 1)
        offset = (contrast * mirror * brightness).to(dtype).view(-1, 1, 1, 1)
        if images.shape[1] == 1:
            return scale * images + offset  # exact for scale 1 and offset 0
        # Each operation scales and shifts grey, and scales or rotates the rest, so the last four commute.
        grey = images.mean(1, keepdim=True)
        rest = images - grey
        across = (rest.roll(1, 1) - rest.roll(-1, 1)) / math.sqrt(3)  # cross product with the unit vector of grey
        cosine, sine = ((contrast * saturation * f(hue)).to(dtype).view(-1, 1, 1, 1) for f in (torch.cos, torch.sin))
        changed = (brightness != 0) | (contrast != 1) | (mirror != 1) | (hue != 0) | (saturation != 1)
        return torch.where(changed.view(-1, 1, 1, 1), scale * grey + offset + cosine * rest + sine * across, images)


def symmetric(uniform: Tensor) -> Tensor:
    """Map [0, 1) to [-1, 1)."""
    return 2 * uniform - 1


def random_sign(uniform: Tensor) -> Tensor:
    """Map [0, 1/2) to 1 and [1/2, 1) to -1."""
    return 1 - 2 * uniform.mul(2).floor()


def matrices(*entries: Tensor) -> Tensor:
    """Return (B, 3, 3) from the nine entries (B,), row by row."""
    return torch.stack(entries, 1).unflatten(1, (3, 3))


def scaling(right: Tensor, down: Tensor) -> Tensor:
    zero, one = torch.zeros_like(right), torch.ones_like(right)
    return matrices(right, zero, zero, zero, down, zero, zero, zero, one)


def rotation(angle: Tensor) -> Tensor:
    zero, one, cosine, sine = torch.zeros_like(angle), torch.ones_like(angle), angle.cos(), angle.sin()
    return matrices(cosine, -sine, zero, sine, cosine, zero, zero, zero, one)


def translation(right: Tensor, down: Tensor) -> Tensor:
    zero, one = torch.zeros_like(right), torch.ones_like(right)
    return matrices(one, zero, right, zero, one, down, zero, zero, one)


def warp(images: Tensor, inverse: Tensor) -> Tensor:
    """Return images (B, C, H, W) whose pixel x is the bilinear interpolation of the input at ``inverse`` x.

    Args:
        images: images (B, C, H, W), extended by reflection at their borders.
        inverse: affine maps (B, 3, 3) of homogeneous coordinates (right, down, 1) in pixels from the centre.
    """
    height, width = images.shape[2:]
    inverse = in_half_sides(inverse, height, width).to(images.dtype)
    grid = F.affine_grid(inverse[:, :2], list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def in_half_sides(maps: Tensor, height: int, width: int) -> Tensor:
    """Convert maps (B, 3, 3) from pixel coordinates about the centre to torch's coordinates in [-1, 1]."""
    a, b, right, c, d, down, *last = maps.flatten(1).unbind(1)
    return matrices(a, b * (height / width), right * (2 / width), c * (width / height), d, down * (2 / height), *last)
