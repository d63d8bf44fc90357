"""The one table that names the families of networks, and a network from its configuration."""

from typing import TYPE_CHECKING

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.export.networks.config import NetworkConfig
from ctxdeploy.export.networks.ctx import Ctx
from ctxdeploy.export.networks.delf import DelfFamily
from ctxdeploy.export.networks.delg import DelgFamily
from ctxdeploy.export.networks.family import Family, Params
from ctxdeploy.export.networks.fire import Fire
from ctxdeploy.export.networks.gem import Gem
from ctxdeploy.export.networks.how import How

if TYPE_CHECKING:
    from ctxdeploy.core.bundle import Extraction
    from ctxdeploy.export.networks.network import DescriptorNetwork

# In the order in which they are asked whether a checkpoint is theirs.
FAMILIES: dict[str, Family] = {
    family.label: family for family in (Fire(), DelfFamily(), DelgFamily(), Gem(), How(), Ctx())
}


def family(label: str) -> Family:
    """Return a family by its label; ``ConfigError`` names those there are."""
    if label not in FAMILIES:
        raise ConfigError(f"network family {label!r} is not one of {', '.join(FAMILIES)}")
    return FAMILIES[label]


def family_of(params: Params) -> Family:
    """Return the family whose network a checkpoint's ``net_params`` describe."""
    return next(known for known in FAMILIES.values() if known.claims(params))


def build(config: NetworkConfig, extraction: "Extraction") -> "DescriptorNetwork":
    """Return the network of a configuration in evaluation mode, its weights not loaded yet.

    Raises:
        ConfigError: the family is unknown, or the network has parts that it does not have.
    """
    known = family(config.family)
    params = {**known.net_params(config), "runtime": {"mean_std": [config.mean, config.std]}}
    if not known.claims(params) or known.configuration(params) != config:
        raise ConfigError(f"a network of the family {known.label} cannot have all the parts of {config}")
    return known.build(config, extraction).eval()


def state_shapes(config: NetworkConfig, extraction: "Extraction") -> dict[str, tuple[int, ...]]:
    """Return the shapes of a network's tensors by name; nothing is allocated for them."""
    import torch

    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build(config, extraction).state_dict().items()}
