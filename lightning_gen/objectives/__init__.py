"""Pure losses: tensors in, per-sample tensors out."""

from lightning_gen.objectives.adversarial import (
    AdversarialLoss,
    Hinge,
    LeastSquares,
    Minimax,
    NonSaturating,
    PixelComparison,
    Relativistic,
    RelativisticAverage,
    Wasserstein,
)
from lightning_gen.objectives.augmentation import ADA, CriticAugmentation, DiffAugment
from lightning_gen.objectives.auxiliary import AuxiliaryClassifier
from lightning_gen.objectives.penalties import (
    DRAGAN,
    R1,
    R2,
    WGANGP,
    Consistency,
    CriticStep,
    GeneratorPenalty,
    GeneratorStep,
    LeCam,
    OrthogonalRegularisation,
    PathLength,
    Penalty,
    check_double_backward,
)

__all__ = [
    "ADA",
    "DRAGAN",
    "R1",
    "R2",
    "WGANGP",
    "AdversarialLoss",
    "AuxiliaryClassifier",
    "Consistency",
    "CriticAugmentation",
    "CriticStep",
    "DiffAugment",
    "GeneratorPenalty",
    "GeneratorStep",
    "Hinge",
    "LeCam",
    "LeastSquares",
    "Minimax",
    "NonSaturating",
    "OrthogonalRegularisation",
    "PathLength",
    "Penalty",
    "PixelComparison",
    "Relativistic",
    "RelativisticAverage",
    "Wasserstein",
    "check_double_backward",
]
