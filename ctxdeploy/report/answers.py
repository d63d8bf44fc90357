"""The page of queries and the photos that they found: thumbnails inside, so that it needs no other file."""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from ctxdeploy.core.errors import PhotoError
from ctxdeploy.core.text import counted, native_path
from ctxdeploy.core.types import Box, Preprocessing
from ctxdeploy.judgement import FOUND
from ctxdeploy.query import GLOBAL, GLOBAL_THEN_LOCAL, LOCAL
from ctxdeploy.report.matches import Drawing, draw
from ctxdeploy.report.pages import write_page

if TYPE_CHECKING:
    from ctxdeploy.index import Hit, Verification
    from ctxdeploy.query import Answer
    from ctxdeploy.runtime import PhotoSource

# Longest sides in pixels, and the JPEG quality: a page of ten results has about 300 KB.
LARGE, SMALL, QUALITY = 640, 320, 80
# A query of more bytes is not compared with a file to see whether it is the same.
_COMPARED = 64 << 20

_RANKED = {
    GLOBAL: "ranked by global vectors: how sure the results are is not known",
    GLOBAL_THEN_LOCAL: "the first by global vectors, ranked by local descriptors",
}

# Left, upper, width and height in shares of a photo's width and height.
Frame = tuple[float, float, float, float]


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
        probability: that it shows the same as the query; None where that is not known.
        verification: how the query lies in it; None where that was not looked into.
        is_query: it is the query's own photo.
    """

    name: str
    score: float
    rank: int
    picture: Path | None
    verdict: str = ""
    probability: float | None = None
    verification: "Verification | None" = None
    is_query: bool = False

    def thumbnail(self, large: bool = False) -> Thumbnail | None:
        """Return the photo; None if it is not there, or has become something else."""
        return None if self.picture is None else thumbnail(self.picture, LARGE if large else SMALL)

    @property
    def facts(self) -> str:
        """How sure it is, and how many matches agree; empty if neither is known."""
        sure = [] if self.probability is None else [f"{int(100 * self.probability)} % sure"]
        agreed = [] if self.verification is None else [counted(self.verification.inliers, "inlier")]
        return ", ".join([*sure, *agreed])

    def frame(self, photo: Thumbnail) -> Frame | None:
        """Return where the query lies in the photo, as ``Section.frame``; None where that is not known."""
        box = None if self.verification is None else self.verification.box
        return None if box is None else frame(box, photo.original_size)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Results under a heading.

    Attributes:
        heading: empty where there is one group alone.
        results: best first.
    """

    heading: str
    results: Sequence[Result]


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

    @cached_property
    def small(self) -> Thumbnail | None:
        """The query's photo as it stands beside each photo that was found."""
        return None if self.photo is None else thumbnail(self.photo, SMALL)

    @property
    def frame(self) -> Frame | None:
        """The box on the photo: left, upper, width and height in shares of the photo's width and height."""
        if self.box is None or self.thumbnail is None:
            return None
        return frame(self.box, self.thumbnail.original_size)

    @property
    def drawn(self) -> bool:
        """Whether the query stands beside photos that it found."""
        mapped = [result.verification for result in self.results if result.picture is not None]
        return any(found is not None and found.affine is not None for found in mapped) and self.small is not None

    @property
    def groups(self) -> list[Group]:
        """The results: those that are certain, and the nearest of the others; one group if nobody judged."""
        if any(result.probability is None for result in self.results):
            return [Group(heading="", results=self.results)]
        found = [result for result in self.results if (result.probability or 0.0) >= FOUND]
        nearest = [result for result in self.results if (result.probability or 0.0) < FOUND]
        beyond = "Beyond that nothing is certain; the nearest" if found else "Nothing certain; the nearest"
        groups = (Group(heading="Found", results=found), Group(heading=beyond, results=nearest))
        return [group for group in groups if group.results]

    def share(self, result: Result) -> float:
        """Return the length of a result's bar, 0 to 1: its probability, or its score as a share of the best.

        The query's own photo scores a hundred times as much as others of the same; it is not what they are measured by.
        """
        if result.probability is not None:
            return result.probability
        others = [other.score for other in self.results if not other.is_query]
        best = max(others, default=result.score)
        return min(max(result.score, 0.0) / best, 1.0) if best > 0 else 0.0

    def drawing(self, result: Result, photo: Thumbnail | None) -> Drawing | None:
        """Return the query beside a photo that it found, with their matches; None where there are none to show."""
        if result.verification is None or photo is None or self.small is None:
            return None
        return draw(result.verification, self.small.original_size, photo.original_size, self.box)


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
            *_told(answer),
            *_effort(answer),
        ),
        results=[_result(answer, hit, rank, picture_of(photos, hit.name)) for rank, hit in enumerate(answer.hits, 1)],
    )


def _result(answer: "Answer", hit: "Hit", rank: int, picture: Path | None) -> Result:
    return Result(
        name=hit.name,
        score=hit.score,
        rank=rank,
        picture=picture,
        probability=hit.probability,
        verification=hit.verification,
        is_query=(answer.is_indexed and hit.name == answer.photo.name) or _is_same(answer.photo, picture),
    )


def _is_same(query: "PhotoSource", picture: Path | None) -> bool:
    """Return whether a query is the file of a photo that it found, or its bytes."""
    if picture is None:
        return False
    try:
        if query.path is not None and picture.samefile(query.path):
            return True
        state = query.state()
        size = len(query.data) if query.data is not None else None if state is None else state.size
        if size is None or size != picture.stat().st_size or size > _COMPARED:
            return False
        content = query.data if query.path is None else query.path.read_bytes()
        return content is not None and content == picture.read_bytes()
    except (OSError, ValueError):
        return False


def _effort(answer: "Answer") -> tuple[str, ...]:
    searched = f"searched in {answer.search_seconds * 1000:.1f} ms"
    ranked = () if answer.rank == LOCAL else (_RANKED[answer.rank],)
    if answer.descriptors is None:
        return (f"a photo of the archive, asked with {answer.asked_with}", *ranked, searched)
    return (answer.asked_with, *ranked, f"extracted in {answer.extract_seconds:.2f} s, {searched}")


def _told(answer: "Answer") -> Iterator[str]:
    """Yield how the query was turned, and how sure the best was where all are left out."""
    if answer.turn:
        yield f"turned by {answer.turn}°" if answer.found else f"most like these when turned by {answer.turn}°"
    if not answer.hits and answer.best_probability is not None:
        yield f"the best of what --min-probability leaves out is {int(100 * answer.best_probability)} % sure"


def picture_of(folder: Path | None, name: str) -> Path | None:
    """Return the file of a photo in the folder that its archive or data set names; None if it would lie elsewhere.

    Whoever made the archive chose the names: a page must not show, to whom it is sent, a picture of this disk.
    """
    if folder is None or "\0" in name or PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        return None
    return folder / native_path(name)


def frame(box: Box, size: tuple[int, int]) -> Frame | None:
    """Return a box as left, upper, width and height in shares of a photo's; None if it lies outside of it."""
    width, height = size
    left, right = max(box.x0, 0.0), min(box.x1, float(width))
    upper, lower = max(box.y0, 0.0), min(box.y1, float(height))
    if left >= right or upper >= lower:
        return None
    return left / width, upper / height, (right - left) / width, (lower - upper) / height


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
