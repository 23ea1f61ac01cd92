"""``python -m lightning_gen``: the same as the console script."""

from lightning_gen.cli import main

if __name__ == "__main__":  # building classes by their path may import this module
    main()
