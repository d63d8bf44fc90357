"""The server: from settings to a port that answers."""

import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.extras import require
from ctxdeploy.service.config import ArchivePlace, ServiceConfig

if TYPE_CHECKING:
    from ctxdeploy.runtime import BackendConfig
    from ctxdeploy.service.keys import Keys

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
    from ctxdeploy.service.archives import Archives
    from ctxdeploy.service.keys import Keys
    from ctxdeploy.service.listening import Listener, bound_socket, url_of_socket
    from ctxdeploy.service.logs import log, start_log
    from ctxdeploy.service.service import Service

    keys = Keys.load(config, os.environ)
    check_address(config, keys)
    with bound_socket(config) as bound:
        service = Service(Archives(places, config, backend), config, keys)
        stop_log = start_log(config.log_format)
        try:
            for warning in keys.warnings:
                log.warning(warning)
            listener = Listener(create_app(service), config, service.readiness)
            listening(url_of_socket(bound))

            def prepare() -> None:
                service.prepare()
                if service.readiness.failure is not None:
                    listener.stop()

            threading.Thread(target=prepare, name="ctxdeploy-prepare", daemon=True).start()
            listener.run(sockets=[bound])
            has_ended = service.close(0 if listener.force_exit else 5)
        finally:
            stop_log()
    if service.readiness.failure is not None:
        raise service.readiness.failure
    if listener.force_exit or not has_ended:
        # Threads that still run would be waited for.
        sys.stderr.flush()
        os._exit(FORCED if listener.force_exit else 0)


def check_address(config: ServiceConfig, keys: "Keys") -> None:
    """Raise ``ConfigError`` for an address that others reach, where everybody may ask and that was not said."""
    if not config.is_local and not keys and not config.allow_no_keys:
        raise ConfigError(
            f"--host {config.host} is reached by others: give keys (--read-key-file, --write-key-file, "
            "CTXDEPLOY_READ_KEYS, CTXDEPLOY_WRITE_KEYS), or say --allow-no-keys"
        )
