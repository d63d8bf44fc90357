"""Whether the process lives, whether it can answer, and what it counts."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from ctxdeploy.service.metrics import MEDIA_TYPE
from ctxdeploy.service.problems import ProblemError
from ctxdeploy.service.schemas import PROBLEMS, Health
from ctxdeploy.service.service import Service

router = APIRouter(tags=["health"], responses=PROBLEMS)


# Balancers ask with HEAD as well.
@router.head("/livez", include_in_schema=False)
@router.get("/livez")
async def livez() -> Health:
    """Say that the process lives."""
    return Health(status="alive")


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz")
async def readyz(request: Request) -> Health:
    """Say that requests are answered; 503 with the reason until then, and when the service is told to end."""
    service: Service = request.app.state.service
    reason = service.readiness.reason
    if reason is not None:
        raise ProblemError(503, reason, code="NotReady", retry_after=1)
    return Health(status="ready")


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(request: Request) -> Response:
    """Give counters to Prometheus."""
    service: Service = request.app.state.service
    return Response(service.metrics.text(), media_type=MEDIA_TYPE)
