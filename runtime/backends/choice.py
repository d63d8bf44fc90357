"""A bundle in the runtime that a configuration means, on this machine."""

from dataclasses import replace
from importlib import import_module

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.device import AUTO, Device
from ctxdeploy.core.device import CUDA as ON_GPU
from ctxdeploy.core.targets import TARGETS, choose_for
from ctxdeploy.runtime.backends.base import Backend
from ctxdeploy.runtime.backends.config import BackendConfig


def open_backend(bundle: Bundle, config: BackendConfig) -> Backend:
    """Load a bundle into the runtime that ``config`` means; ``auto`` prefers one that the bundle has an artefact for.

    Raises:
        MissingExtraError: the runtime is not installed.
        BackendError: the runtime cannot run the bundle in this precision on this machine.
    """
    if config.name == AUTO and Device.parse(config.device).kind != ON_GPU:
        config = replace(config, name=choose_for(bundle, config.precision))
    entry = TARGETS[config.engine]
    backend: Backend = getattr(import_module(entry.module), entry.class_name)(bundle, config)
    return backend
