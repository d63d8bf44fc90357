"""The server: from settings to a port that answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.extras import require
from ctxdeploy.service.config import ServiceConfig

if TYPE_CHECKING:
    from ctxdeploy.runtime import BackendConfig


def serve(paths: Sequence[Path], config: ServiceConfig, backend: "BackendConfig | None" = None) -> None:
    """Answer requests until the process is told to end.

    Raises:
        ConfigError: settings that exclude each other, or an address that needs keys.
        MissingExtraError: the extra ``serve`` is not installed.
        ArchiveError: one of the paths is not an archive.
    """
    require("fastapi", "serve")
    uvicorn = require("uvicorn", "serve")
    from ctxdeploy.service.app import create_app
    from ctxdeploy.service.archives import Archives
    from ctxdeploy.service.service import Service

    if not config.is_local and not config.allow_no_keys:
        raise ConfigError(f"--host {config.host} is reached by others: give keys, or say --allow-no-keys")
    service = Service(Archives(paths, config, backend), config)
    uvicorn.run(create_app(service), host=config.host, port=config.port, log_level="warning")
