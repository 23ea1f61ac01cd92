"""Every objective can be written into a checkpoint as plain data, and made again from it."""

import json

import pytest

from lightning_gen.describe import build, describe
from lightning_gen.objectives import (
    ADA,
    DRAGAN,
    R1,
    R2,
    WGANGP,
    AdversarialLoss,
    AuxiliaryClassifier,
    Consistency,
    CriticAugmentation,
    DiffAugment,
    GeneratorPenalty,
    Hinge,
    LeastSquares,
    LeCam,
    Minimax,
    NonSaturating,
    OrthogonalRegularisation,
    PathLength,
    Penalty,
    PixelComparison,
    Relativistic,
    RelativisticAverage,
    Wasserstein,
)

LOSSES = (
    Hinge,
    LeastSquares,
    Minimax,
    NonSaturating,
    PixelComparison,
    Relativistic,
    RelativisticAverage,
    Wasserstein,
)
OBJECTIVES = [
    *((cls(), AdversarialLoss) for cls in LOSSES),
    (R1(weight=0.5, every=4), Penalty),
    (R2(every=2), Penalty),
    (WGANGP(target=0.5), Penalty),
    (DRAGAN(std=0.1), Penalty),
    (LeCam(decay=0.9), Penalty),
    (Consistency(fake_weight=0.5), Penalty),
    (Consistency(augmentation=ADA(target=None, initial=0.4, operations=("scale", "shift"))), Penalty),
    (OrthogonalRegularisation(weight=0.1), Penalty),
    (OrthogonalRegularisation(weight=0.1), GeneratorPenalty),
    (PathLength(decay=0.5), GeneratorPenalty),
    (DiffAugment(policy=("cutout",), cutout=0.25, fill=-1.0), CriticAugmentation),
    (ADA(adjust_images=1000), CriticAugmentation),
    (AuxiliaryClassifier(fake_weight=0.0), AuxiliaryClassifier),
]


@pytest.mark.parametrize(("objective", "expected"), OBJECTIVES, ids=lambda value: type(value).__name__)
def test_round_trip(objective, expected):
    description = json.loads(json.dumps(describe(objective)))
    again = build(description, expected)
    assert type(again) is type(objective)
    assert describe(again) == description
