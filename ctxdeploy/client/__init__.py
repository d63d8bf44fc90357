"""Ask a ``ctxdeploy serve`` over HTTP: ``Client``, and ``AsyncClient`` with the same methods.

    from ctxdeploy.client import Client

    with Client("http://127.0.0.1:8000") as client:
        for result in client.search("photo.jpg").results:
            print(result.name, result.probability)

What is asked and how replies are read stands once, in ``conversations``, as generators that yield what is to be done
(send, wait, read a file). The two clients do that, each in its way. The extra ``client`` is all that this needs.
"""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door
from ctxdeploy.core.errors import ServiceError

if TYPE_CHECKING:
    from ctxdeploy.client.answers import (
        ArchiveFacts,
        Coverage,
        Descriptors,
        Failure,
        Folder,
        Job,
        NamesPage,
        PhotoFacts,
        Readiness,
        Result,
        SearchAnswer,
    )
    from ctxdeploy.client.async_client import AsyncClient
    from ctxdeploy.client.client import Client
    from ctxdeploy.client.options import ClientConfig, SearchOptions

_NAMES = {
    "answers": (
        "ArchiveFacts", "Coverage", "Descriptors", "Failure", "Folder", "Job", "NamesPage", "PhotoFacts", "Readiness",
        "Result", "SearchAnswer",
    ),
    "async_client": ("AsyncClient",),
    "client": ("Client",),
    "options": ("ClientConfig", "SearchOptions"),
}  # fmt: skip
_HOMES = {name: module for module, names in _NAMES.items() for name in names}
_HOMES["ServiceError"] = "ctxdeploy.core.errors"

__all__ = [
    "ArchiveFacts",
    "AsyncClient",
    "Client",
    "ClientConfig",
    "Coverage",
    "Descriptors",
    "Failure",
    "Folder",
    "Job",
    "NamesPage",
    "PhotoFacts",
    "Readiness",
    "Result",
    "SearchAnswer",
    "SearchOptions",
    "ServiceError",
]

__getattr__, __dir__ = door(__name__, _HOMES)
