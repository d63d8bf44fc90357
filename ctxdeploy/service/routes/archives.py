"""What is served."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from ctxdeploy.service.replies import json_reply
from ctxdeploy.service.schemas import PROBLEMS
from ctxdeploy.service.service import Service

router = APIRouter(prefix="/v1", tags=["archives"], responses=PROBLEMS)


class Model(BaseModel):
    """What described the photos."""

    id: str | None
    name: str | None
    preprocessing: str | None


class Archive(BaseModel):
    """An archive."""

    name: str
    photos: int
    state: Annotated[int, Field(description="Number of the commit that answers now.")]
    bytes: int
    model: Model
    local: Annotated[bool, Field(description="It keeps local descriptors, as postings.")]
    geometry: Annotated[str | None, Field(description="What it keeps of features: positions, codes or descriptors.")]
    global_: Annotated[
        str | None, Field(alias="global", description="How it keeps global vectors: fp32, fp16, int8 or pq.")
    ]
    writable: Annotated[bool, Field(description="Photos may be added and removed.")]
    pictures: Annotated[
        str, Field(description="Where the files are: folder, packed (tar, zip), elsewhere (a server), or none.")
    ]
    stale: Annotated[bool, Field(description="A newer state cannot be read; the last whole one answers.")]
    batch_size: Annotated[
        int | None,
        Field(description="Photos of one shape that the network takes at once; above 1, last bits depend on company."),
    ]


class ArchiveList(BaseModel):
    """All archives."""

    archives: list[Archive]


@router.get("/archives", response_model=ArchiveList)
async def archives(request: Request) -> Response:
    """List the archives."""
    service: Service = request.app.state.service
    writable = service.config.writable

    def look() -> dict[str, Any]:
        return {"archives": [served.facts(writable=writable) for served in service.archives]}

    return json_reply(await service.lookups.run(look))


@router.get("/archives/{archive}", response_model=Archive)
async def archive(request: Request, archive: Annotated[str, Path()]) -> Response:
    """Return what is known of an archive."""
    service: Service = request.app.state.service
    served = service.archives.named(archive)
    return json_reply(await service.lookups.run(lambda: served.facts(writable=service.config.writable)))
