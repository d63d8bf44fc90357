"""What a family of networks says of itself: each is one file, and ``networks/__init__.py`` names them all."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.export.networks.config import Architecture, NetworkConfig

if TYPE_CHECKING:
    from ctxdeploy.core.bundle import Extraction
    from ctxdeploy.export.networks.network import DescriptorNetwork

Params = Mapping[str, Any]
# What ``net_params`` of every family holds.
_COMMON = frozenset({"architecture", "pretrained", "skip_layer", "dim_reduction", "runtime", "block"})


class Family(ABC):
    """A family of networks.

    Attributes:
        label: its name in bundles and checkpoints' messages.
        description: one line.
        version: ``_version`` of the checkpoints that are written.
        options: what ``net_params`` of its checkpoints holds beyond the trunk, whitening and runtime.
        dropped: prefixes of tensors in its checkpoints that the network does not need.
    """

    label: str
    description: str
    version: str
    options: frozenset[str]
    dropped: tuple[str, ...] = ()

    @abstractmethod
    def claims(self, params: Params) -> bool:
        """Return whether a checkpoint's ``net_params`` describe a network of this family."""

    @abstractmethod
    def parts(self, params: Params) -> dict[str, Any]:
        """Return the fields of ``NetworkConfig`` that ``options`` decide; ``ConfigError`` for what it cannot be."""

    @abstractmethod
    def entries(self, config: NetworkConfig) -> dict[str, Any]:
        """Return the ``options`` of a network: the inverse of ``parts``."""

    @abstractmethod
    def build(self, config: NetworkConfig, extraction: "Extraction") -> "DescriptorNetwork":
        """Return the network, its weights not loaded yet."""

    def configuration(self, params: Params) -> NetworkConfig:
        """Return the network that ``net_params`` describe.

        Raises:
            ConfigError: it holds options or values that are unknown here.
            KeyError, TypeError, ValueError: it lacks an entry, or one is of another type.
        """
        unknown = sorted(set(params) - _COMMON - self.options)
        if unknown:
            raise ConfigError(f"net_params has unknown options: {', '.join(unknown)}")
        reduction = params["dim_reduction"]
        mean, std = params["runtime"]["mean_std"]
        return NetworkConfig(
            family=self.label,
            architecture=Architecture.parse(params["architecture"]),
            skip_layer=params["skip_layer"],
            dim=reduction["dim"] if reduction else None,
            mean=_triple(mean),
            std=_triple(std),
            block=params.get("block"),
            **self.parts(params),
        )

    def net_params(self, config: NetworkConfig) -> dict[str, Any]:
        """Return ``net_params`` of a network but for ``runtime``: what ``configuration`` reads."""
        return {
            "architecture": config.architecture.label,
            "pretrained": False,
            "skip_layer": config.skip_layer,
            "dim_reduction": None if config.dim is None else {"dim": config.dim},
            **({} if config.block is None else {"block": config.block}),
            **self.entries(config),
        }


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
