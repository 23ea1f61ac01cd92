"""Drawing grids of codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from lightning_gen.errors import InputError


class CodeSampler:
    r"""How a model of quantized codes draws: :math:`c \sim p(c)`, then pixels given the codes' values.

    Args:
        prior: checkpoint of a model that was fitted to the codes (:class:`lightning_gen.models.Codes`); None for codes
            that are independent of each other, each by its place's histogram over training.
        pixels: "sample" draws pixels from their distribution, as the model's p(x) has it; "mean" takes their expected
            values, which are smoother than p(x).
        trust: further packages from which the prior's classes may be built.

    Raises:
        InputError: for other pixels.
    """

    def __init__(
        self,
        prior: str | None = None,
        pixels: Literal["sample", "mean"] = "sample",
        trust: Sequence[str] = (),
    ):
        if pixels not in ("sample", "mean"):
            raise InputError(f"sampler.pixels must be sample or mean, got {pixels!r}")
        self.prior = prior
        self.pixels = pixels
        self.trust = tuple(trust)
