"""Sweep files in W&B's syntax: reading them, their distributions, and the command lines of their runs."""
