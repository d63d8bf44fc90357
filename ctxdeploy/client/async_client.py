"""The client of programs with an event loop: the methods of ``Client``, awaited."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
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
from ctxdeploy.client.client import PAGE, asked
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


class AsyncClient:
    """``Client`` for asyncio and trio: the same arguments, methods and errors; searches may run side by side.

        async with AsyncClient("http://127.0.0.1:8000") as client:
            answer = await client.search("photo.jpg", top=5)

    Files are read in a thread.

    Args:
        url, key, archive, timeout, retries: as of ``Client``.
        http: an ``httpx.AsyncClient`` of your own; it is not closed.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        archive: str | None = None,
        timeout: float = 60.0,
        retries: int = 3,
        http: "httpx.AsyncClient | None" = None,
    ) -> None:
        self.config = ClientConfig(url=url, key=key, archive=archive, timeout=timeout, retries=retries)
        self._say = Conversations(self.config)
        self._own = http is None
        self._http: httpx.AsyncClient = http or require("httpx", "client").AsyncClient(**arguments(self.config))

    async def search(
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
        return await self._do(self._say.search(photo, indexed, asked(top, box, options)))

    async def search_many(
        self, photos: Iterable[Photo] = (), *, indexed: Iterable[str] = (), options: SearchOptions | None = None
    ) -> list[SearchAnswer | ServiceError]:
        """Return an answer for each photo, then for each name of an indexed one, in order, or why there is none."""
        return await self._do(self._say.search_many(photos, indexed, options))

    async def descriptors(self, photo: Photo, *, box: "Box | Sequence[float] | None" = None) -> Descriptors:
        """Return what the network says of a photo, or of a box in it; reads safetensors and needs numpy."""
        return await self._do(self._say.descriptors(photo, SearchOptions(box=box)))

    async def add(self, photo: Photo, *, name: str | None = None) -> Job:
        """Add a photo, or replace the one of its name; by default that of its file. ``wait`` waits for its commit."""
        return await self._do(self._say.add(photo, name))

    async def add_many(self, photos: Mapping[str, Photo] | Iterable[Photo]) -> list[Job]:
        """Add or replace photos, given with their names or called as their files; a job has up to 16."""
        return await self._do(self._say.add_many(photos))

    async def remove(self, name: str, *, file: bool = False) -> Job:
        """Remove a photo from the archive; its file too if that is said, and the service does it."""
        return await self._do(self._say.remove(name, file))

    async def job(self, job: Job | str) -> Job:
        """Return how far a job is, given as it is or by its id."""
        return await self._do(self._say.job(job))

    async def wait(self, job: Job | str, *, timeout: float | None = None) -> Job:
        """Wait until a job is done and return it; ``ServiceError`` if it fails or takes longer than ``timeout``."""
        return await self._do(self._say.wait(job, timeout))

    async def names(self, prefix: str = "") -> AsyncIterator[str]:
        """Yield the names of photos, sorted; they are fetched as they are wanted."""
        page = await self.names_page(prefix, limit=PAGE)
        for name in page.names:
            yield name
        while page.next is not None:
            page = await self.names_page(prefix, after=page.next, limit=PAGE)
            for name in page.names:
                yield name

    async def names_page(self, prefix: str = "", *, after: str | None = None, limit: int = PAGE) -> NamesPage:
        """Return some names after one of them, and where the rest begins."""
        return await self._do(self._say.names_page(prefix, after, limit))

    async def folders(self, prefix: str = "") -> list[Folder]:
        """Return the folders right below a prefix, such as ``2024/``."""
        return await self._do(self._say.folders(prefix, None))

    async def photo(self, name: str) -> PhotoFacts:
        """Return what is known of a photo."""
        return await self._do(self._say.photo(name))

    async def archives(self) -> list[ArchiveFacts]:
        """Return what is served."""
        return await self._do(self._say.archives())

    async def thumbnail(self, name: str, *, size: int = 320) -> bytes:
        """Return a JPEG of a photo, whose longer side has ``size`` pixels: 160, 320, 640 or 1280."""
        return await self._do(self._say.thumbnail(name, size))

    async def original(self, name: str) -> bytes:
        """Return the file of a photo."""
        return await self._do(self._say.original(name))

    async def ready(self) -> Readiness:
        """Return whether the service answers, and what it does before."""
        return await self._do(self._say.ready())

    async def _do(self, conversation: Conversation[_Result]) -> _Result:
        """Do what a conversation wants done, and return what it comes to."""
        done: Any = None
        try:
            while True:
                step = conversation.send(done)
                done = await self._step(step)
        except StopIteration as end:
            result: _Result = end.value
            return result
        finally:
            conversation.close()

    async def _step(self, step: Step) -> Any:
        if isinstance(step, Send):
            return await self._sent(step)
        anyio = require("anyio", "client")  # httpx brings it
        if isinstance(step, Pause):
            return await anyio.sleep(step.seconds)
        return await anyio.to_thread.run_sync(read_photo, step.photo)

    async def _sent(self, send: Send) -> Reply | NoReply:
        httpx = require("httpx", "client")
        collector = Collector(self.config, send.seconds)
        try:
            request = request_of(self._http, self.config, send)
            response = await self._http.send(request, stream=True, follow_redirects=False)
            try:
                async for piece in response.aiter_bytes():
                    refused = collector.take(piece)
                    if refused is not None:
                        return refused
            finally:
                await response.aclose()
            return collector.reply(response)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return no_reply(error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._own:
            await self._http.aclose()

    def __repr__(self) -> str:
        return f"AsyncClient({self.config.url!r})"
