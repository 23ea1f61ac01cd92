"""Intervals counted in images."""

from lightning_gen.core import check


class Interval:
    """Tells when a multiple of ``every`` images was passed by the last step.

    Raises:
        InputError: naming ``name`` for an interval below 1.
    """

    def __init__(self, every: int, name: str):
        check(*name.rsplit(".", 1), every, every >= 1, "at least 1 image")
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
