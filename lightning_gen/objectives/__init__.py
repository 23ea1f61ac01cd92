"""Pure losses: tensors in, per-sample tensors out."""

from lightning_gen.objectives.adversarial import AdversarialLoss, NonSaturating, Relativistic
from lightning_gen.objectives.penalties import R1, R2, Penalty

__all__ = ["R1", "R2", "AdversarialLoss", "NonSaturating", "Penalty", "Relativistic"]
