"""PCA whitening with shrinkage of local features, the last layer of HOW and ctx: learned once, then frozen."""

import torch
from torch import Tensor, nn

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.export.networks import DenseNetwork

# Variances below this share of the largest count as this share: directions without variance are not blown up.
_LEAST_VARIANCE = 1e-10


def pca_whitening(vectors: Tensor, dim: int, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Return the projection ``dim``×C and bias ``dim`` that whiten vectors N×C, float32.

    With eigenvalues λ and eigenvectors e of the covariance, largest first, output i is
    λ_i^(-shrinkage/2) e_i·(x - mean): ``shrinkage`` 1 makes all variances 1, 0 only rotates (the exponent in HOW's
    whitening). Eigenvectors have their largest entry positive, so that equal vectors give equal signs.

    Raises:
        ConfigError: there are fewer than two vectors.
    """
    if len(vectors) < 2:
        raise ConfigError(f"whitening from {len(vectors)} vectors: give more photos")
    x = vectors.double()
    mean = x.mean(dim=0)
    covariance = (x - mean).T @ (x - mean) / len(x)
    values, vectors_ = torch.linalg.eigh(covariance)
    values, basis = values.flip(0)[:dim], vectors_.flip(1)[:, :dim]
    signs = torch.sign(basis.gather(0, basis.abs().argmax(dim=0, keepdim=True)))
    scale = values.clamp(min=float(values[0]) * _LEAST_VARIANCE + 1e-30) ** (-shrinkage / 2)
    projection = (basis * signs * scale).T
    return projection.float(), -(projection @ mean).float()


def set_whitening(network: DenseNetwork, projection: Tensor, bias: Tensor) -> None:
    """Make a projection the network's whitening and freeze it."""
    layer = network.dim_reduction
    if not isinstance(layer, nn.Conv2d) or layer.bias is None:
        raise ConfigError("the network has no whitening to set: give its configuration a dim")
    with torch.no_grad():
        layer.weight.copy_(projection[:, :, None, None])
        layer.bias.copy_(bias)
    layer.requires_grad_(False)
