"""Kernels of our own operators from a plugin library; without one, their local functions are built."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.core.errors import BackendError

if TYPE_CHECKING:
    import tensorrt as trt

DOMAIN = "ctx"
OPERATORS = ("GaussianSmoothing", "GraphConvolution")


@dataclass(frozen=True, kw_only=True)
class Creator:
    """A plugin of the registry that computes one of our operators."""

    name: str
    version: str


def load_libraries(registry: "trt.IPluginRegistry", paths: Sequence[Path]) -> None:
    """Load plugin libraries; ``BackendError`` for one that cannot be loaded."""
    for path in paths:
        if not path.is_file():
            raise BackendError(f"plugin library {path} does not exist: check --plugin")
        try:
            handle = registry.load_library(str(path.resolve()))
        except (RuntimeError, TypeError) as error:
            raise BackendError(f"plugin library {path} cannot be loaded: {error}") from error
        if handle is None:
            raise BackendError(f"plugin library {path} cannot be loaded: is it one for this version and this machine?")


def find_creators(registry: "trt.IPluginRegistry") -> list[Creator]:
    """Return the plugins with the names and the namespace of our operators, of each the newest version."""
    found: dict[str, str] = {}
    for creator in registry.all_creators:
        if creator.name in OPERATORS and creator.plugin_namespace == DOMAIN:
            found[creator.name] = max(found.get(creator.name, ""), creator.plugin_version, key=lambda v: (len(v), v))
    return [Creator(name=name, version=version) for name, version in sorted(found.items())]


def with_plugins(proto: Any, creators: Sequence[Creator]) -> Any:
    """Return a model whose nodes name their plugins; the parser builds local functions for all others.

    A node without ``plugin_namespace`` is built from its local function although a plugin of its name is there.
    """
    from onnx import helper

    versions = {creator.name: creator.version for creator in creators}
    proto = copy.deepcopy(proto)
    for node in proto.graph.node:
        if node.domain == DOMAIN and node.op_type in versions:
            node.attribute.append(helper.make_attribute("plugin_namespace", DOMAIN))
            node.attribute.append(helper.make_attribute("plugin_version", versions[node.op_type]))
    return proto
