"""ResNet trunks (He et al., CVPR 2016) under torchvision's parameter names, so that its checkpoints fit.

The form is torchvision's: the stride of a bottleneck stands in its 3×3 convolution, and the trunk ends with the ReLU of
its last layer. There is no pooling or classifier at the end.
"""

from typing import cast

import torch
from torch import Tensor, nn

from ctxdeploy.export.networks.config import Architecture


def _shortcut(channels: int, out: int, stride: int) -> nn.Module | None:
    if stride == 1 and channels == out:
        return None
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions with a shortcut."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * 4)
        self.downsample = _shortcut(channels, width * 4, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNetTrunk(nn.Module):
    """B×3×H×W to B×C×⌈H/stride⌉×⌈W/stride⌉, not negative."""

    def __init__(self, architecture: Architecture, skip_layer: int) -> None:
        super().__init__()
        block = Bottleneck if architecture.bottleneck else BasicBlock
        channels = architecture.width
        self.conv1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.maxpool: nn.Module = nn.MaxPool2d(3, 2, 1)
        self.layers = tuple(f"layer{i + 1}" for i in range(4 - skip_layer))
        for i, name in enumerate(self.layers):
            width = architecture.width << i
            strides = (1 if i == 0 else 2, *(1 for _ in range(architecture.blocks[i] - 1)))
            blocks = []
            for stride in strides:
                blocks.append(block(channels, width, stride))
                channels = width * block.expansion
            self.add_module(name, nn.Sequential(*blocks))

    def root(self, x: Tensor) -> Tensor:
        """Return what the first layer takes, a quarter of the input's sides."""
        found: Tensor = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        return found

    def forward(self, x: Tensor) -> Tensor:
        x = self.root(x)
        for name in self.layers:
            x = self.get_submodule(name)(x)
        return x


def fold_batch_norm(trunk: ResNetTrunk) -> None:
    """Fold every batch normalisation into the convolution before it, in place (evaluation mode).

    ONNX Runtime folds too, but once per use of the weights: a seven-scale graph would then hold seven copies of them.
    """
    pairs: list[tuple[nn.Module, str, str]] = [(trunk, "conv1", "bn1")]
    for module in trunk.modules():
        if isinstance(module, BasicBlock | Bottleneck):
            count = 3 if isinstance(module, Bottleneck) else 2
            pairs += [(module, f"conv{i}", f"bn{i}") for i in range(1, count + 1)]
            if module.downsample is not None:
                pairs.append((module.downsample, "0", "1"))
    for parent, conv, norm in pairs:
        convolution = cast(nn.Conv2d, parent.get_submodule(conv))
        fused = nn.utils.fuse_conv_bn_eval(convolution, cast(nn.BatchNorm2d, parent.get_submodule(norm)))
        setattr(parent, conv, fused)
        setattr(parent, norm, nn.Identity())
