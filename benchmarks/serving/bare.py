"""FastAPI with ``PhotoIndex`` in a handler, as anybody would write it: no queue, no batches, no limits.

python -m serving.bare ARCHIVE PORT
"""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request

from ctxdeploy import IndexedPhoto, PhotoIndex
from ctxdeploy.index import Hit


def make(archive: str) -> FastAPI:
    """Return the application."""
    index, app = PhotoIndex.open(archive), FastAPI()

    def found(hits: list[Hit]) -> dict[str, Any]:
        return {"results": [{"name": hit.name, "score": hit.score, "probability": hit.probability} for hit in hits]}

    @app.post("/v1/search")
    async def search(request: Request) -> dict[str, Any]:
        from starlette.concurrency import run_in_threadpool

        return found(await run_in_threadpool(index.search, await request.body()))

    @app.get("/v1/search")
    def indexed(indexed: str) -> dict[str, Any]:
        return found(index.search(IndexedPhoto(name=indexed)))

    return app


if __name__ == "__main__":
    uvicorn.run(make(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
