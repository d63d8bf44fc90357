"""The application: routes, and what every request passes."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ctxdeploy import __version__
from ctxdeploy.service.problems import ProblemError, problem_of, problem_response
from ctxdeploy.service.routes import archives, health, page, search
from ctxdeploy.service.service import Service


def create_app(service: Service) -> FastAPI:
    """Return the application that answers from a service, which it closes when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(title="ctxdeploy", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    app.include_router(search.router)
    app.include_router(archives.router)
    app.include_router(health.router)
    app.include_router(page.router)
    app.add_exception_handler(Exception, _refused)
    app.add_exception_handler(ProblemError, _refused)
    app.add_exception_handler(RequestValidationError, _refused)
    app.add_exception_handler(HTTPException, _refused)
    return app


async def _refused(request: Request, error: Exception) -> Response:
    problem = problem_of(error)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"][1:]))
        problem = ProblemError(422, f"{where}: {first['msg']}", code="ConfigError")
    elif isinstance(error, HTTPException):
        problem = ProblemError(error.status_code, str(error.detail), code="HTTP")
    return problem_response(problem, uuid.uuid4().hex, request.url.path)
