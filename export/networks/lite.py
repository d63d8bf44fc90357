"""Shapes of the EfficientNet-Lite trunks. Nothing here imports torch.

From "EfficientNet" (Tan and Le, ICML 2019) and the published description of the Lite variants: no squeeze-and-excite,
ReLU6 for swish, stem, first and last stage of one size in all variants.
"""

import math
from dataclasses import dataclass

STEM = 32
# Strides after which an expansion may end a trunk: HOW's 16, and 32.
_STRIDES = {1: 16, 0: 32}


@dataclass(frozen=True, kw_only=True)
class LiteBlock:
    """An inverted residual.

    Attributes:
        channels: that enter.
        out: that leave.
        kernel: side of the depthwise convolution.
        stride: of the same.
        expansion: channels inside for one that enters.
        reached: pixels of the image per cell of what enters.
    """

    channels: int
    out: int
    kernel: int
    stride: int
    expansion: int
    reached: int


# Kernel, stride of the first block, expansion, channels, blocks, of each stage of Lite 0.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


@dataclass(frozen=True, kw_only=True)
class Lite:
    """A variant, by how much it is wider and deeper than Lite 0."""

    width: float
    depth: float

    def blocks(self) -> tuple[LiteBlock, ...]:
        """Return the blocks: channels scaled to multiples of 8, their number upwards."""
        blocks: list[LiteBlock] = []
        channels, reached = STEM, 2
        for i, (kernel, first, expansion, wide, count) in enumerate(_STAGES):
            scaled = count if i in (0, len(_STAGES) - 1) else math.ceil(count * self.depth)
            out = _rounded(wide * self.width)
            for stride in (first, *[1] * (scaled - 1)):
                blocks.append(
                    LiteBlock(
                        channels=channels,
                        out=out,
                        kernel=kernel,
                        stride=stride,
                        expansion=expansion,
                        reached=reached,
                    )
                )
                channels, reached = out, reached * stride
        return tuple(blocks)

    def cuts(self, skip_layer: int) -> range:
        """Return the blocks whose expansion may end a trunk of the stride of ``skip_layer``."""
        found = [i for i, block in enumerate(self.blocks()) if block.reached == _STRIDES[skip_layer]]
        return range(found[0], found[-1] + 1)

    def cut(self, skip_layer: int, block: int | None) -> int:
        """Return the block whose expansion ends a trunk: the one that is named, or the last of its stride."""
        return self.cuts(skip_layer)[-1] if block is None else block

    def channels(self, skip_layer: int, block: int | None) -> int:
        """Return the channels of a trunk's feature map."""
        last = self.blocks()[self.cut(skip_layer, block)]
        return last.channels * last.expansion


def _rounded(channels: float) -> int:
    """Return the nearest multiple of 8, or the next one where that loses more than a tenth."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
