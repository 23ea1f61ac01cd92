"""Evaluation mode, and checks of a network's output in it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_gen.core.errors import InputError


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put ``module`` into eval mode without gradients for a while; every submodule's mode is restored."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def check_output(
    owner: object, network: nn.Module, *inputs: Tensor | None, shape: tuple[int | None, ...], meaning: str
) -> Tensor:
    """Return a network's output for examples, in evaluation mode and without gradients.

    Args:
        owner: whose network it is, named in messages.
        network: the network.
        inputs: examples, of which there are two each.
        shape: that the result must have behind the first dimension; None for any length.
        meaning: what the result is, such as "one score for each image".

    Raises:
        InputError: for a network that cannot be called so, or whose result has another shape.
    """
    names = f"{type(owner).__name__}: {type(network).__name__}"
    with evaluating(network):
        try:
            found = network(*inputs)
        except (TypeError, RuntimeError) as error:
            shapes = ", ".join("labels" if x is None or x.ndim == 1 else str(tuple(x.shape)) for x in inputs)
            raise InputError(f"{names} cannot be called with {shapes}: {str(error).splitlines()[0]}") from error
    sizes = tuple(found.shape) if isinstance(found, torch.Tensor) else ()
    fits = len(sizes) == len(shape) + 1 and all(b in (None, a) for a, b in zip(sizes[1:], shape, strict=True))
    if not fits or sizes[0] != len(inputs[0]):  # type: ignore[arg-type]  # the first is no labels
        wanted = ", ".join(["B", *("any" if size is None else str(size) for size in shape)])
        raise InputError(f"{names} must give {meaning}, ({wanted}), and gave {sizes or type(found).__name__}")
    return found
