"""Index pages of web servers: the links that lead below."""

import contextlib
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from ctxdeploy.runtime.listing.urls import host_of


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


def links_below(page: bytes, address: str, root: str) -> dict[str, str]:
    """Return the files and folders that a page links to.

    Args:
        page: HTML.
        address: the page's.
        root: where all begins, ends with ``/`` before any query; links that leave it are left out.

    Returns:
        names relative to ``root``, decoded, those of folders with ``/`` at their ends; and addresses.
    """
    parser = _Links()
    with contextlib.suppress(AssertionError):  # the parser gives up on some declarations: the links before them count
        parser.feed(page.decode("utf-8", "replace"))
    start = urlsplit(root)
    above = unquote(start.path, errors="surrogateescape")
    found: dict[str, str] = {}
    for link in parser.found:
        try:
            parts = urlsplit(urljoin(address, link.strip()))
        except ValueError:
            continue
        path = unquote(parts.path, errors="surrogateescape")
        name = path.removeprefix(above)
        if parts.scheme != start.scheme or host_of(parts.geturl()) != host_of(root) or name == path or not name:
            continue
        found.setdefault(name, urlunsplit((start.scheme, start.netloc, parts.path, parts.query, "")))
    return found
