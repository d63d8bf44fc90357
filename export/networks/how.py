"""The family ``how``: a trunk, average smoothing, whitening (Tolias, Jenicek, Chum, ECCV 2020)."""

from typing import TYPE_CHECKING, Any

from ctxdeploy.export.networks.config import NetworkConfig, Smoothing
from ctxdeploy.export.networks.family import Family, Params

if TYPE_CHECKING:
    from ctxdeploy.core.bundle import Extraction
    from ctxdeploy.export.networks.network import DescriptorNetwork


class How(Family):
    """HOW, by its parts: a network of them has one identity in whichever form it was saved."""

    label = "how"
    description = "HOW: average smoothing, L2 attention (Tolias, Jenicek, Chum, ECCV 2020)"
    version = "ctx/1"
    options = frozenset({"smoothing", "refinement"})

    def claims(self, params: Params) -> bool:
        learned = (params.get("smoothing") or {}).get("kind") == "gaussian"
        return not (params.get("lit") or params.get("refinement") or learned)

    def parts(self, params: Params) -> dict[str, Any]:
        return {"smoothing": smoothing_of(params["smoothing"])}

    def entries(self, config: NetworkConfig) -> dict[str, Any]:
        return {"smoothing": config.metadata()["smoothing"], "refinement": None}

    def build(self, config: NetworkConfig, extraction: "Extraction") -> "DescriptorNetwork":
        from ctxdeploy.export.networks.dense import DenseNetwork

        return DenseNetwork(config, extraction)


def smoothing_of(options: Any) -> Smoothing:
    """Return the smoothing of ``net_params``."""
    return Smoothing(**options) if options else Smoothing(kind="none")
