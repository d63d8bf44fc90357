"""HOW and ctx: every position of the feature map is a descriptor."""

import torch.nn.functional as F
from torch import Tensor, nn

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.export.networks.config import NetworkConfig
from ctxdeploy.export.networks.network import RetrievalNetwork, cell_centres, l2_attention, scaled_size
from ctxdeploy.export.networks.refinement import GraphRefinement
from ctxdeploy.export.networks.smoothing import AverageSmoothing, GaussianSmoothing


class DenseNetwork(RetrievalNetwork):
    """HOW and ctx, every combination of their parts.

    Smoothing takes a weighted mean of positions, the whitening is linear, and so the two may change places: a folded
    network smooths D numbers of each position instead of C, 128 for 1024. Where the weights of a mean underflow, its
    descriptor is then 0 instead of the whitening's bias: with a bandwidth above 70 and a self-confidence below 1e-30.
    """

    relative_attention = True

    def __init__(self, config: NetworkConfig, extraction: Extraction) -> None:
        super().__init__(config, extraction)
        self.refinement = None
        if config.refinement is not None:
            self.refinement = GraphRefinement(config.channels, config.refinement)
        self.smoothing = _smoothing(config)
        self._whitens_first = False

    def fold(self) -> None:
        super().fold()
        self._whitens_first = self.config.dim is not None

    def resize(self, x: Tensor, scale: float) -> Tensor:
        """Sampled at the ratio input size / output size, PyTorch's ``recompute_scale_factor=True``."""
        size = (scaled_size(x.shape[2], scale), scaled_size(x.shape[3], scale))
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)

    def feature_map(self, x: Tensor) -> Tensor:
        """Return the refined features that attention and smoothing start from, B×C×h×w from B×3×H×W."""
        x = self.backbone(x)
        return x if self.refinement is None else self.refinement(x)

    def features(self, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        features = self.feature_map(x)
        attention = l2_attention(features)
        centres = cell_centres(attention.shape[1], attention.shape[2], height, width, x.device)
        return self._smoothed(features), attention, centres

    def whitened(self, features: Tensor) -> Tensor:
        return features if self._whitens_first else super().whitened(features)

    def _smoothed(self, features: Tensor) -> Tensor:
        """Return the smoothed features; of a folded network they are whitened too."""
        values = super().whitened(features) if self._whitens_first else features
        learned = isinstance(self.smoothing, GaussianSmoothing)
        smoothed: Tensor = self.smoothing(features, values) if learned else self.smoothing(values)
        return smoothed


def _smoothing(config: NetworkConfig) -> nn.Module:
    if config.smoothing.kind == "gaussian":
        return GaussianSmoothing(config.channels, config.smoothing.kernel_size)
    if config.smoothing.kind == "average":
        return AverageSmoothing(config.smoothing.kernel_size)
    return nn.Identity()
