"""Photos are added and removed: each request becomes a job, which is answered with 202."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from ctxdeploy.service.accepting import accept_photos, accept_removal, check_writable
from ctxdeploy.service.bodies import photo_body, read_upload
from ctxdeploy.service.jobs import Job, NewPhoto
from ctxdeploy.service.problems import ProblemError
from ctxdeploy.service.replies import json_reply, path_name
from ctxdeploy.service.routes.jobs import Job as JobFacts
from ctxdeploy.service.schemas import PROBLEMS, ArchiveOption
from ctxdeploy.service.service import Service

router = APIRouter(prefix="/v1", tags=["photos"], responses=PROBLEMS)


class AddOptions(ArchiveOption):
    """Where new photos go."""

    folder: Annotated[str, Field(description="Goes before the names of the files, such as holiday/.")] = ""


class RemoveOptions(ArchiveOption):
    """What is removed."""

    file: Annotated[
        bool, Field(description="Remove the photo's file as well, if it is still the one that was indexed.")
    ] = False


@router.put("/photos/{name:path}", status_code=202, response_model=JobFacts, openapi_extra=photo_body())
async def put_photo(request: Request, name: str, options: Annotated[ArchiveOption, Query()]) -> Response:
    """Add a photo, or replace the one of this name: the body, or the file ``photo`` of a form."""
    service: Service = request.app.state.service
    served = service.archives.named(options.archive)
    check_writable(service, served)
    wanted = path_name(request, name)
    upload = await read_upload(request)

    def accept() -> Job:
        return accept_photos(service, served, (NewPhoto(name=wanted, data=upload.photo()),))

    return _accepted(await service.lookups.run(accept))


@router.post("/photos", status_code=202, response_model=JobFacts, openapi_extra=photo_body(several=True))
async def post_photos(request: Request, options: Annotated[AddOptions, Query()]) -> Response:
    """Add or replace several photos: the files ``photo`` of a form, under their names, all in one commit."""
    service: Service = request.app.state.service
    served = service.archives.named(options.archive)
    check_writable(service, served)
    upload = await read_upload(request)

    def accept() -> Job:
        given = [(part.file_name or "", part.data) for part in upload.photos()]
        if len(given) > service.config.max_batch:
            raise ProblemError(422, f"{len(given)} photos are more than {service.config.max_batch}", code="TooMany")
        photos = tuple(NewPhoto(name=options.folder + name, data=data) for name, data in given)
        return accept_photos(service, served, photos)

    return _accepted(await service.lookups.run(accept))


@router.delete("/photos/{name:path}", status_code=202, response_model=JobFacts)
async def delete_photo(request: Request, name: str, options: Annotated[RemoveOptions, Query()]) -> Response:
    """Remove a photo from the archive. Its file stays where it is, unless told otherwise."""
    service: Service = request.app.state.service
    served = service.archives.named(options.archive)
    check_writable(service, served)
    wanted = path_name(request, name)
    return _accepted(
        await service.lookups.run(lambda: accept_removal(service, served, wanted, with_files=options.file))
    )


def _accepted(job: Job) -> Response:
    return json_reply(job.facts(), 202, {"Location": f"/v1/jobs/{job.id}"})
