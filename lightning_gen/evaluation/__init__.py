"""Evaluation: drawing, scoring, references and pictures, each a function on a model and images.

Callbacks and verbs are shells around these functions.
"""

from lightning_gen.core import Figure
from lightning_gen.evaluation.costs import Allowance
from lightning_gen.evaluation.held_out import completions, interpolations, reconstructions
from lightning_gen.evaluation.likelihoods import Bits, bits_of, choose_images, score_classes, score_likelihood, tensors
from lightning_gen.evaluation.pictures import grid_picture, neighbour_sheet, picture, pixel_grid, save_png, to_pixels
from lightning_gen.evaluation.references import check_data, check_drawn_classes, check_enough, set_references
from lightning_gen.evaluation.samples import draw, draw_samples, sample_labels
from lightning_gen.metrics import likelihood

FIGURES = (
    *likelihood.FIGURES,
    Figure("accuracy", "share of labelled images recognised as what they are", higher=True, leads=True),
    Figure("margin_over_independent", "bits per dimension that the bound is better by than independent pixels"),
    Figure("spectral_norm", "largest singular value over a network's weights"),
)
"""What evaluation itself computes of a model, whichever its family is."""

__all__ = [
    "FIGURES",
    "Allowance",
    "Bits",
    "bits_of",
    "check_data",
    "check_drawn_classes",
    "check_enough",
    "choose_images",
    "completions",
    "draw",
    "draw_samples",
    "grid_picture",
    "interpolations",
    "neighbour_sheet",
    "picture",
    "pixel_grid",
    "reconstructions",
    "sample_labels",
    "save_png",
    "score_classes",
    "score_likelihood",
    "set_references",
    "tensors",
    "to_pixels",
]
