"""Invertible maps with log |det J|, and dequantization: the parts of normalising flows."""

from lightning_gen.bijections.autoregressive import AffineAutoregressive
from lightning_gen.bijections.base import Bijection, Chain, Reverse
from lightning_gen.bijections.dequantizers import Dequantizer, UniformDequantizer
from lightning_gen.bijections.elementwise import ElementwiseAffine

__all__ = [
    "AffineAutoregressive",
    "Bijection",
    "Chain",
    "Dequantizer",
    "ElementwiseAffine",
    "Reverse",
    "UniformDequantizer",
]
