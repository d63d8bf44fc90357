"""FIRe: templates gather the positions of a scale into a fixed number of super-features."""

from torch import Tensor

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.export.networks.config import NetworkConfig
from ctxdeploy.export.networks.lit import FoldedIntegration, LocalFeatureIntegration
from ctxdeploy.export.networks.network import RetrievalNetwork, cell_centres, l2_attention, scaled_by


class SuperFeatureNetwork(RetrievalNetwork):
    """FIRe. Attention is the norm of a super-feature, and its position the centre of what it attends to."""

    relative_attention = False

    def __init__(self, config: NetworkConfig, extraction: Extraction) -> None:
        super().__init__(config, extraction)
        if config.lit is None:
            raise ConfigError("a network of super-features needs their number and dimension (lit)")
        self.lit: LocalFeatureIntegration | FoldedIntegration = LocalFeatureIntegration(config.channels, config.lit)

    def resize(self, x: Tensor, scale: float) -> Tensor:
        """Sampled at the ratio 1/scale, PyTorch's ``recompute_scale_factor=False``."""
        return scaled_by(x, scale)

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
