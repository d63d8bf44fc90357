"""The ResNet v1 of TensorFlow's slim library, the trunk of DELF and DELG, under the names of our own ResNet.

Its differences from torchvision's are silent: strides stand in the last unit of a block, and are taken by the 3×3
convolution and by a shortcut that leaves out every other position; and the first pooling pads as TensorFlow does, at
the bottom and on the right alone where a side is even. PyTorch's padding differs there by 8 to 20 % of the largest
activation.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxdeploy.export.networks.config import Architecture
from ctxdeploy.export.networks.operators import is_exporting
from ctxdeploy.export.networks.resnet import Bottleneck, ResNetTrunk

Attribute = int | float | str | bool | Sequence[int] | Sequence[float] | Sequence[str] | Sequence[bool]


class SlimBottleneck(Bottleneck):
    """A bottleneck whose shortcut, where it has no convolution, leaves out what the stride leaves out."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__(channels, width, stride)
        self.stride = stride
        if channels == width * self.expansion:
            self.downsample = None

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.downsample is not None:
            x = self.downsample(x)
        elif self.stride > 1:
            x = F.max_pool2d(x, 1, self.stride)
        return torch.relu(y + x)


class SlimMaxPool(nn.Module):
    """The largest of 3×3 at every other position, B×C×⌈H/2⌉×⌈W/2⌉, padded as TensorFlow's ``SAME``; of no negatives."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2
        if is_exporting():
            attributes: dict[str, Attribute] = {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}
            size = (x.shape[0], x.shape[1], rows, columns)
            return torch.onnx.ops.symbolic("MaxPool", (x,), attributes, dtype=x.dtype, shape=size)
        # Without negatives, zeros around are what −∞ is: every window has a position of the map.
        odd_rows, odd_columns = 2 * rows - x.shape[2], 2 * columns - x.shape[3]
        return F.max_pool2d(F.pad(x, (odd_columns, 1, odd_rows, 1)), 3, 2)


class SlimResNetTrunk(ResNetTrunk):
    """B×3×H×W to B×C×⌈H/stride⌉×⌈W/stride⌉, not negative.

    Args:
        architecture: with bottlenecks.
        strides: of the last unit of each block, of which there are three or, for DELG's global descriptor, four.
    """

    def __init__(self, architecture: Architecture, strides: tuple[int, ...]) -> None:
        nn.Module.__init__(self)
        channels = architecture.width
        self.conv1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.maxpool: nn.Module = SlimMaxPool()
        self.layers = tuple(f"layer{i + 1}" for i in range(len(strides)))
        for i, name in enumerate(self.layers):
            width, units = architecture.width << i, []
            for unit in range(architecture.blocks[i]):
                stride = strides[i] if unit == architecture.blocks[i] - 1 else 1
                units.append(SlimBottleneck(channels, width, stride))
                channels = width * SlimBottleneck.expansion
            self.add_module(name, nn.Sequential(*units))

    def maps(self, x: Tensor) -> list[Tensor]:
        """Return the outputs of the blocks, the first one first."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        found = []
        for name in self.layers:
            x = self.get_submodule(name)(x)
            found.append(x)
        return found
