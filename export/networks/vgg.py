"""The trunk of VGG-16 (Simonyan, Zisserman, ICLR 2015) under torchvision's names of ``features``."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Channels of the convolutions between halvings; the last halving of torchvision's ``features`` is left out.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def halved(x: Tensor) -> Tensor:
    """Return the maximum of 2×2 cells, B×C×⌊H/2⌋×⌊W/2⌋, but of one row or column of cells themselves."""
    height, width = (torch.sym_max(size // 2, 1) for size in x.shape[2:])  # type: ignore[no-untyped-call]
    return F.max_pool2d(x, 2, 2, ceil_mode=True)[:, :, :height, :width]


class VggTrunk(nn.Module):
    """B×3×H×W to B×512×⌊H/16⌋×⌊W/16⌋, at least one cell, not negative.

    Convolutions bear their place in torchvision's list, where a ReLU follows each and a halving each stage: 0, 2, 5, …
    """

    def __init__(self) -> None:
        super().__init__()
        self.stages: list[tuple[str, ...]] = []
        channels, place = 3, 0
        for stage in STAGES:
            names = []
            for out in stage:
                self.add_module(str(place), nn.Conv2d(channels, out, 3, padding=1))
                names.append(str(place))
                channels, place = out, place + 2
            self.stages.append(tuple(names))
            place += 1

    def forward(self, x: Tensor) -> Tensor:
        for number, names in enumerate(self.stages):
            x = x if number == 0 else halved(x)
            for name in names:
                x = torch.relu(cast(nn.Conv2d, self.get_submodule(name))(x))
        return x
