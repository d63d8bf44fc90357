"""Descriptors of photos of earlier batches, to compare the photos of this one with (Wang et al., CVPR 2020)."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Kernels:
    """What match kernels are computed of.

    Attributes:
        vectors: N×P×D, normalised.
        weights: N×P, of sum 1.
        norms: N, the kernel of each photo with itself.
        identity: N int64, what each photo shows.
    """

    vectors: Tensor
    weights: Tensor
    norms: Tensor
    identity: Tensor

    def rows(self, which: slice) -> "Kernels":
        """Return some of the photos."""
        return Kernels(**{field.name: getattr(self, field.name)[which] for field in fields(self)})

    def detached(self) -> "Kernels":
        """Return copies that no gradient flows into."""
        return Kernels(**{field.name: getattr(self, field.name).detach().clone() for field in fields(self)})

    @classmethod
    def joined(cls, parts: Iterable["Kernels"]) -> "Kernels":
        """Return the photos of all parts, in their order."""
        parts = list(parts)
        return cls(**{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)})


def kernels_of(vectors: Tensor, weights: Tensor, positions: int, identity: Tensor) -> Kernels:
    """Return the kernels' parts of the first positions of N×P×D descriptors, strongest first, and N×P weights."""
    x, w = vectors[:, :positions], weights[:, :positions]
    w = w / w.sum(dim=1, keepdim=True)
    norms = (_selective(x @ x.transpose(1, 2)) * w[:, None] * w[:, :, None]).sum(dim=(1, 2))
    return Kernels(vectors=x, weights=w, norms=norms, identity=identity)


def match_with(one: Kernels, other: Kernels) -> Tensor:
    """Return the normalised kernel of every photo of one with every one of the other, N×M."""
    (n, p), (m, q) = one.weights.shape, other.weights.shape
    cubes = _selective(one.vectors.reshape(n * p, -1) @ other.vectors.reshape(m * q, -1).T)
    sums = torch.einsum("npmq,np,mq->nm", cubes.reshape(n, p, m, q), one.weights, other.weights)
    return sums / (one.norms[:, None] * other.norms[None]).sqrt()


def matched_pairs(one: Kernels, other: Kernels) -> Tensor:
    """Return the normalised kernel of each photo of one with the same row of the other, N."""
    cubes = _selective(one.vectors @ other.vectors.transpose(1, 2))
    return torch.einsum("npq,np,nq->n", cubes, one.weights, other.weights) / (one.norms * other.norms).sqrt()


def _selective(cosines: Tensor) -> Tensor:
    return torch.relu(cosines) ** 3
