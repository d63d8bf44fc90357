"""Networks that give a global descriptor alone: trunk, pooling, whitening, over the scales of a pyramid."""

from torch import Tensor

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.export.networks.config import NetworkConfig
from ctxdeploy.export.networks.network import DescriptorNetwork, scaled_by
from ctxdeploy.export.networks.pooling import GlobalHead


class GlobalNetwork(DescriptorNetwork):
    """One vector of length 1 for each image; a subclass changes ``feature_map`` or ``resize``.

    ``forward`` takes images uint8, B×H×W×3, RGB, and returns a tuple of one tensor, B×D' float32.
    """

    def __init__(self, config: NetworkConfig, extraction: Extraction) -> None:
        super().__init__(config, extraction)
        if config.pooling is None:
            raise ConfigError("a network with a global descriptor needs a pooling")
        self.global_head = GlobalHead(config.pooled_channels, config.pooling)

    def feature_map(self, x: Tensor) -> Tensor:
        """Return what is pooled, B×C×h×w from normalised images B×3×H×W."""
        found: Tensor = self.backbone(x)
        return found

    def resize(self, x: Tensor, scale: float) -> Tensor:
        """Return a level of the pyramid, ⌊H·scale⌋×⌊W·scale⌋, sampled at the ratio 1/scale as cirtorch does."""
        return scaled_by(x, scale)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self.normalise(image)
        levels = [x if scale == 1.0 else self.resize(x, scale) for scale in self.extraction.global_scales]
        return (self.global_head.combine([self.global_head.describe(self.feature_map(level)) for level in levels]),)

    def fold(self) -> None:
        super().fold()
        self.global_head.fold()
