"""The networks, and the one table that names their families."""

from typing import TYPE_CHECKING

from ctxdeploy.errors import ConfigError
from ctxdeploy.export.networks.config import NetworkConfig

if TYPE_CHECKING:
    from ctxdeploy.bundle import Extraction
    from ctxdeploy.export.networks.network import RetrievalNetwork

FAMILIES = {
    "how": "HOW: average smoothing, L2 attention (Tolias, Jenicek, Chum, ECCV 2020)",
    "ctx": "HOW with learned Gaussian smoothing, graph refinement, or both",
}


def build(config: NetworkConfig, extraction: "Extraction") -> "RetrievalNetwork":
    """Return the network of a configuration in evaluation mode, its weights not loaded yet."""
    from ctxdeploy.export.networks.network import RetrievalNetwork

    if config.family not in FAMILIES:
        raise ConfigError(f"network family {config.family!r} is not one of {', '.join(FAMILIES)}")
    return RetrievalNetwork(config, extraction).eval()
