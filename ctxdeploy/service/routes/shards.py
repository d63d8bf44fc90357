"""What a shard server answers: requests of a front about its part of the shards, and what it serves.

The bodies are messages of ``ctxdeploy.sharding``, both ways; a front sends them, and nobody else needs to.
"""

import math
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.errors import StaleStateError
from ctxdeploy.service.bodies import read_upload
from ctxdeploy.service.part_service import PartService
from ctxdeploy.service.problems import MEDIA_TYPE, problem_fields
from ctxdeploy.service.record import RequestRecord, record_of
from ctxdeploy.service.replies import json_reply
from ctxdeploy.service.schemas import PROBLEMS, ArchiveOption
from ctxdeploy.sharding.http_replica import BYTES, PATH, SECONDS_HEADER

router = APIRouter(tags=["shards"], responses=PROBLEMS)
_BINARY = {"schema": {"type": "string", "format": "binary"}}


class ShardOptions(ArchiveOption):
    """Whom a front means."""

    part: Annotated[str | None, Field(description="The part that is to answer, as I/N; another one refuses.")] = None


class PartFacts(BaseModel):
    """A part of an archive."""

    name: str
    part: Annotated[str, Field(description="I/N: which part of the archive's shards it is.")]
    photos: Annotated[int, Field(description="Of the part.")]
    states: Annotated[list[int], Field(description="Numbers of the commits that it can answer from.")]
    stale: Annotated[bool, Field(description="A newer state cannot be read; the last whole one answers.")]


class ServedParts(BaseModel):
    """All that is served."""

    archives: list[PartFacts]


@router.post(
    PATH,
    response_class=Response,
    responses={200: {"content": {BYTES: _BINARY}}},
    openapi_extra={"requestBody": {"required": True, "content": {BYTES: _BINARY}}},
)
async def shard(request: Request, options: Annotated[ShardOptions, Query()]) -> Response:
    """Answer a front."""
    service: PartService = request.app.state.service
    record = record_of(request)
    served = service.parts.named(options.archive)
    served.check_part(options.part)
    _shorten(record, request.headers.get(SECONDS_HEADER))
    upload = await read_upload(request)
    try:
        answer = await service.compute(request, lambda: service.answered(served, upload.data, record))
    except StaleStateError as error:
        problem = service.problem(error)
        record.code = problem.code
        fields = problem_fields(problem, record.request_id, request.url.path) | {"held": list(error.held)}
        return JSONResponse(fields, status_code=problem.status, media_type=MEDIA_TYPE)
    return Response(answer, media_type=BYTES)


@router.get("/v1/archives", response_model=ServedParts)
async def served_parts(request: Request) -> Response:
    """List what is served."""
    service: PartService = request.app.state.service

    def look() -> dict[str, Any]:
        return {"archives": [served.facts() for served in service.parts]}

    return json_reply(await service.lookups.run(look))


def _shorten(record: RequestRecord, given: str | None) -> None:
    """Let the deadline of a request end when the front stops waiting, where that is sooner."""
    try:
        seconds = float(given) if given is not None and len(given) <= 32 else math.inf
    except ValueError:
        return
    left = record.deadline.left
    if 0 <= seconds < (math.inf if left is None else left):
        record.deadline = Deadline(seconds)
