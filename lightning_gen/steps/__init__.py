"""Mechanics of a training step: what is not finite is left out, several optimizers, means of figures, microseconds."""
