"""Second-order attention: every position of a map adds what it reads at all others (Ng et al., SOLAR, ECCV 2020)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxdeploy.export.networks.operators import emit_operator, is_exporting

# Rows of the N×N weights are computed in this many blocks, so that the matrix never exists as a whole: at 1448×1086
# pixels layer3 has 91×68 = 6,188 positions, whose matrix takes 153 MB, a block of it 9.6 MB.
ROW_BLOCKS = 16


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax(query · keyᵀ) · value, block by block of the query's rows; each row is a softmax of its own.

    Args:
        query: B×N×M, divided by √M.
        key: B×N×M.
        value: B×N×M.

    Returns:
        B×N×M.
    """
    batch, n, width = query.shape
    size = (n + ROW_BLOCKS - 1) // ROW_BLOCKS
    padded = F.pad(query, (0, 0, 0, ROW_BLOCKS * size - n)).reshape(batch, ROW_BLOCKS, size, width)
    transposed = key.transpose(1, 2)
    blocks = [torch.softmax(rows @ transposed, dim=2) @ value for rows in padded.unbind(1)]
    return torch.cat(blocks, dim=1)[:, :n]


class SecondOrderAttention(nn.Module):
    """B×C×H×W to the same shape: x + v(softmax(f(x)ᵀ g(x) / √M) h(x)), with SOLAR's names of its tensors.

    Args:
        channels: C.
        width: M, the channels in which positions are compared.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.f = _compared(channels, width)
        self.g = _compared(channels, width)
        self.h = nn.Conv2d(channels, width, 1)
        self.v = nn.Conv2d(width, channels, 1)
        self.scale = width**-0.5

    def forward(self, x: Tensor) -> Tensor:
        query, key = (self.f(x) * self.scale).flatten(2).transpose(1, 2), self.g(x).flatten(2).transpose(1, 2)
        value = self.h(x).flatten(2).transpose(1, 2)
        if is_exporting():
            read = emit_operator("SecondOrderAttention", (query, key, value), {}, like=query)
        else:
            read = attend(query, key, value)
        added: Tensor = self.v(read.transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:]))
        return x + added

    def fold(self) -> None:
        """Fold the batch normalisations into the convolutions before them, in place (evaluation mode)."""
        for branch in (self.f, self.g):
            if isinstance(branch[1], nn.BatchNorm2d) and isinstance(branch[0], nn.Conv2d):
                branch[0] = nn.utils.fuse_conv_bn_eval(branch[0], branch[1])
                branch[1] = nn.Identity()


def _compared(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 1), nn.BatchNorm2d(width), nn.ReLU())
