"""Every objective can be written into a checkpoint as plain data, and made again from it."""

import json

from lightning_gen.core.descriptions import build, describe
from lightning_gen.objectives import (
    ADA,
    DRAGAN,
    ELBO,
    IWAE,
    R1,
    R2,
    WGANGP,
    AdversarialLoss,
    AuxiliaryClassifier,
    BetaTCVAE,
    Consistency,
    CriticAugmentation,
    DiffAugment,
    DReG,
    GeneratorPenalty,
    Hinge,
    InfoVAE,
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
    VariationalObjective,
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
    (ELBO(beta=2.0, capacity=5.0, capacity_images=100), VariationalObjective),
    (BetaTCVAE(gamma=0.5, warmup=10), VariationalObjective),
    (InfoVAE(alpha=0.5, scale=3.0), VariationalObjective),
    (IWAE(samples=3), VariationalObjective),
    (DReG(samples=3), VariationalObjective),
]


def test_every_objective_is_made_again_from_its_description():
    for objective, expected in OBJECTIVES:
        description = json.loads(json.dumps(describe(objective)))
        again = build(description, expected)
        assert type(again) is type(objective)
        assert describe(again) == description
