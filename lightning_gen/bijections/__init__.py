"""Invertible maps with log |det J|: what flows, flow priors and flow posteriors are made of."""

from lightning_gen.bijections.autoregressive import AffineAutoregressive
from lightning_gen.bijections.base import Bijection, Chain, Reverse
from lightning_gen.bijections.elementwise import ElementwiseAffine

__all__ = ["AffineAutoregressive", "Bijection", "Chain", "ElementwiseAffine", "Reverse"]
