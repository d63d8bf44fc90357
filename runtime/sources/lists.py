"""Lists of photos: plain lines, CSV, JSON lines."""

import codecs
import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote, urljoin

from ctxdeploy.core.errors import ConfigError, NoPhotosError
from ctxdeploy.core.reading import read_regular
from ctxdeploy.core.text import printable
from ctxdeploy.core.types import Box
from ctxdeploy.core.urls import is_url, is_web, without_secrets
from ctxdeploy.runtime.config import MAX_BYTES, RemoteConfig
from ctxdeploy.runtime.photo import PhotoSource
from ctxdeploy.runtime.sources.base import MAX_PHOTOS, PhotoList, absolute, clean_name
from ctxdeploy.runtime.sources.folder import FilePhoto
from ctxdeploy.runtime.sources.server import Servers


@dataclass(frozen=True, kw_only=True, slots=True)
class _ListEntry:
    """One entry of a list.

    Attributes:
        where: ``list.csv, line 3``.
        path: a path, relative to the list's folder or absolute, or a URL.
        name: of the photo; made from the path and the box if None.
        box: the part to extract.
    """

    where: str
    path: str
    name: str | None = None
    box: Box | None = None

    def __post_init__(self) -> None:
        if self.name is not None and self.name.endswith("/"):
            raise ConfigError(f"{self.where}: the name {printable(self.name)!r} ends with /, as those of folders do")
        for what, text in (("path", self.path), ("name", self.name)):
            if text is None:
                continue
            if not text or "\0" in text:
                raise ConfigError(f"{self.where}: the {what} {'has a zero byte' if text else 'is empty'}")
            try:
                os.fsencode(text)
            except ValueError as error:
                raise ConfigError(
                    f"{self.where}: the {what} {printable(text)!r} cannot be the name of a file"
                ) from error

    def photo_name(self) -> str:
        """Return the photo's name: its own, or the path with ``#x0,y0,x1,y1`` where there is a box."""
        if self.name is not None:
            return self.name
        path = without_secrets(self.path) if is_url(self.path) else clean_name(self.path)
        return path if self.box is None else f"{path}#{box_text(self.box)}"


def box_text(box: Box) -> str:
    """Return a box with all digits of its edges, so that boxes that differ have different names."""
    edges = (box.x0, box.y0, box.x1, box.y1)
    return ",".join(str(int(edge)) if edge.is_integer() else repr(edge) for edge in map(float, edges))


class _ListBuilder:
    """Collects the photos of a list.

    Args:
        place: of the list, as its ``PhotoList`` has it.
        base: the folder that paths are relative to; a URL that ends with ``/`` for a list on a server.
        servers: open servers.
    """

    def __init__(self, place: str, base: Path | str, servers: Servers) -> None:
        self._place, self._base, self._servers = place, base, servers
        self._folder = base if isinstance(base, str) else str(base)
        self._found: dict[str, PhotoSource] = {}

    def add(self, entry: _ListEntry) -> None:
        """Take an entry; one that says the same as an earlier one is left out.

        Raises:
            ConfigError: another photo has this name.
            MissingExtraError: what reads its URL is not installed.
        """
        name = entry.photo_name()
        if not name:
            raise ConfigError(f"{entry.where}: the path {printable(entry.path)!r} names a folder")
        if len(self._found) >= MAX_PHOTOS:
            raise ConfigError(
                f"{entry.where}: {printable(self._place)} names more than {MAX_PHOTOS:,} photos: divide it"
            )
        photo = self._photo(name, entry)
        earlier = self._found.setdefault(name, photo)
        if earlier is not photo and earlier != photo:
            raise ConfigError(f"{entry.where}: an earlier line gives the name {printable(name)!r} to another photo")

    def photo_list(self) -> PhotoList:
        """Return what was collected; ``NoPhotosError`` if nothing was."""
        if not self._found:
            raise NoPhotosError(f"{printable(self._place)} names no photos")
        return PhotoList(place=self._place, photos=[self._found[name] for name in sorted(self._found)])

    def _photo(self, name: str, entry: _ListEntry) -> PhotoSource:
        path = entry.path
        if isinstance(self._base, str) and not is_url(path):
            # A path, not an address: characters that mean something in addresses belong to its name.
            path = (
                urljoin(self._base, quote(path, errors="surrogateescape"))
                if is_web(self._base)
                else self._base + clean_name(path)
            )
        if is_url(path):
            return PhotoSource(name=name, reader=self._servers.photo(path, entry.where), box=entry.box)
        return FilePhoto(name=name, folder=self._folder, file=clean_name(path), box=entry.box)


# Characters of a line: of paths 4,096 are the most that systems take.
MAX_LINE = 1_000_000
EDGES = ("x0", "y0", "x1", "y1")


def _lines(text: TextIO, where: str) -> Iterator[str]:
    """Yield the lines of a text with their ends; ``ConfigError`` for one without end."""
    number = 0
    while line := text.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise ConfigError(f"{where}, line {number} has more than {MAX_LINE:,} characters")
        yield line


def list_lines(text: TextIO, where: str) -> Iterator[_ListEntry]:
    """Yield the entries of plain lines: each is a path or a URL as it stands, spaces and all.

    Blank lines, and those that are ``#`` or begin with ``# ``, are left out.
    """
    for number, line in enumerate(_lines(text, where), 1):
        line = line.removesuffix("\n").removesuffix("\r")
        if line.strip() and line != "#" and not line.startswith("# "):
            yield _ListEntry(where=f"{where}, line {number}", path=line)


def list_csv(text: TextIO, where: str) -> Iterator[_ListEntry]:
    """Yield the entries of comma-separated values; other columns than those of ``_entry`` are left out."""
    return _table(text, where, ",")


def list_tsv(text: TextIO, where: str) -> Iterator[_ListEntry]:
    """Yield the entries of values separated by tabs, as ``list_csv``."""
    return _table(text, where, "\t")


def list_jsonl(text: TextIO, where: str) -> Iterator[_ListEntry]:
    """Yield the entries of JSON objects, one in each line; other keys than those of ``_entry`` are left out."""
    for number, line in enumerate(_lines(text, where), 1):
        if not line.strip():
            continue
        at = f"{where}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{at}: this is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{at}: this is not a JSON object with a path")
        yield _entry(row, at)


READERS: dict[str, Callable[[TextIO, str], Iterator[_ListEntry]]] = {
    ".txt": list_lines,
    ".lst": list_lines,
    ".csv": list_csv,
    ".tsv": list_tsv,
    ".jsonl": list_jsonl,
    ".ndjson": list_jsonl,
}


def list_file(place: str, config: RemoteConfig) -> PhotoList:
    """List the photos that a file names, each once, whether they exist or not.

    Raises:
        ConfigError: the file cannot be read, a line is wrong, or two lines give one name to different photos.
        NoPhotosError: it names none.
        MissingExtraError: it has URLs, and what reads them is not installed.
    """
    path = Path(place)
    try:
        data = read_regular(path, MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"{printable(place)} cannot be read ({error.strerror or error})") from error
    builder = _ListBuilder(absolute(path), path.parent, Servers(config))
    return _collect(data, path.name, path.suffix, builder)


def list_remote_file(place: str, config: RemoteConfig) -> PhotoList:
    """As ``list_file``, for a list on a server; its paths are relative to its own folder there."""
    servers = Servers(config, place)
    shown = without_secrets(place)
    address = re.split(r"[?#]", place)[0] if is_web(place) else place
    folder, _, name = address.rpartition("/")
    builder = _ListBuilder(shown, folder + "/", servers)
    return _collect(servers.fetch(place), name, f".{name.rpartition('.')[2]}", builder)


def _collect(data: bytes, name: str, suffix: str, builder: _ListBuilder) -> PhotoList:
    where = printable(name)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigError(f"{where} is UTF-16: save it as UTF-8")
    table = suffix.lower() in (".csv", ".tsv")
    # Not one text: a hundred million characters would take four times their bytes.
    text = io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", "surrogateescape", newline="" if table else "\n")
    for entry in READERS[suffix.lower()](text, where):
        builder.add(entry)
    return builder.photo_list()


def _table(text: TextIO, where: str, delimiter: str) -> Iterator[_ListEntry]:
    rows = csv.reader(_lines(text, where), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    try:
        for row in rows:
            at = f"{where}, line {rows.line_num}"
            if not row:
                continue
            if header is None:
                header = _check_header([column.strip() for column in row], at)
                continue
            if len(row) != len(header):
                raise ConfigError(f"{at}: {len(row)} values for {len(header)} columns: quote values with a separator")
            yield _entry(dict(zip(header, row, strict=True)), at)
    except csv.Error as error:
        raise ConfigError(f"{where}, line {rows.line_num}: {error}") from error


def _check_header(header: list[str], at: str) -> list[str]:
    if "path" not in header:
        found = ",".join(without_secrets(column) if is_url(column) else column for column in header)
        raise ConfigError(f"{at}: the first row must name the columns, one of them path: not {printable(found[:80])}")
    twice = {column for column in header if header.count(column) > 1} & {"path", "name", "box", *EDGES}
    if twice:
        raise ConfigError(f"{at}: there are two columns {min(twice)}")
    return header


def _entry(row: dict[str, Any], at: str) -> _ListEntry:
    """Return the entry of a row: ``path``; ``name`` and the box, ``box`` or ``x0`` to ``y1``, if they are not empty."""
    path, name = row.get("path"), row.get("name")
    if not isinstance(path, str):
        raise ConfigError(f"{at}: there is no path" if path is None else f"{at}: the path {path!r} is not a text")
    if name is not None and not isinstance(name, str):
        raise ConfigError(f"{at}: the name {name!r} is not a text")
    return _ListEntry(where=at, path=path, name=name or None, box=_box(row, at))


def _box(row: dict[str, Any], at: str) -> Box | None:
    whole = row.get("box")
    edges: Any = [row.get(edge) for edge in EDGES]
    given = [edge not in (None, "") for edge in edges]
    if whole in (None, ""):
        if not any(given):
            return None
        if not all(given):
            missing = EDGES[given.index(False)]
            raise ConfigError(f"{at}: the box has no {missing}: give x0,y0,x1,y1, or none of them for the whole photo")
    elif any(given):
        raise ConfigError(f"{at}: the box is given twice, as box and as x0,y0,x1,y1")
    else:
        edges = whole.split(",") if isinstance(whole, str) else whole
    if not isinstance(edges, list) or len(edges) != 4:
        raise ConfigError(f"{at}: the box {whole!r} is not four numbers x0,y0,x1,y1")
    try:
        x0, y0, x1, y1 = (_number(edge) for edge in edges)
        return Box(x0=x0, y0=y0, x1=x1, y1=y1)
    except ConfigError as error:
        raise ConfigError(f"{at}: {error}") from error


def _number(value: Any) -> float:
    try:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise ConfigError(f"{value!r} is not a number, as each of a box's x0,y0,x1,y1 must be")
