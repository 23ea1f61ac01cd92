"""Figures of generated images: pure functions, torchmetrics shells over them, and the suite that runs them at once."""

from lightning_gen.metrics.base import FeatureMetric, FeatureSet
from lightning_gen.metrics.controls import controls, floor, memoriser
from lightning_gen.metrics.coverage import ClassCoverage, ModeCoverage
from lightning_gen.metrics.disentanglement import mutual_information_gap, separated_attribute_predictability
from lightning_gen.metrics.diversity import Diversity, mean_pairwise_distance, vendi_score
from lightning_gen.metrics.extractors import (
    ClassifierExtractor,
    DigitsExtractor,
    Extractor,
    FashionMNISTExtractor,
    Features,
    InceptionExtractor,
    ModuleExtractor,
    TimmExtractor,
    TorchvisionExtractor,
    TransformersExtractor,
)
from lightning_gen.metrics.frechet import FrechetDistance, frechet_distance
from lightning_gen.metrics.inception_score import InceptionScore, inception_score
from lightning_gen.metrics.kernel import KernelDistance, kernel_distance
from lightning_gen.metrics.likelihood import BitsPerDimension, Calibration, bits_per_dimension
from lightning_gen.metrics.memorisation import CopyShare, CopyTest, copy_test, neighbour_picture, wilson_interval
from lightning_gen.metrics.patches import PatchExtractor, SlicedWasserstein, sliced_wasserstein
from lightning_gen.metrics.precision_recall import DensityCoverage, PrecisionRecall, density_coverage, precision_recall
from lightning_gen.metrics.suite import MetricSuite

__all__ = [
    "BitsPerDimension",
    "Calibration",
    "ClassCoverage",
    "ClassifierExtractor",
    "CopyShare",
    "CopyTest",
    "DensityCoverage",
    "DigitsExtractor",
    "Diversity",
    "Extractor",
    "FashionMNISTExtractor",
    "FeatureMetric",
    "FeatureSet",
    "Features",
    "FrechetDistance",
    "InceptionExtractor",
    "InceptionScore",
    "KernelDistance",
    "MetricSuite",
    "ModeCoverage",
    "ModuleExtractor",
    "PatchExtractor",
    "PrecisionRecall",
    "SlicedWasserstein",
    "TimmExtractor",
    "TorchvisionExtractor",
    "TransformersExtractor",
    "bits_per_dimension",
    "controls",
    "copy_test",
    "density_coverage",
    "floor",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "mean_pairwise_distance",
    "memoriser",
    "mutual_information_gap",
    "neighbour_picture",
    "precision_recall",
    "separated_attribute_predictability",
    "sliced_wasserstein",
    "vendi_score",
    "wilson_interval",
]
