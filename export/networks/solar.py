"""SOLAR: second-order attention after layers of the trunk, then GeM (Ng et al., ECCV 2020)."""

from torch import Tensor, nn

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.export.networks.config import NetworkConfig
from ctxdeploy.export.networks.global_network import GlobalNetwork
from ctxdeploy.export.networks.resnet import ResNetTrunk
from ctxdeploy.export.networks.second_order import SecondOrderAttention


class SolarNetwork(GlobalNetwork):
    """A ResNet with attention after some layers: of layer4 half its channels are compared, else a quarter."""

    def __init__(self, config: NetworkConfig, extraction: Extraction) -> None:
        super().__init__(config, extraction)
        if config.pooling is None or not isinstance(self.backbone, ResNetTrunk):
            raise ConfigError(f"second-order attention stands in a ResNet, not in {config.architecture.label}")
        self.second_order = nn.ModuleDict()
        for layer in config.pooling.second_order:
            channels = config.architecture.channels(4 - layer)
            self.second_order[f"layer{layer}"] = SecondOrderAttention(channels, channels // (2 if layer == 4 else 4))

    def feature_map(self, x: Tensor) -> Tensor:
        trunk = self.backbone
        if not isinstance(trunk, ResNetTrunk):
            raise TypeError("the trunk is not a ResNet")
        x = trunk.root(x)
        for name in trunk.layers:
            x = trunk.get_submodule(name)(x)
            if name in self.second_order:
                x = self.second_order[name](x)
        return x

    def fold(self) -> None:
        super().fold()
        for attention in self.second_order.values():
            if isinstance(attention, SecondOrderAttention):
                attention.fold()
