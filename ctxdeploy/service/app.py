"""The application: routes, and what every request passes."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from ctxdeploy.service.middleware import Guard, Recording, needed_key
from ctxdeploy.service.part_service import PartService
from ctxdeploy.service.problems import ProblemError, http_problem, invalid, problem_response
from ctxdeploy.service.record import record_of
from ctxdeploy.service.routes import archives, changes, health, jobs, page, photos, pictures, search, shards
from ctxdeploy.service.service import Service

# Of the API, not of the package: it changes when a client has to.
API_VERSION = "1.0"
_ABOUT = (
    "Search by photo. Boxes and positions are in pixels of the photo as it is shown, x before y, from its upper left "
    "corner. Every error is a problem (RFC 9457) with the code of the library."
)
_ROUTERS = (
    search.router,
    archives.router,
    changes.router,
    photos.router,
    jobs.router,
    pictures.router,
    health.router,
    page.router,
)
# Of a shard server: fronts ask it, and nobody else.
_PART_ROUTERS = (shards.router, health.router)


def create_app(service: Service) -> FastAPI:
    """Return the application that answers from a service, which it closes when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = _described(lifespan, _PART_ROUTERS if isinstance(service, PartService) else _ROUTERS)
    app.state.service = service
    app.add_exception_handler(ProblemError, _refused)
    app.add_exception_handler(RequestValidationError, _refused)
    app.add_exception_handler(HTTPException, _refused)
    # The last that is added is the first that a request passes.
    app.add_middleware(Guard, service=service)
    if service.config.allow_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=service.config.allow_origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "X-API-Key", "X-Request-ID", "Content-Type"],
            expose_headers=["X-Request-ID", "Location", "Retry-After"],
        )
    app.add_middleware(Recording, service=service)
    return app


def schema() -> dict[str, Any]:
    """Return what ``openapi.json`` says: the same whatever is served."""
    return _described(None).openapi()


def _described(lifespan: Any, routers: Sequence[APIRouter] = _ROUTERS) -> FastAPI:
    app = FastAPI(
        title="ctxdeploy",
        version=API_VERSION,
        description=_ABOUT,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        generate_unique_id_function=lambda route: route.name,
    )
    for router in routers:
        app.include_router(router)
    plain = app.openapi
    app.openapi = lambda: app.openapi_schema or _with_keys(plain())  # type: ignore[method-assign]
    return app


def _with_keys(document: dict[str, Any]) -> dict[str, Any]:
    """Add to a schema which operations need a key; a service without keys needs none."""
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    document.setdefault("components", {})["securitySchemes"] = schemes
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if needed_key(method.upper(), path, metrics=True) is not None:
                operation["security"] = [{}, {"bearer": []}, {"key": []}]
    return document


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        problem = invalid(error.errors())
    elif isinstance(error, HTTPException):
        problem = http_problem(error.status_code, str(error.detail), error.headers)
    else:
        problem = request.app.state.service.problem(error)
    record = record_of(request)
    record.code = problem.code
    return problem_response(problem, record.request_id, request.url.path)
