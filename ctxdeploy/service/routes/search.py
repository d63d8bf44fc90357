"""Search by photo."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse

from ctxdeploy.query import Answer
from ctxdeploy.querying.photo import IndexedPhoto, Photo
from ctxdeploy.service.archives import ServedArchive
from ctxdeploy.service.bodies import PHOTO_BODY, read_photo
from ctxdeploy.service.schemas import PROBLEMS, SearchAnswer, SearchOptions
from ctxdeploy.service.service import Service

router = APIRouter(prefix="/v1", tags=["search"], responses=PROBLEMS)


class IndexedOptions(SearchOptions):
    """How an archive is asked with a photo of its own."""

    indexed: Annotated[str, Query(description="Name of the photo to ask with.")]


@router.post("/search", response_model=SearchAnswer, openapi_extra=PHOTO_BODY)
async def search(request: Request, options: Annotated[SearchOptions, Query()]) -> JSONResponse:
    """Find photos that show the same as the photo in the body: its bytes, or the field ``photo`` of a form."""
    service: Service = request.app.state.service
    served = service.archives.named(options.archive)
    photo = await read_photo(request, service.config)
    return await _answered(service, served, photo, options)


@router.get("/search", response_model=SearchAnswer)
async def search_indexed(request: Request, options: Annotated[IndexedOptions, Query()]) -> JSONResponse:
    """Find photos that show the same as a photo of the archive, from what is stored of it."""
    service: Service = request.app.state.service
    served = service.archives.named(options.archive)
    return await _answered(service, served, IndexedPhoto(name=options.indexed), options)


async def _answered(
    service: Service, served: ServedArchive, photo: "Photo | IndexedPhoto", options: SearchOptions
) -> JSONResponse:
    since, config = time.perf_counter(), options.config(service.config)
    answer = await service.compute(lambda: next(iter(served.photos.search_many([photo], config))))
    if isinstance(answer, Exception):
        raise answer
    return JSONResponse(answer_fields(served.name, answer, options.matches, time.perf_counter() - since))


def answer_fields(archive: str, answer: Answer, matches: bool, total: float) -> dict[str, Any]:
    """Return an answer as ``SearchAnswer`` has it."""
    fields = answer.metadata()
    fields["archive"] = archive
    fields["seconds"]["total"] = total
    if matches:
        for result, hit in zip(fields["results"], answer.hits, strict=True):
            found = hit.verification
            points = [] if found is None else zip(found.query_points, found.photo_points, strict=True)
            result["matches"] = [[*map(float, here), *map(float, there)] for here, there in points]
    return fields
