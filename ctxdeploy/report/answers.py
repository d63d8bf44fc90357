"""The page of queries and the photos that they found: thumbnails inside, so that it needs no other file."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from ctxdeploy.core.errors import PhotoError
from ctxdeploy.core.text import counted, native_path
from ctxdeploy.core.types import Box, Preprocessing
from ctxdeploy.report.pages import write_page

if TYPE_CHECKING:
    from ctxdeploy.query import Answer

# Longest sides in pixels, and the JPEG quality: a page of ten results has about 300 KB.
LARGE, SMALL, QUALITY = 640, 320, 80


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A photo inside a page.

    Attributes:
        url: the JPEG as a ``data:`` URL.
        width, height: of the JPEG in pixels.
        original_size: (width, height) of the photo in pixels.
    """

    url: str
    width: int
    height: int
    original_size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Result:
    """A photo that was found.

    Attributes:
        name: of the photo.
        score: of it.
        rank: from 1.
        picture: its file; None if that is not known.
        verdict: ``right``, ``wrong`` or ``junk``; empty where nobody judged.
    """

    name: str
    score: float
    rank: int
    picture: Path | None
    verdict: str = ""

    def thumbnail(self, large: bool = False) -> Thumbnail | None:
        """Return the photo; None if it is not there, or has become something else."""
        return None if self.picture is None else thumbnail(self.picture, LARGE if large else SMALL)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A query and what it found.

    Attributes:
        photo: the query, a file or its bytes; None if there is none.
        box: the part that was searched for; None for the whole photo.
        title: over the facts.
        facts: lines.
        results: best first.
    """

    photo: Path | bytes | None
    box: Box | None
    title: str
    facts: Sequence[str]
    results: Sequence[Result]

    @cached_property
    def thumbnail(self) -> Thumbnail | None:
        """The query's photo; None if it cannot be read."""
        return None if self.photo is None else thumbnail(self.photo, LARGE)

    @property
    def frame(self) -> tuple[float, float, float, float] | None:
        """The box on the photo: left, upper, width and height in shares of the photo's width and height."""
        if self.box is None or self.thumbnail is None:
            return None
        width, height = self.thumbnail.original_size
        left, upper, right, lower = self.box.pixels((width, height))
        return left / width, upper / height, (right - left) / width, (lower - upper) / height

    def share(self, result: Result) -> float:
        """Return a result's score as a share of the best one's, 0 to 1."""
        best = self.results[0].score
        return min(max(result.score, 0.0) / best, 1.0) if best > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class AnswersPage:
    """Queries and what they found.

    Attributes:
        kind: a word or two over the title.
        title: what was searched.
        leads: lines under the title.
        sections: shown in this order.
        warnings: what nobody may overlook, under the leads.
    """

    kind: str
    title: str
    leads: Sequence[str]
    sections: Sequence[Section]
    warnings: Sequence[str] = ()


def write_answers(path: Path, answers: Sequence["Answer"], photos: Path | None, *, title: str, lead: str = "") -> None:
    """Write the page of answers.

    Args:
        path: the file.
        answers: shown in this order.
        photos: folder that the hits' names are relative to; without it there are names, but no thumbnails, and none
            of names that lead out of it.
        title: what was searched.
        lead: a line under the title; the number of queries if empty.

    Raises:
        StorageError: the file cannot be written.
    """
    count = len(answers)
    lead = lead or f"{count:,} {'query' if count == 1 else 'queries'}"
    sections = [answer_section(answer, photos) for answer in answers]
    page = AnswersPage(kind="Answers", title=title, leads=(lead,), sections=sections)
    write_page(path, "answers.html", page, option="--html")


def answer_section(answer: "Answer", photos: Path | None) -> Section:
    """Return an answer as a page shows it; ``photos`` is the folder that the hits' names are relative to."""
    return Section(
        photo=answer.photo.data if answer.photo.path is None else answer.photo.path,
        box=answer.box,
        title=answer.photo.name,
        facts=(
            *(() if answer.box is None else (f"searched for the part {answer.box}",)),
            *_effort(answer),
        ),
        results=ranked((hit.name, hit.score, picture_of(photos, hit.name)) for hit in answer.hits),
    )


def _effort(answer: "Answer") -> tuple[str, ...]:
    searched = f"searched in {answer.search_seconds * 1000:.1f} ms"
    if answer.descriptors is None:
        return ("a photo of the archive, asked with its stored codes", searched)
    return (
        counted(len(answer.descriptors), "descriptor"),
        f"extracted in {answer.extract_seconds:.2f} s, {searched}",
    )


def picture_of(folder: Path | None, name: str) -> Path | None:
    """Return the file of a photo in the folder that its archive or data set names; None if it would lie elsewhere.

    Whoever made the archive chose the names: a page must not show, to whom it is sent, a picture of this disk.
    """
    if folder is None or "\0" in name or PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        return None
    return folder / native_path(name)


def ranked(found: Iterable[tuple[str, float, Path | None]]) -> list[Result]:
    """Return names, scores and files, best first, as results."""
    return [
        Result(name=name, score=score, rank=rank, picture=picture)
        for rank, (name, score, picture) in enumerate(found, 1)
    ]


def thumbnail(photo: Path | bytes, longest: int) -> Thumbnail | None:
    """Return a photo of at most so many pixels on its longest side; None if it cannot be read."""
    from PIL import Image

    from ctxdeploy.runtime import decode_photo

    try:
        decoded = decode_photo(photo, Preprocessing(image_size=longest, draft=True))
    except PhotoError:
        return None
    buffer = io.BytesIO()
    Image.fromarray(decoded.pixels).save(buffer, "JPEG", quality=QUALITY)
    height, width = decoded.pixels.shape[:2]
    url = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Thumbnail(url=url, width=width, height=height, original_size=decoded.original_size)
