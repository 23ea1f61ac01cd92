"""Spectral norms of a network's weights, for diagnostics."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def largest_singular_value(matrix: Tensor) -> float:
    """Return the largest singular value of a matrix, from the eigenvalues of its Gram matrix in float64."""
    matrix = matrix.detach().double()
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    return float(torch.linalg.eigvalsh(matrix @ matrix.T)[-1].clamp(min=0).sqrt())


def applied_weight(module: nn.Module, name: str) -> Tensor:
    """Return a module's effective weight: layers that scale theirs have a method ``applied_weight``."""
    scaled = getattr(module, "applied_weight", None)
    return scaled() if name == "weight" and callable(scaled) else getattr(module, name)


def spectral_norms(network: nn.Module) -> dict[str, float]:
    r"""Return the spectral norm :math:`\sigma(W) = \max_{\|h\| = 1} \|W h\|` of each effective weight of a network.

    A weight of more than two dimensions is reshaped to a matrix (outputs, rest), as in Miyato et al. (2018); for a
    convolution this is not the norm of the linear map. Vectors (biases, gains) and parameters not named ``weight``,
    such as the constant of StyleGAN2, are excluded. Weights under spectral normalisation are taken normalised, without
    a step of their power iteration; those of equalised learning rate are taken scaled.

    Args:
        network: any network, in any mode.

    Returns:
        The norms by the weights' names, such as ``net.0.weight``.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()  # in training mode, reading a normalised weight takes a step of its power iteration
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
