"""EfficientNet-Lite trunks up to an expansion: exact TensorFlow padding, ReLU6, no squeeze-and-excite.

Written from "EfficientNet" (Tan and Le, ICML 2019), "MobileNetV2" (Sandler et al., CVPR 2018) and the published
description of the Lite variants. The last layer is the 1×1 expansion of a block, as wide as the network gets at its
stride; its depthwise convolution would halve the map.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxdeploy.export.networks.depthwise import LowPrecisionDepthwise, in_low_precision
from ctxdeploy.export.networks.lite import STEM, Lite, LiteBlock
from ctxdeploy.export.networks.operators import is_exporting

# TensorFlow's: PyTorch's own is 1e-5, and the weights were learned with this one.
_EPSILON = 1e-3


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's 'SAME': ⌈n/stride⌉ cells, and of an odd number of zeros one more at the end.

    In a graph it is one node with ``auto_pad`` SAME_UPPER, which is the same rule and copies nothing: a ``Pad`` before
    the depthwise convolution of block 1 would copy 75 MB of a photo of 1024×768.
    """

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        # With stride 1 both sides get as many zeros, for every size.
        super().__init__(channels, out, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.weight, self.bias)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return B×C'×⌈H/stride⌉×⌈W/stride⌉ from B×C×H×W, with other weights than its own if asked to."""
        stride = self.stride[0]
        if stride > 1:
            if is_exporting() and bias is not None:
                return self._emitted(x, weight, bias)
            after = self.kernel_size[0] // 2
            top, left = (max(0, after - 1 + size % 2) for size in x.shape[2:])
            x = F.pad(x, (left, after, top, after))
        if self.groups > 1 and bias is not None and in_low_precision(x):
            found: Tensor = LowPrecisionDepthwise.apply(  # type: ignore[no-untyped-call]
                x, weight, bias, stride, int(self.padding[0])
            )
            return found
        return cast(Tensor, self._conv_forward(x, weight, bias))

    def _emitted(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        # Not -(-size // stride): the exporter divides towards zero.
        rows, columns = ((size + self.stride[0] - 1) // self.stride[0] for size in x.shape[2:])
        attributes: dict[str, Any] = {
            "auto_pad": "SAME_UPPER",
            "group": self.groups,
            "kernel_shape": list(self.kernel_size),
            "strides": list(self.stride),
        }
        shape = (x.shape[0], self.out_channels, rows, columns)
        return torch.onnx.ops.symbolic("Conv", (x, weight, bias), attributes, dtype=x.dtype, shape=shape, version=11)


class Layer(nn.Module):
    """Convolution, batch normalisation, ReLU6 or nothing.

    In evaluation mode the normalisation is a factor and a shift of the convolution's weights, computed anew at each
    call: the same function, also to be trained with the statistics frozen, without passes over the maps of its own
    (15 % of a training step on a CPU).
    """

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, *, groups: int = 1, bend: bool) -> None:
        super().__init__()
        self.conv = SameConv2d(channels, out, kernel, stride, groups)
        self.bn: nn.Module = nn.BatchNorm2d(out, eps=_EPSILON, momentum=0.01)
        self.bend = bend

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.bn, nn.BatchNorm2d) and not self.training:
            y = self._convolve(x, *_folded(self.conv, self.bn))
        else:
            y = self.bn(self.conv(x))
        return F.relu6(y) if self.bend else y

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        # Reordered here once: every caller has its maps in this layout, and the factor leaves weights in another.
        if x.is_contiguous(memory_format=torch.channels_last):
            weight = weight.contiguous(memory_format=torch.channels_last)
        return self.conv.convolve(x, weight, bias)

    def fold(self) -> None:
        """Put the normalisation into the convolution, in place (evaluation mode)."""
        if isinstance(self.bn, nn.BatchNorm2d):
            with torch.no_grad():
                weight, bias = _folded(self.conv, self.bn)
            self.conv.weight, self.conv.bias = nn.Parameter(weight), nn.Parameter(bias)
            self.bn = nn.Identity()


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the weight and bias of one convolution that does what both do, as they are now."""
    mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    factor = norm.weight * torch.rsqrt(variance + norm.eps)
    return conv.weight * factor[:, None, None, None], norm.bias - mean * factor


class InvertedResidual(nn.Module):
    """1×1 to more channels, k×k depthwise, 1×1 to few; the sum with what entered where the shapes agree."""

    def __init__(self, block: LiteBlock) -> None:
        super().__init__()
        wide = block.channels * block.expansion
        self.expand: nn.Module = nn.Identity()
        if block.expansion > 1:
            self.expand = Layer(block.channels, wide, 1, bend=True)
        self.depthwise = Layer(wide, wide, block.kernel, block.stride, groups=wide, bend=True)
        self.project = Layer(wide, block.out, 1, bend=False)
        self.residual = block.stride == 1 and block.channels == block.out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class Expansion(nn.Module):
    """The first layer of a block, which ends the trunk."""

    def __init__(self, block: LiteBlock) -> None:
        super().__init__()
        self.expand = Layer(block.channels, block.channels * block.expansion, 1, bend=True)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.expand(x))


class EfficientNetTrunk(nn.Module):
    """B×3×H×W to B×C×⌈H/stride⌉×⌈W/stride⌉, 0 to 6: the expansion of block ``cut`` of a variant."""

    def __init__(self, lite: Lite, cut: int) -> None:
        super().__init__()
        self.stem = Layer(3, STEM, 3, 2, bend=True)
        *before, last = lite.blocks()[: cut + 1]
        self.blocks = nn.Sequential(*(InvertedResidual(block) for block in before), Expansion(last))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.blocks(self.stem(x)))

    def fold(self) -> None:
        """Fold every batch normalisation into the convolution before it, in place (evaluation mode)."""
        for module in list(self.modules()):
            if isinstance(module, Layer):
                module.fold()
