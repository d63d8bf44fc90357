"""The family ``delf``: attention over the third block of a slim ResNet, PCA (Noh et al., ICCV 2017)."""

from typing import TYPE_CHECKING, Any

from ctxdeploy.export.networks.config import NetworkConfig, Smoothing
from ctxdeploy.export.networks.delf_config import Delf
from ctxdeploy.export.networks.family import Family, Params

if TYPE_CHECKING:
    from ctxdeploy.core.bundle import Extraction
    from ctxdeploy.export.networks.network import DescriptorNetwork


class DelfFamily(Family):
    """DELF: local descriptors alone."""

    label = "delf"
    description = "DELF: attention and PCA on TF-slim's ResNet (Noh et al., ICCV 2017)"
    version = "delf/1"
    options = frozenset({"delf"})
    # Blocks of the trunk whose last stride is a setting: the third, and of DELG the fourth.
    blocks = 1

    def claims(self, params: Params) -> bool:
        settings = params.get("delf")
        return isinstance(settings, dict) and len(settings.get("strides") or ()) == self.blocks

    def parts(self, params: Params) -> dict[str, Any]:
        return {"delf": Delf.parse(params["delf"]), "smoothing": Smoothing(kind="none")}

    def entries(self, config: NetworkConfig) -> dict[str, Any]:
        return {"delf": None if config.delf is None else config.delf.metadata()}

    def build(self, config: NetworkConfig, extraction: "Extraction") -> "DescriptorNetwork":
        from ctxdeploy.export.networks.delf_network import DelfNetwork

        return DelfNetwork(config, extraction)
