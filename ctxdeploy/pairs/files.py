"""Files of pairs, as hloc, COLMAP, kapture and spreadsheets read them."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.files import write_file
from ctxdeploy.core.reading import open_regular
from ctxdeploy.core.text import printable, short
from ctxdeploy.pairs.finding import FoundPairs, Pair

# Pairs that are written at once.
_TOGETHER = 8192
# Bytes of a line that is read: two names of 4,096 bytes, each byte quoted, and a score.
_MAX_LINE = 20_000
_ASCII_BLANKS = " \t\v\f"


@dataclass(frozen=True, kw_only=True)
class PairsFormat:
    """A form that files of pairs have.

    Attributes:
        what: who reads it.
        head: lines before the pairs.
        line: writes a pair.
        why_not: says what in a name its readers do not take, or returns None.
        spaced: whether a name with blanks may be written all the same, for other readers.
    """

    what: str
    head: str
    line: Callable[[Pair], str]
    why_not: Callable[[str], str | None]
    spaced: bool = False


def _not_for_hloc(name: str) -> str | None:
    if any(c.isspace() for c in name):
        return "a blank"
    return None if name else "no letter"


def _not_for_colmap(name: str) -> str | None:
    if any(c in _ASCII_BLANKS for c in name):
        return "a blank"
    if name.startswith("#"):
        return "# at its beginning"
    return None if name else "no letter"


def _not_for_kapture(name: str) -> str | None:
    if "," in name:
        return "a comma"
    if name != name.strip():
        return "a blank at its beginning or end"
    if name.startswith("#"):
        return "# at its beginning"
    return None if name else "no letter"


def _quoted(name: str) -> str:
    """Return a field as RFC 4180 has it; Python's writer leaves a carriage return as it is."""
    plain = not any(c in name for c in ',"\r\n') and name == name.strip() and name
    return name if plain else '"' + name.replace('"', '""') + '"'


_CSV_HEAD = "name,other,score\n"
_KAPTURE_HEAD = "# kapture format: 1.1\n# query_image, map_image, score\n"

FORMATS: dict[str, PairsFormat] = {
    "hloc": PairsFormat(
        what="hloc: two names a line, a blank between them",
        head="",
        line=lambda pair: f"{pair.name} {pair.other}\n",
        why_not=_not_for_hloc,
        spaced=True,
    ),
    "colmap": PairsFormat(
        what="COLMAP (match_type pairs): two names a line, a blank between them",
        head="",
        line=lambda pair: f"{pair.name} {pair.other}\n",
        why_not=_not_for_colmap,
        spaced=True,
    ),
    "kapture": PairsFormat(
        what="kapture and MASt3R: two names and the score, with commas",
        head=_KAPTURE_HEAD,
        line=lambda pair: f"{pair.name}, {pair.other}, {pair.score!r}\n",
        why_not=_not_for_kapture,
    ),
    "csv": PairsFormat(
        what="spreadsheets: the same, quoted where it has to be",
        head=_CSV_HEAD,
        line=lambda pair: f"{_quoted(pair.name)},{_quoted(pair.other)},{pair.score!r}\n",
        why_not=lambda name: None,
    ),
}


def check_names(names: Iterable[str], form: str, *, allow_spaces: bool = False) -> None:
    """Raise ``ConfigError`` for the first name that readers of a format would not take for the photo's.

    Args:
        names: of photos.
        form: one of ``FORMATS``.
        allow_spaces: do not look for blanks, where the format may be written with them.
    """
    chosen = FORMATS[form]
    if allow_spaces and not chosen.spaced:
        raise ConfigError(f"--allow-spaces is for --format hloc and colmap; {form} takes names with blanks as they are")
    for name in names:
        is_broken = form != "csv" and ("\n" in name or "\r" in name)
        wrong = "a line end" if is_broken else chosen.why_not(name)
        if wrong is None or (allow_spaces and wrong == "a blank"):
            continue
        spaces = ", --allow-spaces if your reader takes it" if chosen.spaced and wrong == "a blank" else ""
        raise ConfigError(
            f"the name {short(name)} has {wrong}, which readers of --format {form} do not take: rename the photo, or "
            f"use --format csv{spaces}"
        )


def encode_pairs(pairs: Iterable[Pair], form: str) -> Iterator[bytes]:
    """Yield the bytes of a file of pairs, some thousand pairs at a time; names must have been checked.

    In ``csv`` what else ``FoundPairs`` knows follows the score: inliers, probability.
    """
    if form == "csv" and isinstance(pairs, FoundPairs) and pairs.further:
        yield from _wide(pairs)
        return
    chosen, rest = FORMATS[form], iter(pairs)
    if chosen.head:
        yield chosen.head.encode()
    while block := list(islice(rest, _TOGETHER)):
        yield "".join(map(chosen.line, block)).encode("utf-8", "surrogateescape")


def _wide(pairs: FoundPairs) -> Iterator[bytes]:
    line, further = FORMATS["csv"].line, pairs.further
    yield (_CSV_HEAD.rstrip() + "".join(f",{name}" for name in further) + "\n").encode()
    columns = [column.tolist() for column in further.values()]
    rows = zip(pairs, zip(*columns, strict=True), strict=True)
    while block := list(islice(rows, _TOGETHER)):
        lines = [line(pair).rstrip("\n") + "".join(f",{value!r}" for value in values) + "\n" for pair, values in block]
        yield "".join(lines).encode("utf-8", "surrogateescape")


def write_pairs(path: Path, pairs: Iterable[Pair], form: str) -> None:
    """Write a file of pairs; it appears whole, or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    write_file(path, encode_pairs(pairs, form), advice="choose another -o")


def read_pairs(path: Path) -> Iterator[tuple[str, str, float | None]]:
    """Yield the names of each pair of a file, and its score, None where the file has none.

    What the file is, its first line says: kapture's head, ``name,other,score``, or two names and a blank.

    Raises:
        ConfigError: it cannot be read, or a line is not a pair.
    """
    try:
        with open_regular(path) as file:
            first = file.read(len(_KAPTURE_HEAD))
            file.seek(0)
            text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
            if first.startswith(_CSV_HEAD.rstrip().encode()):
                rows = _csv_rows(text)
            else:
                rows = _rows(text, "," if first.startswith(b"# kapture format:") else None)
            for number, fields in rows:
                yield _pair(path, number, fields)
    except OSError as error:
        raise ConfigError(f"{printable(str(path))} cannot be read: {error.strerror or error}") from error
    except csv.Error as error:
        raise ConfigError(f"{printable(str(path))} is not a file of pairs: {error}") from error


def _csv_rows(text: io.TextIOWrapper) -> Iterator[tuple[int, list[str]]]:
    rows = csv.reader(text, strict=True)
    next(rows)
    yield from ((rows.line_num, fields[:3]) for fields in rows if fields)


def _rows(text: io.TextIOWrapper, comma: str | None) -> Iterator[tuple[int, list[str]]]:
    number = 0
    while line := text.readline(_MAX_LINE):
        number += 1
        if line.strip() and not line.startswith("#"):
            yield number, [field.strip() for field in line.split(comma)] if comma else line.split()


def _pair(path: Path, number: int, fields: list[str]) -> tuple[str, str, float | None]:
    try:
        if len(fields) == 2:
            return fields[0], fields[1], None
        name, other, score = fields
        return name, other, float(score)
    except ValueError:
        shown = short(" ".join(fields))
        raise ConfigError(f"{printable(str(path))}, line {number}: {shown} is not a pair of names") from None
