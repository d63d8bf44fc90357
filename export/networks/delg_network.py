"""DELG: a global descriptor and DELF's local ones of one trunk, in one graph (Cao, Araujo, Sim, ECCV 2020)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.export.networks.config import NetworkConfig
from ctxdeploy.export.networks.delf_network import EPSILON, AttentiveNetwork
from ctxdeploy.export.networks.local_global import LocalGlobalNetwork


class DelgNetwork(AttentiveNetwork, LocalGlobalNetwork):
    """DELG.

    Local: a 1×1 convolution (the encoder of an autoencoder) of the third block, to length 1; the attention is that of
    what the decoder makes of it. Global: the generalised mean of the fourth block, a linear layer, to length 1.
    """

    def __init__(self, config: NetworkConfig, extraction: Extraction) -> None:
        super().__init__(config, extraction)
        self.decoder = nn.Conv2d(config.dim or config.feature_dim, config.feature_dim, 1)

    def shared_map(self, x: Tensor) -> Tensor:
        trunk = self.backbone
        found: Tensor = trunk.get_submodule("layer3")(trunk.get_submodule("layer2")(self._first(x)))
        return found

    def _first(self, x: Tensor) -> Tensor:
        trunk = self.backbone
        stem = torch.relu(trunk.get_submodule("bn1")(trunk.get_submodule("conv1")(x)))
        found: Tensor = trunk.get_submodule("layer1")(trunk.get_submodule("maxpool")(stem))
        return found

    def local_features(self, shared: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        encoded = self.dim_reduction(shared)
        attention = self.attention(torch.relu(self.decoder(encoded)))
        return encoded, attention, self.places(attention)

    def reduced(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=1, eps=EPSILON)

    def global_map(self, shared: Tensor) -> Tensor:
        found: Tensor = self.backbone.get_submodule("layer4")(shared)
        return found
