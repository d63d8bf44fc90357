"""The family ``fire``: super-features (Weinzaepfel, Lucas, Larlus, Kalantidis, ICLR 2022)."""

from typing import TYPE_CHECKING, Any

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.export.networks.config import Lit, NetworkConfig, Smoothing
from ctxdeploy.export.networks.family import Family, Params

if TYPE_CHECKING:
    from ctxdeploy.core.bundle import Extraction
    from ctxdeploy.export.networks.network import DescriptorNetwork


class Fire(Family):
    """FIRe, in the form of its published checkpoints."""

    label = "fire"
    description = "FIRe: super-features of a local feature integration (Weinzaepfel et al., ICLR 2022)"
    version = "fire/1"
    options = frozenset({"lit", "smoothing", "refinement"})
    # The classifier of the trunk that training started from.
    dropped = ("fc.",)

    def claims(self, params: Params) -> bool:
        return bool(params.get("lit"))

    def parts(self, params: Params) -> dict[str, Any]:
        for part in ("smoothing", "refinement"):
            if params.get(part):
                raise ConfigError(f"net_params has 'lit' and {part!r}: a FIRe network has no {part}")
        options = params["lit"]
        unknown = sorted(set(options) - {"T", "N", "dim"})
        if unknown:
            raise ConfigError(f"'lit' has unknown options: {', '.join(unknown)}")
        lit = Lit(steps=options["T"], templates=options["N"], dim=options["dim"])
        return {"smoothing": Smoothing(kind="none"), "lit": lit}

    def entries(self, config: NetworkConfig) -> dict[str, Any]:
        lit = config.lit or Lit()
        return {"lit": {"T": lit.steps, "N": lit.templates, "dim": lit.dim}}

    def build(self, config: NetworkConfig, extraction: "Extraction") -> "DescriptorNetwork":
        from ctxdeploy.export.networks.super_features import SuperFeatureNetwork

        return SuperFeatureNetwork(config, extraction)
