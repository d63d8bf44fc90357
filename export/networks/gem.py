"""The family ``gem``: a trunk whose feature map is pooled into one vector (Radenović, Tolias, Chum, TPAMI 2018)."""

from typing import TYPE_CHECKING, Any

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.export.networks.config import NetworkConfig, Smoothing
from ctxdeploy.export.networks.family import Family, Params
from ctxdeploy.export.networks.pooling_config import Pooling

if TYPE_CHECKING:
    from ctxdeploy.core.bundle import Extraction
    from ctxdeploy.export.networks.network import DescriptorNetwork


class Gem(Family):
    """A global descriptor by GeM, MAC, SPoC or R-MAC, with whitenings and second-order attention or without."""

    label = "gem"
    description = "a global descriptor: GeM, MAC, SPoC, R-MAC, whitening (Radenović, Tolias, Chum, TPAMI 2018)"
    version = "ctx/1"
    options = frozenset({"pooling"})

    def claims(self, params: Params) -> bool:
        return bool(params.get("pooling"))

    def parts(self, params: Params) -> dict[str, Any]:
        pooling = Pooling.parse(params["pooling"])
        if pooling.beside_local:
            raise ConfigError("pooling: beside_local needs a network with local descriptors, and 'gem' has none")
        return {"smoothing": Smoothing(kind="none"), "pooling": pooling}

    def entries(self, config: NetworkConfig) -> dict[str, Any]:
        return {"pooling": None if config.pooling is None else config.pooling.metadata()}

    def build(self, config: NetworkConfig, extraction: "Extraction") -> "DescriptorNetwork":
        if config.pooling is not None and config.pooling.second_order:
            from ctxdeploy.export.networks.solar import SolarNetwork

            return SolarNetwork(config, extraction)
        from ctxdeploy.export.networks.global_network import GlobalNetwork

        return GlobalNetwork(config, extraction)
