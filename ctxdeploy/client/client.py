"""The client of programs that wait for their answers."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ctxdeploy.client.answers import (
    ArchiveFacts,
    Descriptors,
    Folder,
    Job,
    NamesPage,
    PhotoFacts,
    Readiness,
    SearchAnswer,
)
from ctxdeploy.client.conversations import Conversations
from ctxdeploy.client.exchange import Conversation, NoReply, Pause, Photo, Reply, Send, Step
from ctxdeploy.client.options import ClientConfig, SearchOptions
from ctxdeploy.client.transport import Collector, arguments, no_reply, read_photo, request_of
from ctxdeploy.core.errors import ServiceError
from ctxdeploy.core.extras import require

if TYPE_CHECKING:
    import httpx

    from ctxdeploy.core.types import Box

_Result = TypeVar("_Result")
PAGE = 1000  # names of a request


def asked(top: int | None, box: "Box | Sequence[float] | None", options: SearchOptions | None) -> SearchOptions:
    """Return the options of a search, with what is given beside them."""
    given = options or SearchOptions()
    given = given if top is None else replace(given, top=top)
    return given if box is None else replace(given, box=box)


class Client:
    """A service and one of its archives. Any number of threads may use it at once.

        with Client("http://127.0.0.1:8000") as client:
            answer = client.search("photo.jpg", top=5)

    A photo is a path, the bytes of a file, or a file opened in binary mode. Every method raises ``ServiceError`` where
    the service refuses, is not reached in all attempts or not in time, and ``PhotoError`` for a file that is not there.

    Args:
        url: of the service.
        key: that it asks for; that of the variable ``CTXDEPLOY_KEY`` if not given.
        archive: which archive is asked; not needed where there is one.
        timeout: seconds of a call, further attempts included.
        retries: further attempts where the service is busy, not ready, or not reached.
        http: an ``httpx.Client`` of your own, for certificates, proxies or a shared pool; it is not closed.

    Raises:
        ConfigError: no URL, or settings out of their range.
        MissingExtraError: the extra ``client`` is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        archive: str | None = None,
        timeout: float = 60.0,
        retries: int = 3,
        http: "httpx.Client | None" = None,
    ) -> None:
        self.config = ClientConfig(url=url, key=key, archive=archive, timeout=timeout, retries=retries)
        self._say = Conversations(self.config)
        self._own = http is None
        self._http: httpx.Client = http or require("httpx", "client").Client(**arguments(self.config))

    def search(
        self,
        photo: Photo | None = None,
        *,
        indexed: str | None = None,
        top: int | None = None,
        box: "Box | Sequence[float] | None" = None,
        options: SearchOptions | None = None,
    ) -> SearchAnswer:
        """Return what a photo finds.

        Args:
            photo: to ask with.
            indexed: name of a photo of the archive to ask with instead.
            top: results at most.
            box: the part of the photo to search for: x0, y0, x1, y1 in its pixels.
            options: all that can be said of a search.
        """
        return self._do(self._say.search(photo, indexed, asked(top, box, options)))

    def search_many(
        self, photos: Iterable[Photo] = (), *, indexed: Iterable[str] = (), options: SearchOptions | None = None
    ) -> list[SearchAnswer | ServiceError]:
        """Return an answer for each photo, then for each name of an indexed one, in order, or why there is none."""
        return self._do(self._say.search_many(photos, indexed, options))

    def descriptors(self, photo: Photo, *, box: "Box | Sequence[float] | None" = None) -> Descriptors:
        """Return what the network says of a photo, or of a box in it; reads safetensors and needs numpy."""
        return self._do(self._say.descriptors(photo, SearchOptions(box=box)))

    def add(self, photo: Photo, *, name: str | None = None) -> Job:
        """Add a photo, or replace the one of its name; by default that of its file. ``wait`` waits for its commit."""
        return self._do(self._say.add(photo, name))

    def add_many(self, photos: Mapping[str, Photo] | Iterable[Photo]) -> list[Job]:
        """Add or replace photos, given with their names or called as their files; a job has up to 16."""
        return self._do(self._say.add_many(photos))

    def remove(self, name: str, *, file: bool = False) -> Job:
        """Remove a photo from the archive; its file too if that is said, and the service does it."""
        return self._do(self._say.remove(name, file))

    def job(self, job: Job | str) -> Job:
        """Return how far a job is, given as it is or by its id."""
        return self._do(self._say.job(job))

    def wait(self, job: Job | str, *, timeout: float | None = None) -> Job:
        """Wait until a job is done and return it; ``ServiceError`` if it fails or takes longer than ``timeout``."""
        return self._do(self._say.wait(job, timeout))

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield the names of photos, sorted; they are fetched as they are wanted."""
        page = self.names_page(prefix, limit=PAGE)
        yield from page.names
        while page.next is not None:
            page = self.names_page(prefix, after=page.next, limit=PAGE)
            yield from page.names

    def names_page(self, prefix: str = "", *, after: str | None = None, limit: int = PAGE) -> NamesPage:
        """Return some names after one of them, and where the rest begins."""
        return self._do(self._say.names_page(prefix, after, limit))

    def folders(self, prefix: str = "") -> list[Folder]:
        """Return the folders right below a prefix, such as ``2024/``."""
        return self._do(self._say.folders(prefix, None))

    def photo(self, name: str) -> PhotoFacts:
        """Return what is known of a photo."""
        return self._do(self._say.photo(name))

    def archives(self) -> list[ArchiveFacts]:
        """Return what is served."""
        return self._do(self._say.archives())

    def thumbnail(self, name: str, *, size: int = 320) -> bytes:
        """Return a JPEG of a photo, whose longer side has ``size`` pixels: 160, 320, 640 or 1280."""
        return self._do(self._say.thumbnail(name, size))

    def original(self, name: str) -> bytes:
        """Return the file of a photo."""
        return self._do(self._say.original(name))

    def ready(self) -> Readiness:
        """Return whether the service answers, and what it does before."""
        return self._do(self._say.ready())

    def _do(self, conversation: Conversation[_Result]) -> _Result:
        """Do what a conversation wants done, and return what it comes to."""
        done: Any = None
        try:
            while True:
                step = conversation.send(done)
                done = self._step(step)
        except StopIteration as end:
            result: _Result = end.value
            return result
        finally:
            conversation.close()

    def _step(self, step: Step) -> Any:
        if isinstance(step, Send):
            return self._sent(step)
        return time.sleep(step.seconds) if isinstance(step, Pause) else read_photo(step.photo)

    def _sent(self, send: Send) -> Reply | NoReply:
        httpx = require("httpx", "client")
        collector = Collector(self.config, send.seconds)
        try:
            response = self._http.send(request_of(self._http, self.config, send), stream=True, follow_redirects=False)
            try:
                for piece in response.iter_bytes():
                    refused = collector.take(piece)
                    if refused is not None:
                        return refused
            finally:
                response.close()
            return collector.reply(response)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return no_reply(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._own:
            self._http.close()

    def __repr__(self) -> str:
        return f"Client({self.config.url!r})"
