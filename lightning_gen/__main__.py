"""``python -m lightning_gen``: the same as the console script."""

from lightning_gen.cli import main

main()
