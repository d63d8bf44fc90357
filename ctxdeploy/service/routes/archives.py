"""What is served."""

from typing import Any

from fastapi import APIRouter, Request

from ctxdeploy.service.schemas import PROBLEMS
from ctxdeploy.service.service import Service

router = APIRouter(prefix="/v1", tags=["archives"], responses=PROBLEMS)


@router.get("/archives")
async def archives(request: Request) -> dict[str, Any]:
    """List the archives."""
    service: Service = request.app.state.service
    return {"archives": [{"name": served.name, "photos": len(served.photos)} for served in service.archives]}
