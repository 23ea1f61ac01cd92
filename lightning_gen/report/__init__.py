"""One static page of many runs: read from their folders alone, opened from disk, without a server or network."""

from lightning_gen.report.build import Report

__all__ = ["Report"]
