"""Photos of an archive: their names, what is known of them, their folders."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.service.archives import ServedArchive
from ctxdeploy.service.replies import json_reply, no_such_photo, path_name
from ctxdeploy.service.schemas import PROBLEMS, ArchiveOption
from ctxdeploy.service.service import Service

router = APIRouter(prefix="/v1", tags=["photos"], responses=PROBLEMS)


class ListOptions(ArchiveOption):
    """A page of names."""

    prefix: Annotated[str, Field(description="Only names that begin so.")] = ""
    after: Annotated[str | None, Field(description="Only what comes after this: ``next`` of the page before.")] = None
    limit: Annotated[int, Field(ge=1, le=10_000, description="At most so many.")] = 1000


class PhotoNames(BaseModel):
    """A page of names, in the order of their characters."""

    archive: str
    state: int
    count: Annotated[int, Field(description="Photos whose names begin so.")]
    photos: list[str]
    next: Annotated[str | None, Field(description="Give it as ``after`` for the next page; null if this is the last.")]


class Folder(BaseModel):
    """A folder."""

    name: str
    photos: Annotated[int, Field(description="In it and below it.")]


class Folders(BaseModel):
    """Folders right below a prefix."""

    archive: str
    state: int
    count: Annotated[int, Field(description="Photos whose names begin so.")]
    folders: list[Folder]
    next: str | None


class File(BaseModel):
    """The file of a photo as it was indexed."""

    size: int
    modified: str


class PhotoFacts(BaseModel):
    """What is known of a photo."""

    name: str
    archive: str
    state: int
    file: File | None
    size: Annotated[list[int] | None, Field(description="Width and height in pixels.")]
    features: Annotated[int | None, Field(description="That are kept; null where none are.")]


@router.get("/photos", response_model=PhotoNames)
async def photos(request: Request, options: Annotated[ListOptions, Query()]) -> Response:
    """List names of photos."""
    service: Service = request.app.state.service
    served = service.archives.named(options.archive)

    def look() -> dict[str, Any]:
        names = served.names()
        found, behind = names.page(options.prefix, options.after, options.limit)
        facts = {"archive": served.name, "state": names.state, "count": names.count(options.prefix)}
        return {**facts, "photos": found, "next": behind}

    return json_reply(await service.lookups.run(look))


@router.get("/folders", response_model=Folders)
async def folders(request: Request, options: Annotated[ListOptions, Query()]) -> Response:
    """List the folders right below a prefix, with how many photos they hold."""
    service: Service = request.app.state.service
    served = service.archives.named(options.archive)

    def look() -> dict[str, Any]:
        names = served.names()
        found, behind = names.folders(options.prefix, options.after, options.limit)
        facts = {"archive": served.name, "state": names.state, "count": names.count(options.prefix)}
        shown = [{"name": folder.name, "photos": folder.photos} for folder in found]
        return {**facts, "folders": shown, "next": behind}

    return json_reply(await service.lookups.run(look))


@router.get("/photos/{name:path}", response_model=PhotoFacts)
async def photo(request: Request, name: str, options: Annotated[ArchiveOption, Query()]) -> Response:
    """Return what is known of a photo."""
    service: Service = request.app.state.service
    served = service.archives.named(options.archive)
    wanted = path_name(request, name)
    return json_reply(await service.lookups.run(lambda: photo_facts(served, wanted)))


def photo_facts(served: ServedArchive, name: str) -> dict[str, Any]:
    """Return what is known of a photo; ``ProblemError`` (404) if the archive does not hold it."""
    with served.photos.reading() as index:
        try:
            file = index.file_of(name)
        except ConfigError as error:
            raise no_such_photo(name) from error
        features = index.features(name) if index.config.keeps("positions") else None
        size = None if features is None or features.size is None else list(features.size)
        facts = {"name": name, "archive": served.name, "state": index.manifest.number}
    shown = None
    if file is not None:
        shown = {"size": file.size, "modified": _time(file.mtime_ns)}
    return {**facts, "file": shown, "size": size, "features": None if features is None else len(features)}


def _time(mtime_ns: int) -> str | None:
    try:
        return datetime.fromtimestamp(mtime_ns / 1e9, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError):  # no time of a calendar
        return None
