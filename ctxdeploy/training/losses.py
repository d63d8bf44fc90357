"""Losses on descriptors; each returns one number."""

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(similarity: Tensor, related: Tensor, temperature: float) -> Tensor:
    """Cross entropy of rows and columns of a square matrix whose diagonal holds the pairs (van den Oord et al., 2018).

    Args:
        similarity: N×N.
        related: N×N bool, pairs off the diagonal that are not to be told apart.
        temperature: similarities are divided by it.
    """
    ignored = related & ~torch.eye(len(similarity), dtype=torch.bool, device=related.device)
    logits = (similarity / temperature).masked_fill(ignored, float("-inf"))
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def contrastive(queries: Tensor, positives: Tensor, negatives: Tensor, margin: float) -> Tensor:
    """Half the squared distance to positives, half the square of what negatives lack of the margin; mean over queries.

    Args:
        queries: T×D, normalised.
        positives: T×D.
        negatives: T×N×D.
        margin: distance from which on negatives cost nothing.
    """
    near = (queries - positives).square().sum(dim=1)
    distance = ((queries[:, None] - negatives).square().sum(dim=2) + 1e-12).sqrt()
    return 0.5 * (near + torch.relu(margin - distance).square().sum(dim=1)).mean()


def aggregated(vectors: Tensor, attention: Tensor) -> Tensor:
    """Return the normalised sum of the descriptors weighted by their attention, B×D from B×D×H×W and B×H×W."""
    return F.normalize((vectors * attention[:, None]).sum(dim=(2, 3)), dim=1)


def strongest(vectors: Tensor, attention: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return normalised descriptors B×M×D and weights B×M, of sum 1, of the M positions with the largest attention.

    Args:
        vectors: B×D×H×W.
        attention: B×H×W.
        count: M, or fewer where there are fewer positions.
    """
    weights, index = attention.flatten(1).topk(min(count, attention[0].numel()), dim=1)
    chosen = vectors.flatten(2).transpose(1, 2).gather(1, index[..., None].expand(-1, -1, vectors.shape[1]))
    return F.normalize(chosen, dim=2), weights / weights.sum(dim=1, keepdim=True)


def match_kernel(x: Tensor, x_weights: Tensor, y: Tensor, y_weights: Tensor) -> Tensor:
    """Return the selective match kernel of every photo with every other, normalised by both with themselves, N×M.

    The sum over all pairs of descriptors of their cosine cubed if positive: what ASMK does to the descriptors of one
    word (Tolias, Avrithis, Jegou, IJCV 2016), without words.

    Args:
        x: N×P×D, normalised.
        x_weights: N×P.
        y: M×P×D, normalised.
        y_weights: M×P.
    """
    (n, positions), m = x_weights.shape, len(y)
    cubes = _selective(x.reshape(n * positions, -1) @ y.reshape(m * positions, -1).T)
    per_photo = (cubes.reshape(n, positions, m, positions) * y_weights).sum(dim=3)
    sums = (per_photo * x_weights[:, :, None]).sum(dim=1)
    return sums / (_self_kernel(x, x_weights)[:, None] * _self_kernel(y, y_weights)[None]).sqrt()


def _self_kernel(x: Tensor, weights: Tensor) -> Tensor:
    """Return the unnormalised kernel of each photo with itself, N; positive."""
    return (_selective(x @ x.transpose(1, 2)) * weights[:, None] * weights[:, :, None]).sum(dim=(1, 2))


def _selective(cosines: Tensor) -> Tensor:
    return torch.relu(cosines) ** 3
