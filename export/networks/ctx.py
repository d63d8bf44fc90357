"""The family ``ctx``: HOW with learned Gaussian smoothing, graph refinement, or both."""

from typing import Any

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.export.networks.config import Edges, NetworkConfig, Refinement
from ctxdeploy.export.networks.family import Params
from ctxdeploy.export.networks.how import How, smoothing_of


class Ctx(How):
    """HOW's parts and form with more options."""

    label = "ctx"
    description = "HOW with learned Gaussian smoothing, graph refinement, or both"

    def claims(self, params: Params) -> bool:
        return not params.get("lit")

    def parts(self, params: Params) -> dict[str, Any]:
        return {
            "smoothing": smoothing_of(params["smoothing"]),
            "refinement": _refinement_of(params.get("refinement")),
        }

    def entries(self, config: NetworkConfig) -> dict[str, Any]:
        metadata = config.metadata()
        refinement = metadata["refinement"]
        return {
            "smoothing": metadata["smoothing"],
            "refinement": None if refinement is None else {"kind": "graph", **refinement},
        }


def _refinement_of(options: Any) -> Refinement | None:
    if not options:
        return None
    options = dict(options)
    kind = options.pop("kind", None)
    if kind != "graph":
        raise ConfigError(f"refinement of kind {kind!r}: only 'graph' is known")
    return Refinement(**{**options, "edges": Edges(options["edges"])})
