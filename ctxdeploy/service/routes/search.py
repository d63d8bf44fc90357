"""Search by photo."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from ctxdeploy.querying.photo import IndexedPhoto
from ctxdeploy.service.answering import answered, answered_batch
from ctxdeploy.service.bodies import photo_body, read_upload
from ctxdeploy.service.describing import SAFETENSORS, described
from ctxdeploy.service.problems import ProblemError
from ctxdeploy.service.record import record_of
from ctxdeploy.service.schemas import (
    PROBLEMS,
    BatchOptions,
    DescriptorOptions,
    Descriptors,
    IndexedOptions,
    SearchAnswer,
    SearchAnswers,
    SearchOptions,
    parsed_box,
)
from ctxdeploy.service.service import Service

router = APIRouter(prefix="/v1", tags=["search"], responses=PROBLEMS)
_JSON = "application/json"


@router.post("/search", response_model=SearchAnswer, openapi_extra=photo_body())
async def search(request: Request, options: Annotated[SearchOptions, Query()]) -> Response:
    """Find photos that show the same as the photo in the body: its bytes, or the file ``photo`` of a form."""
    service: Service = request.app.state.service
    record = record_of(request)
    served, config = service.archives.named(options.archive), options.config(service.config)
    upload = await read_upload(request)
    body = await service.compute(request, lambda: answered(served, upload.photo(), config, options, record))
    return Response(body, media_type=_JSON)


@router.get("/search", response_model=SearchAnswer)
async def search_indexed(request: Request, options: Annotated[IndexedOptions, Query()]) -> Response:
    """Find photos that show the same as a photo of the archive, from what is stored of it."""
    service: Service = request.app.state.service
    record = record_of(request)
    served, config = service.archives.named(options.archive), options.config(service.config)
    photo = IndexedPhoto(name=options.indexed)
    body = await service.compute(request, lambda: answered(served, photo, config, options, record))
    return Response(body, media_type=_JSON)


@router.post("/search/batch", response_model=SearchAnswers, openapi_extra=photo_body(several=True))
async def search_batch(request: Request, options: Annotated[BatchOptions, Query()]) -> Response:
    """Ask with several photos at once: files ``photo`` of a form, then the photos of the archive in ``indexed``.

    Answers come in this order, all from one state of the archive; one that fails is a problem in its place.
    """
    service: Service = request.app.state.service
    record = record_of(request)
    served, config = service.archives.named(options.archive), options.config(service.config)
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    upload = await read_upload(request) if has_body else None
    if upload is None and not options.indexed:
        raise ProblemError(422, "there is nothing to ask with: send files photo, or name indexed", code="NoPhoto")
    path = request.url.path
    body = await service.compute(
        request, lambda: answered_batch(service, served, upload, config, options, record, path)
    )
    return Response(body, media_type=_JSON)


@router.post(
    "/descriptors",
    response_model=Descriptors,
    responses={200: {"content": {SAFETENSORS: {"schema": {"type": "string", "format": "binary"}}}}},
    openapi_extra=photo_body(),
)
async def descriptors(request: Request, options: Annotated[DescriptorOptions, Query()]) -> Response:
    """Describe the photo in the body with the model of an archive, and search nothing.

    As JSON, or, with ``Accept: application/x-safetensors``, as tensors: vectors, attention, positions, scales, global.
    """
    service: Service = request.app.state.service
    record = record_of(request)
    served, box = service.archives.named(options.archive), parsed_box(options.box)
    kind = SAFETENSORS if SAFETENSORS in request.headers.get("accept", "") else _JSON
    upload = await read_upload(request)
    body = await service.compute(request, lambda: described(served, upload.photo(), box, kind == SAFETENSORS, record))
    return Response(body, media_type=kind)
