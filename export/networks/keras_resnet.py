"""The ResNet-50 of DELF's Keras code (TensorFlow 2, 2020), under the names of our own ResNet.

It differs from torchvision's and from slim's: the first 1×1 convolution of a unit takes the stride, the root pads as
TensorFlow's ``SAME`` and pools without padding, and where the third block has the stride of slim's, every other
position of its map is left out behind it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxdeploy.export.networks.config import Architecture
from ctxdeploy.export.networks.efficientnet import SameConv2d
from ctxdeploy.export.networks.operators import is_exporting
from ctxdeploy.export.networks.resnet import Bottleneck
from ctxdeploy.export.networks.slim_resnet import Attribute, SlimResNetTrunk


class KerasBottleneck(Bottleneck):
    """A bottleneck whose first convolution takes the stride."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__(channels, width, 1)
        out = width * self.expansion
        self.conv1 = nn.Conv2d(channels, width, 1, stride, bias=False)
        if self.downsample is not None or stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))


class InnerMaxPool(nn.Module):
    """The largest of 3×3 at every other position, without padding: B×C×⌊(H-1)/2⌋×⌊(W-1)/2⌋; of no negatives.

    A side below 3 counts as 3, for which the authors' code has no answer.
    """

    def forward(self, x: Tensor) -> Tensor:
        # Two rows more than there are give one more of the result for every H; it is left out.
        rows, columns = (x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2
        if is_exporting():
            attributes: dict[str, Attribute] = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 2, 2]}
            size = (x.shape[0], x.shape[1], rows, columns)
            pooled = torch.onnx.ops.symbolic("MaxPool", (x,), attributes, dtype=x.dtype, shape=size)
        else:
            pooled = F.max_pool2d(F.pad(x, (0, 2, 0, 2)), 3, 2)
        kept = [torch.sym_max((side - 1) // 2, 1) for side in x.shape[2:]]  # type: ignore[no-untyped-call]
        return pooled[:, :, : kept[0], : kept[1]]


class EveryOther(nn.Module):
    """Every other position, B×C×⌈H/2⌉×⌈W/2⌉, as Keras's pooling of 1×1 with stride 2 rounds down: ⌊(H+1)/2⌋."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 1, 2)


class KerasResNetTrunk(SlimResNetTrunk):
    """B×3×H×W to B×C×h×w, not negative.

    Args:
        architecture: ResNet-50.
        strides: of what follows the third block, and of the fourth block's first unit where there is one: (2, 1) as
            slim's, or (1, 2).
    """

    def __init__(self, architecture: Architecture, strides: tuple[int, ...]) -> None:
        nn.Module.__init__(self)
        channels = architecture.width
        self.conv1: nn.Conv2d = SameConv2d(3, channels, 7, 2)
        self.bn1 = nn.BatchNorm2d(channels)
        self.maxpool: nn.Module = InnerMaxPool()
        self.layers = tuple(f"layer{i + 1}" for i in range(2 + len(strides)))
        first = (1, 2, 2, *strides[1:])
        for i, name in enumerate(self.layers):
            width, units = architecture.width << i, list[nn.Module]()
            for unit in range(architecture.blocks[i]):
                units.append(KerasBottleneck(channels, width, first[i] if unit == 0 else 1))
                channels = width * KerasBottleneck.expansion
            if i == 2 and strides[0] == 2:
                units.append(EveryOther())
            self.add_module(name, nn.Sequential(*units))
