"""What a client and a service say to each other, for each method of ``Client``; see ``exchange``."""

import time
from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from pathlib import PurePath
from typing import Any, TypeVar
from urllib.parse import quote

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
from ctxdeploy.client.exchange import Conversation, Pause, Photo, ReadPhoto, Reply, Request, exchange, problem_error
from ctxdeploy.client.options import ClientConfig, SearchOptions
from ctxdeploy.client.reading import read, read_json
from ctxdeploy.core.errors import ConfigError, ServiceError

# Photos, and bytes of them, of one request: a service refuses long ones.
_FORM_PHOTOS, _FORM_BYTES = 16, 32 << 20
# Seconds between two looks at a job: the first, and at most.
_LOOK, _MOST = 0.05, 2.0
# What forms have no one way to write in the name of a file: such photos are sent one by one.
_UNSAFE = frozenset('"\\%')
_OCTETS = {"Content-Type": "application/octet-stream"}
_SAFETENSORS = "application/x-safetensors"
_Parsed = TypeVar("_Parsed")


class Conversations:
    """What is said to one archive of a service.

    Args:
        config: how the client speaks.
    """

    def __init__(self, config: ClientConfig) -> None:
        self.config = config

    def search(
        self, photo: Photo | None, indexed: str | None, options: SearchOptions | None
    ) -> Conversation[SearchAnswer]:
        """Ask with a photo, or with one of the archive."""
        if (photo is None) == (indexed is None):
            raise ConfigError("search takes a photo, or the name of one of the archive as indexed=: give one of them")
        parameters = (options or SearchOptions()).parameters()
        if photo is None:
            request = self._request("GET", "/v1/search", [("indexed", indexed or ""), *parameters])
        else:
            data = yield ReadPhoto(photo=photo)
            request = self._request("POST", "/v1/search", parameters, headers=_OCTETS, body=data)
        reply = yield from exchange(request, self.config)
        return self._parsed(SearchAnswer, request, reply)

    def search_many(
        self, photos: Iterable[Photo], indexed: Iterable[str], options: SearchOptions | None
    ) -> Conversation[list[SearchAnswer | ServiceError]]:
        """Ask with several photos, then with several of the archive; for one that is refused there is an error."""
        for value, word in ((photos, "photos"), (indexed, "indexed")):
            if isinstance(value, str | bytes):
                raise ConfigError(f"{word} is one photo: give a list, or call search")
        parameters = (options or SearchOptions()).parameters()
        answers: list[SearchAnswer | ServiceError] = []
        form: list[tuple[str, bytes]] = []
        for number, photo in enumerate(photos):
            data = yield ReadPhoto(photo=photo)
            if form and (len(form) == _FORM_PHOTOS or sum(len(d) for _, d in form) + len(data) > _FORM_BYTES):
                answers += yield from self._batch(parameters, tuple(form))
                form = []
            form.append((_name_of(photo) or f"photo-{number}", data))
        if form:
            answers += yield from self._batch(parameters, tuple(form))
        names = list(indexed)
        for start in range(0, len(names), _FORM_PHOTOS):
            some = [("indexed", name) for name in names[start : start + _FORM_PHOTOS]]
            answers += yield from self._batch([*some, *parameters], ())
        return answers

    def _batch(
        self, parameters: list[tuple[str, str]], form: tuple[tuple[str, bytes], ...]
    ) -> Conversation[list[SearchAnswer | ServiceError]]:
        request = self._request("POST", "/v1/search/batch", parameters, form=form)
        reply = yield from exchange(request, self.config)
        found = self._json(request, reply, "answers", list)
        return [
            problem_error(f"POST {self.config.url}{request.path}", one["status"], one, {})
            if isinstance(one, dict) and isinstance(one.get("status"), int)
            else self._read(SearchAnswer, one, request, reply)
            for one in found
        ]

    def descriptors(self, photo: Photo, options: SearchOptions) -> Conversation[Descriptors]:
        """Ask what the network says of a photo, or of the box that the options have."""
        data = yield ReadPhoto(photo=photo)
        headers = {**_OCTETS, "Accept": _SAFETENSORS}
        request = self._request("POST", "/v1/descriptors", options.parameters(), headers=headers, body=data)
        reply = yield from exchange(request, self.config)
        if _SAFETENSORS not in reply.headers.get("content-type", ""):
            raise self._no_answer(request, reply, f"it is {reply.headers.get('content-type')}, not {_SAFETENSORS}")
        try:
            return _descriptors(reply.body)
        except (KeyError, ValueError) as error:
            raise self._no_answer(request, reply, f"{error}") from error

    def add(self, photo: Photo, name: str | None) -> Conversation[Job]:
        """Add or replace a photo."""
        name = _name_of(photo) if name is None else name
        if not name:
            raise ConfigError("the photo has no name: give name=, under which the archive keeps it")
        data = yield ReadPhoto(photo=photo)
        request = self._request("PUT", f"/v1/photos/{escaped(name)}", headers=_OCTETS, body=data, accepts=(202,))
        reply = yield from exchange(request, self.config)
        return self._parsed(Job, request, reply)

    def add_many(self, photos: Mapping[str, Photo] | Iterable[Photo]) -> Conversation[list[Job]]:
        """Add or replace photos, some in each job."""
        named = photos.items() if isinstance(photos, Mapping) else ((_name_of(photo), photo) for photo in photos)
        jobs: list[Job] = []
        form: list[tuple[str, bytes]] = []
        for name, photo in named:
            if not name:
                raise ConfigError("a photo has no name: give a mapping of names and photos")
            if not name.isprintable() or set(name) & _UNSAFE:
                jobs.append((yield from self.add(photo, name)))
                continue
            data = yield ReadPhoto(photo=photo)
            if form and (len(form) == _FORM_PHOTOS or sum(len(d) for _, d in form) + len(data) > _FORM_BYTES):
                jobs.append((yield from self._add_form(tuple(form))))
                form = []
            form.append((name, data))
        if form:
            jobs.append((yield from self._add_form(tuple(form))))
        return jobs

    def _add_form(self, form: tuple[tuple[str, bytes], ...]) -> Conversation[Job]:
        request = self._request("POST", "/v1/photos", form=form, accepts=(202,), repeatable=False)
        reply = yield from exchange(request, self.config)
        return self._parsed(Job, request, reply)

    def remove(self, name: str, file: bool) -> Conversation[Job]:
        """Remove a photo, and its file as well."""
        parameters = [("file", "true")] if file else []
        request = self._request("DELETE", f"/v1/photos/{escaped(name)}", parameters, accepts=(202,))
        reply = yield from exchange(request, self.config)
        return self._parsed(Job, request, reply)

    def job(self, job: Job | str) -> Conversation[Job]:
        """Ask how far a job is."""
        number = job if isinstance(job, str) else job.id
        request = self._request("GET", f"/v1/jobs/{escaped(number)}", of_archive=False)
        reply = yield from exchange(request, self.config)
        return self._parsed(Job, request, reply)

    def wait(self, job: Job | str, timeout: float | None) -> Conversation[Job]:
        """Wait until a job is done, and return it."""
        seconds = self.config.timeout if timeout is None else timeout
        until, look = time.monotonic() + seconds, _LOOK
        while True:
            found = yield from self.job(job)
            if found.state == "failed":
                raise ServiceError(f"job {found.id} failed: {found.reason or 'no reason is given'}", code="JobFailed")
            if found.is_finished:
                return found
            if time.monotonic() + look >= until:
                raise ServiceError(f"job {found.id} is {found.state} after {seconds:g} s", code="Timeout")
            yield Pause(seconds=look)
            look = min(1.5 * look, _MOST)

    def names_page(self, prefix: str, after: str | None, limit: int) -> Conversation[NamesPage]:
        """Ask for some of the names."""
        parameters = [("prefix", prefix), ("limit", str(limit)), *([] if after is None else [("after", after)])]
        request = self._request("GET", "/v1/photos", parameters)
        reply = yield from exchange(request, self.config)
        return self._parsed(NamesPage, request, reply)

    def folders(self, prefix: str, after: str | None) -> Conversation[list[Folder]]:
        """Ask which folders there are right below a prefix."""
        found: list[Folder] = []
        while True:
            parameters = [("prefix", prefix), *([] if after is None else [("after", after)])]
            request = self._request("GET", "/v1/folders", parameters)
            reply = yield from exchange(request, self.config)
            some = self._json(request, reply, "folders", list)
            found += [self._read(Folder, one, request, reply) for one in some]
            after = self._json(request, reply, "next", (str, type(None)))
            if after is None:
                return found

    def photo(self, name: str) -> Conversation[PhotoFacts]:
        """Ask what is known of a photo."""
        request = self._request("GET", f"/v1/photos/{escaped(name)}")
        reply = yield from exchange(request, self.config)
        return self._parsed(PhotoFacts, request, reply)

    def archives(self) -> Conversation[list[ArchiveFacts]]:
        """Ask what is served."""
        request = self._request("GET", "/v1/archives", of_archive=False)
        reply = yield from exchange(request, self.config)
        return [self._read(ArchiveFacts, one, request, reply) for one in self._json(request, reply, "archives", list)]

    def thumbnail(self, name: str, size: int) -> Conversation[bytes]:
        """Ask for a small picture of a photo."""
        request = self._request("GET", f"/v1/thumbnails/{escaped(name)}", [("size", str(size))])
        reply = yield from exchange(request, self.config)
        return reply.body

    def original(self, name: str) -> Conversation[bytes]:
        """Ask for the file of a photo."""
        request = self._request("GET", f"/v1/originals/{escaped(name)}")
        reply = yield from exchange(request, self.config)
        return reply.body

    def ready(self) -> Conversation[Readiness]:
        """Ask whether it answers."""
        request = self._request("GET", "/readyz", of_archive=False, accepts=(200, 503), patient=False)
        reply = yield from exchange(request, self.config)
        try:
            told = read_json(reply.body)
        except ValueError:
            told = None
        reason = (told.get("reason") or told.get("detail") or "") if isinstance(told, dict) else ""
        return Readiness(ready=reply.status == 200, reason=str(reason))

    def _request(
        self,
        method: str,
        path: str,
        parameters: Iterable[tuple[str, str]] = (),
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        form: tuple[tuple[str, bytes], ...] = (),
        accepts: tuple[int, ...] = (200,),
        repeatable: bool = True,
        patient: bool = True,
        of_archive: bool = True,
    ) -> Request:
        archive = self.config.archive if of_archive else None
        return Request(
            method=method,
            path=path,
            parameters=(*parameters, *([] if archive is None else [("archive", archive)])),
            headers=headers or {},
            body=body,
            form=form,
            accepts=accepts,
            repeatable=repeatable,
            patient=patient,
        )

    def _json(self, request: Request, reply: Reply, word: str, kind: Any) -> Any:
        """Return one entry of the object that a reply is."""
        try:
            told = read_json(reply.body)
            value = told.get(word) if isinstance(told, dict) else told
            if not isinstance(told, dict) or not isinstance(value, kind):
                raise ValueError(f"{word} is missing")
        except ValueError as error:
            raise self._no_answer(request, reply, str(error)) from error
        return value

    def _parsed(self, kind: type[_Parsed], request: Request, reply: Reply) -> _Parsed:
        try:
            return read(kind, read_json(reply.body))
        except ValueError as error:
            raise self._no_answer(request, reply, str(error)) from error

    def _read(self, kind: type[_Parsed], value: Any, request: Request, reply: Reply) -> _Parsed:
        try:
            return read(kind, value)
        except ValueError as error:
            raise self._no_answer(request, reply, str(error)) from error

    def _no_answer(self, request: Request, reply: Reply, why: str) -> ServiceError:
        text = f"{request.method} {self.config.url}{request.path}: the reply is not what a ctxdeploy serve says: {why}"
        return ServiceError(text, status=reply.status, request_id=reply.headers.get("x-request-id"))


def escaped(name: str) -> str:
    """Return a name as a part of a path. Parts that are dots stay as they are named: no library resolves them."""
    parts = quote(name, safe="/", errors="surrogateescape").split("/")
    return "/".join(part.replace(".", "%2E") if part in (".", "..") else part for part in parts)


def _name_of(photo: Photo) -> str | None:
    """Return what a photo is called: as its file; None where it has none."""
    place = photo if isinstance(photo, str | PathLike) else getattr(photo, "name", None)
    return PurePath(fspath(place)).name if isinstance(place, str | PathLike) else None


def _descriptors(body: bytes) -> Descriptors:
    from safetensors.numpy import load

    try:
        found = load(body)
        # The header, JSON after its length, was found sound; its facts are texts, which ``load`` leaves out.
        facts = read_json(body[8 : 8 + int.from_bytes(body[:8], "little")]).get("__metadata__", {})
    except Exception as error:  # safetensors raises its own error, which is no ValueError
        raise ValueError(f"it is no safetensors file: {error}") from error
    return Descriptors(
        vectors=found["vectors"],
        attention=found["attention"],
        positions=found["positions"],
        scales=found["scales"],
        model=facts.get("model"),
        size=(int(facts["width"]), int(facts["height"])) if "width" in facts else None,
        global_vector=found.get("global"),
    )
