"""The engines that run a bundle, all named in one table."""

from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType

from ctxdeploy.bundle import Bundle
from ctxdeploy.errors import ConfigError
from ctxdeploy.runtime.backends.base import AUTO, PRECISIONS, Backend, BackendConfig, GraphOutputs

__all__ = ["BACKENDS", "PRECISIONS", "Backend", "BackendConfig", "GraphOutputs", "choose", "open_backend"]


@dataclass(frozen=True, kw_only=True)
class BackendEntry:
    """A row of the table.

    Attributes:
        module: to import when it is chosen.
        class_name: the ``Backend`` in it.
        precisions: that it can run.
    """

    module: str
    class_name: str
    precisions: tuple[str, ...]


# In the order in which `auto` chooses. fp32: ONNX Runtime reaches 0.9 of the CPU's peak and needs no inlining.
BACKENDS = MappingProxyType(
    {
        "onnxruntime": BackendEntry(
            module="ctxdeploy.runtime.backends.onnxruntime", class_name="OnnxRuntimeBackend", precisions=("fp32",)
        ),
        "openvino": BackendEntry(
            module="ctxdeploy.runtime.backends.openvino", class_name="OpenVinoBackend", precisions=("fp32", "bf16")
        ),
    }
)


def choose(config: BackendConfig) -> str:
    """Return the name of the backend that a configuration means; nothing is loaded.

    Raises:
        ConfigError: there is no such backend, or it does not have this precision.
    """
    able = [name for name, entry in BACKENDS.items() if config.precision in entry.precisions]
    if config.name == AUTO:
        return able[0]
    if config.name not in BACKENDS:
        raise ConfigError(f"backend {config.name!r} is unknown: give --backend {AUTO}, {' or '.join(BACKENDS)}")
    if config.name not in able:
        raise ConfigError(
            f"--backend {config.name} has no --precision {config.precision}: "
            f"use --precision {' or '.join(BACKENDS[config.name].precisions)}, or --backend {' or '.join(able)}"
        )
    return config.name


def open_backend(bundle: Bundle, config: BackendConfig) -> Backend:
    """Load a bundle into an engine.

    Raises:
        ConfigError: the combination is impossible; nothing was loaded.
        MissingExtraError: the engine is not installed.
        BackendError: the engine cannot run the bundle in this precision on this machine.
    """
    entry = BACKENDS[choose(config)]
    backend: Backend = getattr(import_module(entry.module), entry.class_name)(bundle, config)
    return backend
