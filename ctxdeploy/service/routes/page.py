"""The page at ``/``: files beside the code, read once, and headers that let it run nothing but them."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

import ctxdeploy.report
from ctxdeploy.service.problems import ProblemError

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).parents[1] / "page"
# Colours are those of the reports.
TOKENS = Path(ctxdeploy.report.__file__).with_name("templates") / "tokens.css"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, kw_only=True)
class PageFile:
    """A file of the page.

    Attributes:
        content: its bytes.
        headers: what it is sent with.
    """

    content: bytes
    headers: dict[str, str]


@cache
def page_files() -> dict[str, PageFile]:
    """Return the files of the page by name."""
    paths = [*(path for path in FOLDER.iterdir() if path.suffix in _TYPES), TOKENS]
    return {path.name: _page_file(path) for path in paths}


def _page_file(path: Path) -> PageFile:
    content = path.read_bytes()
    headers = {
        "Content-Type": _TYPES[path.suffix],
        "Content-Security-Policy": POLICY,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        # A page of one release must not load the scripts of another: each is asked for, and seldom sent.
        "Cache-Control": "no-cache",
        "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
    }
    return PageFile(content=content, headers=headers)


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    """The page to search with."""
    return _sent(request, "index.html")


@router.api_route("/page/{name}", methods=["GET", "HEAD"])
async def page_file(request: Request, name: str) -> Response:
    """Return a file that the page consists of."""
    if name not in page_files():
        raise ProblemError(404, f"the page has no file {name!r}", code="NotFound")
    return _sent(request, name)


def _sent(request: Request, name: str) -> Response:
    file = page_files()[name]
    known = request.headers.get("if-none-match", "")
    if known.strip() == "*" or file.headers["ETag"] in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(status_code=304, headers=file.headers)
    return Response(file.content, headers=file.headers)
