"""The server: from settings to a port that answers."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.extras import require
from ctxdeploy.service.config import ServiceConfig

if TYPE_CHECKING:
    from ctxdeploy.runtime import BackendConfig


def serve(
    paths: Sequence[Path],
    config: ServiceConfig,
    backend: "BackendConfig | None" = None,
    listening: Callable[[str], None] = lambda url: None,
) -> None:
    """Answer requests until the process is told to end.

    Args:
        paths: archives.
        config, backend: settings of the service, and of what runs its networks.
        listening: called with the URL when the port answers; ``/readyz`` says from when on requests are answered.

    Raises:
        ConfigError: settings that exclude each other, an address that cannot be had, or one that needs keys.
        MissingExtraError: the extra ``serve`` is not installed.
        ArchiveError: one of the paths is not an archive.
        CtxdeployError: whatever else keeps an archive from being answered from.
    """
    for module in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        require(module, "serve")
    from ctxdeploy.service.app import create_app
    from ctxdeploy.service.archives import Archives
    from ctxdeploy.service.listening import Listener, bound_socket, quiet_uvicorn, url_of_socket
    from ctxdeploy.service.service import Service

    if not config.is_local and not config.allow_no_keys:
        raise ConfigError(f"--host {config.host} is reached by others: give keys, or say --allow-no-keys")
    bound = bound_socket(config)
    with bound:
        service = Service(Archives(paths, config, backend), config)
        quiet_uvicorn()
        listener = Listener(create_app(service), config, service.readiness)
        bound.listen()
        listening(url_of_socket(bound))

        def prepare() -> None:
            service.prepare()
            if service.readiness.failure is not None:
                listener.stop()

        preparing = threading.Thread(target=prepare, name="ctxdeploy-prepare", daemon=True)
        preparing.start()
        listener.run(sockets=[bound])
        if service.readiness.failure is not None:
            raise service.readiness.failure
