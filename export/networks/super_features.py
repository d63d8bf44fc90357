"""FIRe: templates gather the positions of a scale into a fixed number of super-features."""

import math

import torch.nn.functional as F
from torch import Tensor

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.export.networks.config import NetworkConfig
from ctxdeploy.export.networks.lit import FoldedIntegration, LocalFeatureIntegration
from ctxdeploy.export.networks.network import RetrievalNetwork, cell_centres, l2_attention, scaled_size


class SuperFeatureNetwork(RetrievalNetwork):
    """FIRe. Attention is the norm of a super-feature, and its position the centre of what it attends to."""

    relative_attention = False

    def __init__(self, config: NetworkConfig, extraction: Extraction) -> None:
        super().__init__(config, extraction)
        if config.lit is None:
            raise ConfigError("a network of super-features needs their number and dimension (lit)")
        self.lit: LocalFeatureIntegration | FoldedIntegration = LocalFeatureIntegration(config.channels, config.lit)

    def resize(self, x: Tensor, scale: float) -> Tensor:
        """Sampled at the ratio 1/scale, PyTorch's ``recompute_scale_factor=False``.

        A runtime that is given the ratio chooses the size itself, and OpenVINO 2026.4 chooses one more than ⌊H·scale⌋
        for some (2157 at 1.414, 1157 at 0.707). So the image is continued by its border, which bilinear sampling does
        anyhow, until the result is too large in any rounding, and its first rows and columns are taken.
        """
        more = math.ceil(1 / scale)
        x_more = F.pad(x, (0, more, 0, more), mode="replicate")
        scaled = F.interpolate(
            x_more, scale_factor=scale, mode="bilinear", align_corners=False, recompute_scale_factor=False
        )
        return scaled[:, :, : scaled_size(x.shape[2], scale), : scaled_size(x.shape[3], scale)]

    def features(self, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        grid = self.backbone(x)
        vectors, attention = self.lit(grid.flatten(2).transpose(1, 2))
        centres = cell_centres(grid.shape[2], grid.shape[3], height, width, x.device).to(grid.dtype)
        # From the image's middle: half the error where a runtime computes the product in bf16.
        middle = centres.mean(dim=0)
        features = vectors.transpose(1, 2)[..., None]
        return features, l2_attention(features), attention.transpose(1, 2) @ (centres - middle) + middle

    def fold(self) -> None:
        super().fold()
        if isinstance(self.lit, LocalFeatureIntegration):
            self.lit = FoldedIntegration(self.lit)
