"""Jobs: what became of photos that were added or removed."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from ctxdeploy.service.replies import json_reply
from ctxdeploy.service.schemas import PROBLEMS
from ctxdeploy.service.service import Service

router = APIRouter(prefix="/v1", tags=["jobs"], responses=PROBLEMS)


class Failure(BaseModel):
    """A photo that could not be taken in."""

    name: str
    reason: str


class Job(BaseModel):
    """Photos of one request, on their way into the archive or out of it."""

    id: str
    kind: Annotated[str, Field(description="add or remove")]
    archive: str
    state: Annotated[str, Field(description="waiting, running, done or failed")]
    photos: int
    names: list[str]
    failures: list[Failure]
    remarks: Annotated[list[str], Field(description="What else happened, such as that no picture could be kept.")]
    reason: Annotated[str | None, Field(description="Why it failed as a whole.")]
    code: Annotated[str | None, Field(description="The library's class of that error: StorageError of a full disk.")]
    archive_state: Annotated[int | None, Field(description="The commit from which on searches know of it.")]
    created: str
    ended: str | None


class JobList(BaseModel):
    """The latest jobs."""

    jobs: list[Job]


class JobOptions(BaseModel):
    """How many jobs."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=1000, description="At most so many.")] = 100


@router.get("/jobs", response_model=JobList)
async def jobs(request: Request, options: Annotated[JobOptions, Query()]) -> Response:
    """List jobs, the latest first."""
    service: Service = request.app.state.service
    return json_reply({"jobs": [job.facts() for job in service.writers.jobs.latest(options.limit)]})


@router.get("/jobs/{job}", response_model=Job)
async def job(request: Request, job: str) -> Response:
    """Return what became of a job. The last thousand that have ended are known, of this process."""
    service: Service = request.app.state.service
    return json_reply(service.writers.jobs.find(job).facts())
