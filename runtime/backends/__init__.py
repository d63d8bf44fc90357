"""The engines that run a bundle."""

from dataclasses import replace
from importlib import import_module

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.targets import AUTO, BACKENDS, PRECISIONS, choose_for
from ctxdeploy.runtime.backends.base import Backend, BackendConfig, GraphOutputs

__all__ = ["BACKENDS", "PRECISIONS", "Backend", "BackendConfig", "GraphOutputs", "open_backend"]


def open_backend(bundle: Bundle, config: BackendConfig) -> Backend:
    """Load a bundle into the engine that ``config`` means; ``auto`` prefers one that the bundle has an artefact for.

    Raises:
        MissingExtraError: the engine is not installed.
        BackendError: the engine cannot run the bundle in this precision on this machine.
    """
    if config.name == AUTO:
        config = replace(config, name=choose_for(bundle, config.precision))
    entry = BACKENDS[config.engine]
    backend: Backend = getattr(import_module(entry.module), entry.class_name)(bundle, config)
    return backend
