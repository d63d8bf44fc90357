"""The server: from settings to a port that answers."""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.core.device import Device, asked_gpu
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.extras import require
from ctxdeploy.service.config import ArchivePlace, ServiceConfig

if TYPE_CHECKING:
    from ctxdeploy.runtime import BackendConfig
    from ctxdeploy.service.keys import Keys
    from ctxdeploy.service.logs import LogWriter

# Of a process that was told twice to end, and did not wait for its requests.
FORCED = 130


def serve(
    places: Sequence[Path | ArchivePlace],
    config: ServiceConfig,
    backend: "BackendConfig | None" = None,
    listening: Callable[[str], None] = lambda url: None,
) -> None:
    """Answer requests until the process is told to end.

    Args:
        places: of the archives.
        config, backend: settings of the service, and of what runs its networks.
        listening: called with the URL when the port answers; ``/readyz`` says from when on requests are answered.

    Raises:
        ConfigError: settings that exclude each other, an address that cannot be had, or one that needs keys.
        MissingExtraError: the extra ``serve`` is not installed.
        ArchiveError: one of the places is not an archive.
        CtxdeployError: whatever else keeps an archive from being answered from.
    """
    for module in ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "pydantic_settings"):
        require(module, "serve")
    from ctxdeploy.service.app import create_app
    from ctxdeploy.service.front_service import service_of
    from ctxdeploy.service.keys import Keys
    from ctxdeploy.service.listening import Listener, bound_socket, url_of_socket
    from ctxdeploy.service.logs import log, start_log
    from ctxdeploy.service.rehearsing import LogDisplay

    keys = Keys.load(config, os.environ)
    check_address(config, keys)
    _check_gpus(places, config, backend)
    with bound_socket(config) as bound:
        writer = start_log(config.log_format)
        LogDisplay()  # before anything is opened that has something to say
        try:
            service = service_of(places, config, backend, keys)
            for warning in (*keys.warnings, *_without_effect(config, keys)):
                log.warning(warning)
            listener = Listener(create_app(service), config, service.readiness, lambda: _end_now(writer))

            def prepare() -> None:
                service.prepare()
                if service.readiness.failure is not None:
                    listener.stop()

            preparing = threading.Thread(target=prepare, name="ctxdeploy-prepare", daemon=True)
            # Whoever knows the address may send a signal at once, and another one until all is closed.
            with listener.capture_signals():
                listening(url_of_socket(bound))
                preparing.start()
                listener.run(sockets=[bound])
                has_ended = service.close() and not preparing.is_alive()
        finally:
            is_written = writer.stop()
    if service.readiness.failure is not None:
        raise service.readiness.failure
    if not (has_ended and is_written):
        os._exit(0)  # threads that still run would be waited for


def _check_gpus(places: Sequence[Path | ArchivePlace], config: ServiceConfig, backend: "BackendConfig | None") -> None:
    """Raise ``BackendError`` for a GPU that is asked for and not there, before the port answers."""
    asked_gpu(Device.parse(config.search_device), "--search-device")
    if backend is not None:
        asked_gpu(Device.parse(backend.device))
    for place in places:
        if isinstance(place, ArchivePlace) and place.backend is not None:
            asked_gpu(Device.parse(place.backend.device), f"{place.path}: device", "give device cpu")


def _without_effect(config: ServiceConfig, keys: "Keys") -> list[str]:
    """Return a line for each setting that does nothing beside the others."""
    found = []
    if config.writable and keys and not keys.write:
        found.append("--writable does nothing: there are keys, and none of them may write (--write-key-file)")
    if config.metrics_need_key and not keys:
        found.append("--metrics-need-key does nothing: there are no keys (--read-key-file)")
    return found


def _end_now(writer: "LogWriter") -> None:
    """End the process, whatever runs: archives are whole at every moment."""
    writer.stop()
    os._exit(FORCED)


def check_address(config: ServiceConfig, keys: "Keys") -> None:
    """Raise ``ConfigError`` for an address that others reach, where everybody may ask and that was not said."""
    if not config.is_local and not keys and not config.allow_no_keys:
        raise ConfigError(
            f"--host {config.host} is reached by others: give keys (--read-key-file, --write-key-file, "
            "CTXDEPLOY_READ_KEYS, CTXDEPLOY_WRITE_KEYS), or say --allow-no-keys"
        )
