"""Photos of servers: all that fsspec reads."""

import contextlib
import hashlib
import math
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from ctxdeploy.core.errors import ConfigError, PhotoError
from ctxdeploy.core.text import printable
from ctxdeploy.core.urls import host_of, is_url, is_web, protocol_of, without_secrets
from ctxdeploy.runtime.config import RemoteConfig
from ctxdeploy.runtime.decode.formats import EXTENSIONS, RAW_EXTENSIONS, photo_extensions
from ctxdeploy.runtime.photo import PhotoFailure, PhotoSource
from ctxdeploy.runtime.sources.base import MAX_PHOTOS, PhotoList, nothing_found
from ctxdeploy.runtime.sources.selection import ALL, NameFilter, Selection
from ctxdeploy.runtime.sources.server import RemotePhoto, Server, Servers, cannot_list


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


# Times of change, as the file systems call them; of what has none, the tag that changes with the content.
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")
_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "ContentHash", "generation")
# A number made from a tag has this bit set, which times of change have from the year 2116 on.
_TAG_BIT = 1 << 62
# Objects in one answer; S3 gives no more.
PAGE = 1000
# Answers of S3 that hold nothing and name a next one, and folders below each other: more is a server without end.
MAX_EMPTY, MAX_DEPTH = 1000, 200
# Bytes of an index page: a million links.
MAX_PAGE = 64 << 20
MAX_FOLDERS = 1_000_000
# Folders without photos, each in the other, that have folders of the same names: 00/00/00/a.jpg is not a circle.
MAX_REPEATED = 4

# A folder's files, and the names of its folders, both relative to where the listing began; those of folders end with /.
Look = Callable[[str], tuple[dict[str, RemotePhoto], list[str]]]


class _Found:
    """The photos of a listing, and whether there was anything else."""

    def __init__(self, names: NameFilter) -> None:
        self.photos: dict[str, RemotePhoto] = {}
        self.names = names
        self.anything = False

    def add(self, name: str, reader: RemotePhoto) -> None:
        self.anything = True
        if len(self.photos) >= MAX_PHOTOS:
            raise ConfigError(f"there are more than {MAX_PHOTOS:,} photos there: give the folders below one by one")
        if name and not name.endswith("/") and name not in self.photos and self.names.takes(name):
            self.photos.setdefault(name, reader)


def list_remote(place: str, *, recursive: bool, config: RemoteConfig, selection: Selection = ALL) -> PhotoList:
    """List the photos below a URL by their extension; what is hidden, or of a system, is left out.

    Names are paths relative to the URL. On web servers they are taken from the links of index pages, and decoded.

    Raises:
        ConfigError: there is nothing, or no access, or no answer.
        NoPhotosError: there is no photo.
        MissingExtraError: what reads the protocol is not installed.
    """
    shown = without_secrets(place)
    server = Servers(config).open(place)
    unreadable: list[PhotoFailure] = []
    found = _Found(NameFilter(selection))
    try:
        if protocol_of(place) in ("s3", "s3a"):
            _list_s3(server, server.path(place), recursive, found)
        else:
            look = _web_folder(server, place) if is_web(place) else _folder(server, place)
            _walk(look, recursive, found, unreadable)
    except PhotoError as error:
        raise cannot_list(place, error) from error
    if not found.anything and not unreadable:
        raise ConfigError(f"{printable(shown)}: there is nothing, or no such place")
    if not found.photos:
        raise nothing_found(shown, found.names.left_out())
    photos = [PhotoSource(name=name, reader=found.photos[name]) for name in sorted(found.photos)]
    return PhotoList(
        place=_place(shown),
        photos=photos,
        unreadable=tuple(unreadable),
        recursive=recursive,
        left_out=found.names.left_out(),
    )


def remote_photo(url: str, config: RemoteConfig | None = None) -> PhotoSource | None:
    """Return the photo at a URL, whose name is the URL without its secrets; None if it does not look like a photo's.

    Nothing is asked of the server before the photo is read.

    Raises:
        ConfigError: such URLs are not read.
        MissingExtraError: what reads the protocol is not installed.
    """
    path = url.partition("#")[0].partition("?")[0] if is_web(url) else url
    if not is_url(url) or not path.lower().endswith((*EXTENSIONS, *RAW_EXTENSIONS)):
        return None
    server = Servers(config or RemoteConfig()).open(url)
    return PhotoSource(
        name=printable(without_secrets(url)), reader=RemotePhoto(server=server, folder="", key=server.path(url))
    )


def change_of(info: dict[str, Any]) -> int | None:
    """Return the time of change in ns since 1970 that a listing tells, or a number made from the entity tag."""
    for key in _TIMES:
        value = info.get(key)
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                continue
        if isinstance(value, datetime):
            value = value if value.tzinfo else value.replace(tzinfo=UTC)
            return int(value.replace(microsecond=0).timestamp()) * 1_000_000_000 + value.microsecond * 1000
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
            return round(value * 1_000_000_000)
    for key in _TAGS:
        if info.get(key):
            digest = hashlib.blake2b(str(info[key]).encode("utf-8", "surrogateescape"), digest_size=8).digest()
            return int.from_bytes(digest) % _TAG_BIT + _TAG_BIT
    return None


def _size_of(info: dict[str, Any], key: str) -> int | None:
    """Return the size that a listing tells, if it is one."""
    size = info.get(key)
    return size if type(size) is int and 0 <= size < 1 << 63 else None


def _place(shown: str) -> str:
    """Return a URL without the last slash, so that a folder is one place with and without."""
    short = shown.rstrip("/")
    return shown if short.endswith(":") else short


def _list_s3(server: Server, path: str, recursive: bool, found: _Found) -> None:
    """Find what lies below a prefix, page by page: of folders S3 knows nothing."""
    bucket, _, prefix = path.partition("/")
    prefix = f"{prefix}/" if prefix else ""
    request = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": PAGE, **({} if recursive else {"Delimiter": "/"})}
    folder = f"{bucket}/{prefix}"
    empty = 0
    while empty < MAX_EMPTY:
        page = server.call("call_s3", "list_objects_v2", request)
        for info in page.get("Contents", ()):
            name = info["Key"].removeprefix(prefix)
            reader = RemotePhoto(
                server=server, folder=folder, key=name, size=_size_of(info, "Size"), mtime_ns=change_of(info)
            )
            found.add(name, reader)
        empty = 0 if page.get("Contents") or page.get("CommonPrefixes") else empty + 1
        token = page.get("NextContinuationToken")
        if not page.get("IsTruncated") or not token:
            return
        request["ContinuationToken"] = token
    raise PhotoError(f"{MAX_EMPTY:,} answers held nothing, and each named a next one")


def _walk(look: Look, recursive: bool, found: _Found, unreadable: list[PhotoFailure]) -> None:
    """Find the photos of all folders; ``PhotoError`` if not even the first can be listed."""
    visited = {""}
    folders = deque([""])
    while folders:
        name = folders.popleft()
        try:
            files, below = look(name)
        except PhotoError as error:
            if not name:
                raise
            reason = f"the folder cannot be listed: {error}"
            unreadable.append(PhotoFailure(name=name, reason=reason, stage="list", file=None))
            continue
        for file, reader in files.items():
            if recursive or "/" not in file:
                found.add(file, reader)
        found.anything |= bool(below)
        if recursive:
            new = [folder for folder in dict.fromkeys(below) if folder not in visited and found.names.enters(folder)]
            if new and name.count("/") >= MAX_DEPTH:
                reason = f"the folder has more than {MAX_DEPTH} above it"
                unreadable.append(PhotoFailure(name=name, reason=reason, stage="list", file=None))
                continue
            visited.update(new)
            if len(visited) > MAX_FOLDERS:
                raise PhotoError(f"there are more than {MAX_FOLDERS:,} folders")
            folders.extend(new)


def _folder(server: Server, place: str) -> Look:
    root = server.path(place).rstrip("/") + "/"

    def look(prefix: str) -> tuple[dict[str, RemotePhoto], list[str]]:
        files: dict[str, RemotePhoto] = {}
        below: list[str] = []
        for info in server.call("ls", root + prefix, True):
            name = info["name"].rstrip("/").removeprefix(root)
            if not name.startswith(prefix) or name == info["name"]:  # the folder itself
                continue
            if info.get("type") == "directory":
                below.append(f"{name}/")
            else:
                size, change = _size_of(info, "size"), change_of(info)
                files[name] = RemotePhoto(server=server, folder=root, key=name, size=size, mtime_ns=change)
        return files, below

    return look


def _web_folder(server: Server, place: str) -> Look:
    try:
        parts = urlsplit(place)
    except ValueError as error:
        raise ConfigError(f"{printable(without_secrets(place))} is not an address ({error})") from error
    root = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") + "/", parts.query, ""))
    addresses = {"": root}
    pages: dict[str, frozenset[str]] = {}  # what each folder links to, relative to itself

    def look(prefix: str) -> tuple[dict[str, RemotePhoto], list[str]]:
        address = addresses[prefix]
        links = links_below(server.read(server.path(address), MAX_PAGE, "page"), address, root)
        below = [name for name in links if name.endswith("/")]
        pages[prefix] = frozenset(name.removeprefix(prefix) for name in links)
        repeated = sum(pages.get(above) == pages[prefix] for above in _above(prefix)) if below else 0
        if repeated and any(name.lower().endswith(photo_extensions()) for name in links):
            return {}, []  # a link that leads back up on the server: without end, each photo once more at every turn
        if repeated > MAX_REPEATED:
            raise PhotoError(f"it links to the same as {repeated} folders above it: a link that leads back up")
        for name in below:
            addresses.setdefault(name, links.pop(name))
        return {
            name: RemotePhoto(server=server, folder="", key=server.path(link)) for name, link in links.items()
        }, below

    return look


def _above(folder: str) -> list[str]:
    """Return the folders above a folder, the root among them."""
    parts = folder.split("/")[:-1]
    return ["".join(f"{part}/" for part in parts[:count]) for count in range(len(parts))]
