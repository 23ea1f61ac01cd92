"""Spectral norms of a network's weights, to be read while or after it trains."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def largest_singular_value(matrix: Tensor) -> float:
    """Return the largest singular value of a matrix, the root of its Gram matrix's largest eigenvalue, in float64."""
    matrix = matrix.detach().double()
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    return float(torch.linalg.eigvalsh(matrix @ matrix.T)[-1].clamp(min=0).sqrt())


def applied_weight(module: nn.Module, name: str) -> Tensor:
    """Return a module's weight as it is applied: layers that scale it have a method ``applied_weight``."""
    scaled = getattr(module, "applied_weight", None)
    return scaled() if name == "weight" and callable(scaled) else getattr(module, name)


def spectral_norms(network: nn.Module) -> dict[str, float]:
    r"""Return the spectral norm :math:`\sigma(W) = \max_{\|h\| = 1} \|W h\|` of each weight that a network applies.

    A weight of more than two dimensions counts as the matrix (outputs, all the rest), as in Miyato et al. (2018), so
    for a convolution it is not the norm of the linear map. Vectors (biases, gains of norms) are left out, and what
    is not called a weight, such as the constant map of StyleGAN2: nothing meets it. Weights under a spectral
    normalisation are seen normalised, and reading them leaves their power iteration where it is; those of equalised
    learning rate are seen scaled.

    Args:
        network: any network, in any mode.

    Returns:
        The norms by the weights' names, such as ``net.0.weight``.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()  # in training mode, reading a normalised weight moves its power iteration
    norms = {}
    try:
        with torch.no_grad():
            for path, module in network.named_modules():
                if isinstance(module, parametrize.ParametrizationList):
                    continue  # holds the weight before normalisation
                names = [name for name, _ in module.named_parameters(recurse=False)]
                if parametrize.is_parametrized(module):
                    names += list(module.parametrizations)
                for name in names:
                    weight = applied_weight(module, name)
                    if weight.ndim < 2 or not name.endswith("weight"):
                        continue
                    if isinstance(module, TRANSPOSED):
                        weight = weight.transpose(0, 1)
                    norms[f"{path}.{name}" if path else name] = largest_singular_value(weight.flatten(1))
    finally:
        for module, mode in modes:
            module.training = mode
    return norms
