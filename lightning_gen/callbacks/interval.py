"""Intervals counted in images."""

from __future__ import annotations

from lightning_gen.errors import InputError


class Interval:
    """Tells when a multiple of ``every`` images was passed by the last step.

    Raises:
        InputError: naming ``name`` for an interval below 1.
    """

    def __init__(self, every: int, name: str):
        if every < 1:
            raise InputError(f"{name} must be at least 1 image, got {every}")
        self.every = every
        self._last = 0

    def start(self, images_seen: int) -> None:
        """Begin counting at ``images_seen``."""
        self._last = images_seen

    def passed(self, images_seen: int) -> bool:
        """Whether a multiple of the interval lies in (images at the last call, ``images_seen``]."""
        passed = images_seen // self.every > self._last // self.every
        self._last = images_seen
        return passed
