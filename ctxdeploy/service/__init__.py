"""Search by photo over HTTP: FastAPI on ``PhotoIndex``.

    request ─ body within its limit ─ queue ─ thread: describe ─ search ─ verify ─ judge ─ answer as JSON

Everything that computes runs in threads and processes, never in the event loop.
"""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.service.app import create_app
    from ctxdeploy.service.archives import Archives
    from ctxdeploy.service.config import ArchivePlace, ServiceConfig
    from ctxdeploy.service.server import serve
    from ctxdeploy.service.service import Service

__all__ = ["ArchivePlace", "Archives", "Service", "ServiceConfig", "create_app", "serve"]

_HOMES = {
    "ArchivePlace": "config",
    "Archives": "archives",
    "Service": "service",
    "ServiceConfig": "config",
    "create_app": "app",
    "serve": "server",
}

__getattr__, __dir__ = door(__name__, _HOMES)
