"""Evaluation: drawing, scoring, references and pictures, each a function on a model and images.

Callbacks and verbs are shells around these functions.
"""

from lightning_gen.evaluation.held_out import completions, interpolations, reconstructions
from lightning_gen.evaluation.likelihoods import choose_images, score_classes, score_likelihood, tensors
from lightning_gen.evaluation.pictures import grid_picture, neighbour_sheet, picture, pixel_grid, save_png, to_pixels
from lightning_gen.evaluation.references import check_data, check_enough, set_references
from lightning_gen.evaluation.samples import draw, draw_samples, sample_labels

__all__ = [
    "check_data",
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
