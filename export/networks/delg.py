"""The family ``delg``: global and local descriptors of one slim ResNet (Cao, Araujo, Sim, ECCV 2020)."""

from typing import TYPE_CHECKING, Any

from ctxdeploy.export.networks.config import NetworkConfig
from ctxdeploy.export.networks.delf import DelfFamily
from ctxdeploy.export.networks.family import Params
from ctxdeploy.export.networks.pooling_config import Pooling

if TYPE_CHECKING:
    from ctxdeploy.core.bundle import Extraction
    from ctxdeploy.export.networks.network import DescriptorNetwork


class DelgFamily(DelfFamily):
    """DELG: local descriptors, and one of the whole photo."""

    label = "delg"
    description = "DELG: global and local descriptors of TF-slim's ResNet (Cao, Araujo, Sim, ECCV 2020)"
    version = "delg/1"
    options = frozenset({"delf", "pooling"})
    blocks = 2

    def parts(self, params: Params) -> dict[str, Any]:
        return {**super().parts(params), "pooling": Pooling.parse(params["pooling"])}

    def entries(self, config: NetworkConfig) -> dict[str, Any]:
        pooling = None if config.pooling is None else config.pooling.metadata()
        return {**super().entries(config), "pooling": pooling}

    def build(self, config: NetworkConfig, extraction: "Extraction") -> "DescriptorNetwork":
        from ctxdeploy.export.networks.delg_network import DelgNetwork

        return DelgNetwork(config, extraction)
