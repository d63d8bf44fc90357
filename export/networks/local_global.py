"""Networks that give local descriptors and a global one in one pass, such as DELG (Cao, Araujo, Sim, ECCV 2020)."""

from abc import abstractmethod

from torch import Tensor

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.export.networks.config import NetworkConfig
from ctxdeploy.export.networks.network import RetrievalNetwork
from ctxdeploy.export.networks.pooling import GlobalHead


class LocalGlobalNetwork(RetrievalNetwork):
    """Both kinds from one trunk: a scale that both use is seen once. A subclass says where the trunk divides.

    ``forward`` returns the four outputs of local descriptors and the global vectors, B×D'; with K = 0 these alone.
    """

    def __init__(self, config: NetworkConfig, extraction: Extraction) -> None:
        super().__init__(config, extraction)
        if config.pooling is None or not config.pooling.beside_local:
            raise ConfigError("a network with local and global descriptors needs a pooling that is beside_local")
        self.global_head = GlobalHead(config.pooled_channels, config.pooling)

    @abstractmethod
    def shared_map(self, x: Tensor) -> Tensor:
        """Return the feature map that both read, B×C×r×c from B×3×h×w."""

    @abstractmethod
    def local_features(self, shared: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return what ``features`` returns, from the shared map."""

    @abstractmethod
    def global_map(self, shared: Tensor) -> Tensor:
        """Return what is pooled, B×C'×r'×c', from the shared map."""

    def features(self, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.local_features(self.shared_map(x), height, width)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self.normalise(image)
        height, width = x.shape[2:]
        levels, vectors = [], {}
        for scale in self.extraction.pyramid:
            shared = self.shared_map(self.level(x, scale))
            if self.extraction.top_k and scale in self.extraction.scales:
                levels.append(self.described(self.local_features(shared, height, width), scale))
            if scale in self.extraction.global_scales:
                vectors[scale] = self.global_head.describe(self.global_map(shared))
        whole = self.global_head.combine([vectors[scale] for scale in self.extraction.global_scales])
        return (*self.selected(levels), whole) if levels else (whole,)

    def fold(self) -> None:
        super().fold()
        self.global_head.fold()
