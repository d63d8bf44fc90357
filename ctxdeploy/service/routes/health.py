"""Whether the process lives, and whether it can answer."""

from fastapi import APIRouter, Request

from ctxdeploy.service.problems import ProblemError
from ctxdeploy.service.schemas import PROBLEMS, Health
from ctxdeploy.service.service import Service

router = APIRouter(tags=["health"])


@router.get("/livez")
async def livez() -> Health:
    """Say that the process lives."""
    return Health(status="alive")


@router.get("/readyz", responses=PROBLEMS)
async def readyz(request: Request) -> Health:
    """Say that requests are answered; 503 with the reason until then, and when the service is told to end."""
    service: Service = request.app.state.service
    reason = service.readiness.reason
    if reason is not None:
        raise ProblemError(503, reason, code="NotReady", retry_after=1)
    return Health(status="ready")
