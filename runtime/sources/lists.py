"""Lists of photos: plain lines, CSV, JSON lines."""

import codecs
import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO, TypeAlias
from urllib.parse import quote, urljoin

from ctxdeploy.core.errors import ConfigError, NoPhotosError
from ctxdeploy.core.reading import read_regular
from ctxdeploy.core.text import counted, native_path, photo_name, printable
from ctxdeploy.core.types import Box
from ctxdeploy.core.urls import is_url, is_web, without_secrets
from ctxdeploy.runtime.config import MAX_BYTES, RemoteConfig
from ctxdeploy.runtime.photo import PhotoFailure, PhotoSource
from ctxdeploy.runtime.sources.base import MAX_PHOTOS, PhotoList, absolute, clean_name
from ctxdeploy.runtime.sources.folder import FilePhoto
from ctxdeploy.runtime.sources.selection import ALL, NameFilter, Selection
from ctxdeploy.runtime.sources.server import Servers


@dataclass(frozen=True, kw_only=True, slots=True)
class _ListEntry:
    """One entry of a list.

    Attributes:
        where: ``list.csv, line 3``.
        path: a path, relative to the list's folder or absolute, or a URL.
        name: of the photo; made from the path and the box if None.
        box: the part to extract.
        may_be_quoted: quotes around the path may not belong to it.
    """

    where: str
    path: str
    name: str | None = None
    box: Box | None = None
    may_be_quoted: bool = False

    def __post_init__(self) -> None:
        if self.name is not None and self.name.endswith("/"):
            raise ConfigError(f"{self.where}: the name {printable(self.name)!r} ends with /, as those of folders do")
        for what, text in (("path", self.path), ("name", self.name)):
            if text is None:
                continue
            if not text or "\0" in text:
                raise ConfigError(f"{self.where}: the {what} {'has a zero byte' if text else 'is empty'}")
            try:
                native_path(text)
            except ValueError as error:
                raise ConfigError(
                    f"{self.where}: the {what} {printable(text)!r} cannot be the name of a file"
                ) from error

    @property
    def shown_path(self) -> str:
        """The path as names have it."""
        path = without_secrets(self.path) if is_url(self.path) else clean_name(self.path)
        return photo_name(native_path(path))

    def photo_name(self) -> str:
        """Return the photo's name: its own, or the path with ``#x0,y0,x1,y1`` where there is a box."""
        if self.name is not None:
            return photo_name(native_path(self.name))
        return self.shown_path if self.box is None else f"{self.shown_path}#{box_text(self.box)}"

    def without_quotes(self) -> "_ListEntry":
        """Return the entry with the path that stands in quotes."""
        return replace(self, path=self.path[1:-1], may_be_quoted=False)


def box_text(box: Box) -> str:
    """Return a box with all digits of its edges, so that boxes that differ have different names."""
    edges = (box.x0, box.y0, box.x1, box.y1)
    return ",".join(str(int(edge)) if edge.is_integer() else repr(edge) for edge in map(float, edges))


@dataclass(frozen=True, kw_only=True, slots=True)
class _WrongLine:
    """A line of a list that names no photo: where, and what is wrong with it."""

    where: str
    reason: str

    @classmethod
    def of(cls, where: str, error: ConfigError) -> "_WrongLine":
        """Return the line of an error, whose message begins with ``where``."""
        return cls(where=where, reason=str(error).removeprefix(f"{where}: "))


_Line: TypeAlias = _ListEntry | _WrongLine


class _ListBuilder:
    """Collects the photos of a list.

    Args:
        place: of the list, as its ``PhotoList`` has it.
        base: the folder that paths are relative to; a URL that ends with ``/`` for a list on a server.
        servers: open servers.
        selection: of the photos.
    """

    def __init__(self, place: str, base: Path | str, servers: Servers, selection: Selection) -> None:
        self._place, self._base, self._servers = place, base, servers
        self._folder = base if isinstance(base, str) else str(base)
        self._names = NameFilter(selection)
        self._found: dict[str, PhotoSource] = {}
        self._wrong: list[_WrongLine] = []

    def add(self, line: _Line) -> None:
        """Take a line; one that says the same as an earlier one is left out.

        Raises:
            ConfigError: there are too many.
            MissingExtraError: what reads its URL is not installed.
        """
        if len(self._found) + len(self._wrong) >= MAX_PHOTOS:
            raise ConfigError(
                f"{line.where}: {printable(self._place)} names more than {MAX_PHOTOS:,} photos: divide it"
            )
        if isinstance(line, _WrongLine):
            self._wrong.append(line)
            return
        try:
            self._take(line.without_quotes() if self._is_quoted(line) else line)
        except ConfigError as error:
            self._wrong.append(_WrongLine.of(line.where, error))

    def _is_quoted(self, entry: _ListEntry) -> bool:
        path = entry.path
        if not (entry.may_be_quoted and len(path) > 2 and path[0] == path[-1] and path[0] in "\"'"):
            return False
        return isinstance(self._base, str) or not os.path.lexists(self._base / native_path(path))

    def _take(self, entry: _ListEntry) -> None:
        name = entry.photo_name()
        if not name:
            raise ConfigError(f"{entry.where}: the path {printable(entry.path)!r} names a folder")
        if not self._names.chosen(entry.shown_path):
            return
        photo = self._photo(name, entry)
        earlier = self._found.setdefault(name, photo)
        if earlier is not photo and earlier != photo:
            raise ConfigError(f"{entry.where}: an earlier line gives the name {printable(name)!r} to another photo")

    def photo_list(self) -> PhotoList:
        """Return what was collected, and the lines that are wrong as failures.

        Raises:
            ConfigError: all lines are wrong.
            NoPhotosError: there are none, or all are left out.
        """
        wrong, left_out = self._wrong, self._names.left_out()
        if wrong and not self._found:
            more = f" (and {counted(len(wrong) - 1, 'line')} more)" if len(wrong) > 1 else ""
            raise ConfigError(f"{wrong[0].where}: {wrong[0].reason}{more}")
        if not self._found:
            raise NoPhotosError("; ".join([f"{printable(self._place)} names no photos", *left_out.lines()]))
        return PhotoList(
            place=self._place,
            photos=[self._found[name] for name in sorted(self._found)],
            unreadable=tuple(
                PhotoFailure(name=line.where, reason=line.reason, stage="list", file=None) for line in wrong
            ),
            left_out=left_out,
            is_whole=not wrong,
        )

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
        return FilePhoto(name=name, folder=self._folder, file=native_path(clean_name(path)), box=entry.box)


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


def list_lines(text: TextIO, where: str) -> Iterator[_Line]:
    """Yield the entries of plain lines: each is a path or a URL as it stands, spaces and all.

    Blank lines, and those that are ``#`` or begin with ``# ``, are left out. Quotes around a path are taken off unless
    a file is called so.
    """
    for number, line in enumerate(_lines(text, where), 1):
        line = line.removesuffix("\n").removesuffix("\r")
        if line.strip() and line != "#" and not line.startswith("# "):
            at = f"{where}, line {number}"
            yield _line(at, partial(_ListEntry, where=at, path=line, may_be_quoted=True))


def _line(at: str, make: Callable[[], _ListEntry]) -> _Line:
    """Return an entry, or what is wrong with its line."""
    try:
        return make()
    except ConfigError as error:
        return _WrongLine.of(at, error)


def list_csv(text: TextIO, where: str) -> Iterator[_Line]:
    """Yield the entries of values separated by commas, or by semicolons or tabs where the header is.

    Other columns than those of ``_entry`` are left out.
    """
    first = text.readline(MAX_LINE)
    stated = re.fullmatch(r'"?sep=(.)"?\s*', first, re.IGNORECASE)
    if stated:  # what Excel writes, and takes for no row
        return _table(text, where, stated[1], skipped=1)
    text.seek(0)
    columns = {delimiter: next(csv.reader([first], delimiter=delimiter), []) for delimiter in ",;\t"}
    named = (mark for mark, names in columns.items() if "path" in [name.strip().casefold() for name in names])
    return _table(text, where, next(named, ","))


def list_tsv(text: TextIO, where: str) -> Iterator[_Line]:
    """Yield the entries of values separated by tabs, as ``list_csv``."""
    return _table(text, where, "\t")


def list_jsonl(text: TextIO, where: str) -> Iterator[_Line]:
    """Yield the entries of JSON objects, one in each line; other keys than those of ``_entry`` are left out."""
    for number, line in enumerate(_lines(text, where), 1):
        if not line.strip():
            continue
        at = f"{where}, line {number}"
        yield _line(at, partial(_json_entry, line, at))


def _json_entry(line: str, at: str) -> _ListEntry:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{at}: this is not JSON ({error})") from error
    if not isinstance(row, dict):
        raise ConfigError(f"{at}: this is not a JSON object with a path")
    return _entry(row, at)


READERS: dict[str, Callable[[TextIO, str], Iterator[_Line]]] = {
    ".txt": list_lines,
    ".lst": list_lines,
    ".csv": list_csv,
    ".tsv": list_tsv,
    ".jsonl": list_jsonl,
    ".ndjson": list_jsonl,
}


def list_file(place: str, config: RemoteConfig, selection: Selection = ALL) -> PhotoList:
    """List the photos that a file names, each once, whether they exist or not.

    A line that is wrong, or gives the name of an earlier one to another photo, is a failure of the stage ``list``.

    Raises:
        ConfigError: the file cannot be read, its header is wrong, or all of its lines are.
        NoPhotosError: it names none.
        MissingExtraError: it has URLs, and what reads them is not installed.
    """
    path = Path(place)
    try:
        data = read_regular(path, MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"{printable(place)} cannot be read ({error.strerror or error})") from error
    builder = _ListBuilder(absolute(path), path.parent, Servers(config), selection)
    return _collect(data, path.name, path.suffix, builder)


def list_remote_file(place: str, config: RemoteConfig, selection: Selection = ALL) -> PhotoList:
    """As ``list_file``, for a list on a server; its paths are relative to its own folder there."""
    servers = Servers(config, place)
    shown = without_secrets(place)
    address = re.split(r"[?#]", place)[0] if is_web(place) else place
    folder, _, name = address.rpartition("/")
    builder = _ListBuilder(shown, folder + "/", servers, selection)
    return _collect(servers.fetch(place), name, f".{name.rpartition('.')[2]}", builder)


def _collect(data: bytes, name: str, suffix: str, builder: _ListBuilder) -> PhotoList:
    where = printable(name)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigError(f"{where} is UTF-16: save it as UTF-8")
    table = suffix.lower() in (".csv", ".tsv")
    # Not one text: a hundred million characters would take four times their bytes.
    text = io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", "surrogateescape", newline="" if table else "\n")
    for line in READERS[suffix.lower()](text, where):
        builder.add(line)
    return builder.photo_list()


def _table(text: TextIO, where: str, delimiter: str, skipped: int = 0) -> Iterator[_Line]:
    rows = csv.reader(_lines(text, where), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    at = f"{where}, line 1"
    try:
        for row in rows:
            at = f"{where}, line {rows.line_num + skipped}"
            if not row:
                continue
            if header is None:
                header = _check_header([column.strip() for column in row], at)
            else:
                yield _line(at, partial(_row_entry, header, row, at))
    except csv.Error as error:
        yield _WrongLine(
            where=f"{where}, line {rows.line_num + skipped}", reason=f"{error}: nothing from here on can be read"
        )


def _row_entry(header: list[str], row: list[str], at: str) -> _ListEntry:
    if len(row) != len(header):
        raise ConfigError(f"{at}: {len(row)} values for {len(header)} columns: quote values with a separator")
    return _entry(dict(zip(header, row, strict=True)), at)


def _check_header(header: list[str], at: str) -> list[str]:
    known = ("path", "name", "box", *EDGES)
    columns = [column.casefold() if column.casefold() in known else column for column in header]
    if "path" not in columns:
        found = ",".join(without_secrets(column) if is_url(column) else column for column in header)
        raise ConfigError(f"{at}: the first row must name the columns, one of them path: not {printable(found[:80])}")
    twice = {column for column in columns if columns.count(column) > 1} & set(known)
    if twice:
        raise ConfigError(f"{at}: there are two columns {min(twice)}")
    return columns


def _entry(row: dict[str, Any], at: str) -> _ListEntry:
    """Return the entry of a row: ``path``; ``name`` and the box, ``box`` or ``x0`` to ``y1``, if they are not empty."""
    path, name = row.get("path"), row.get("name")
    if not isinstance(path, str):
        raise ConfigError(f"{at}: there is no path" if path is None else f"{at}: the path {_shown(path)} is not a text")
    if name is not None and not isinstance(name, str):
        raise ConfigError(f"{at}: the name {_shown(name)} is not a text")
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
        raise ConfigError(f"{at}: the box {_shown(whole)} is not four numbers x0,y0,x1,y1")
    try:
        x0, y0, x1, y1 = (_number(edge) for edge in edges)
        return Box(x0=x0, y0=y0, x1=x1, y1=y1)
    except ConfigError as error:
        raise ConfigError(f"{at}: {error}") from error


def _shown(value: Any) -> str:
    """Return a value of a list as a message shows it: a line may have any length, and a failure is kept."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _number(value: Any) -> float:
    try:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise ConfigError(f"{_shown(value)} is not a number, as each of a box's x0,y0,x1,y1 must be")
