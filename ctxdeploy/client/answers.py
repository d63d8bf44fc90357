"""What a service answers, in the words of its JSON, which are those of ``ctxdeploy query --json``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Edges = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Result:
    """A photo that was found.

    Attributes:
        rank: from 1 on.
        name: of the photo.
        score: of ASMK, or an inner product where ``rank`` of the answer is ``global``.
        global_score: inner product of global vectors, if these were compared.
        probability: that it shows the same; None where nobody knows.
        certain: whether that is enough to call it found.
        inliers: of the verification, None without one.
        affine: 2×3, pixels of the query to pixels of the photo.
        box: where the query lies in the photo: x0, y0, x1, y1 in its pixels.
        size: width and height of the photo, if known.
        matches: x, y in the query and x, y in the photo, of each match; if they were asked for.
    """

    rank: int
    name: str
    score: float
    global_score: float | None = None
    probability: float | None = None
    certain: bool | None = None
    inliers: int | None = None
    affine: tuple[tuple[float, ...], ...] | None = None
    box: Edges | None = None
    size: tuple[int, int] | None = None
    matches: tuple[Edges, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How many photos of the archive were searched, and which parts of its shards did not answer, such as ``2/4``."""

    searched: int
    photos: int
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SearchAnswer:
    """What a photo found.

    Attributes:
        query: name of the photo that was asked with.
        results: best first.
        archive: that was asked.
        state: of the archive that was asked: all of an answer is of one commit.
        indexed: whether it was asked with what the archive holds.
        box: the part of the photo that was searched for.
        size: width and height of the query.
        turn: degrees by which the photo was turned to find them.
        rank: what ordered them: ``local``, ``global`` or ``global-then-local``.
        found: results that are certain; None where nobody knows.
        best_probability: of all, also of those that ``min_probability`` left out.
        descriptors: of the query.
        coverage: how many photos were searched.
        seconds: where the time went, by stage.
        remarks: what the user may not expect, a line each.
    """

    query: str
    results: tuple[Result, ...]
    archive: str | None = None
    state: int | None = None
    indexed: bool = False
    box: Edges | None = None
    size: tuple[int, int] | None = None
    turn: int = 0
    rank: str = "local"
    found: int | None = None
    best_probability: float | None = None
    descriptors: int | None = None
    coverage: Coverage | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Descriptors:
    """What the network says of a photo.

    Attributes:
        vectors: N×D float32.
        attention: N float32.
        positions: N×2 float32, x and y in pixels of the photo.
        scales: N float32.
        model: that described it; descriptors of two models cannot be compared.
        size: width and height of the photo.
        global_vector: float32 of length 1, if the network gives one.
    """

    vectors: "NDArray[np.float32]"
    attention: "NDArray[np.float32]"
    positions: "NDArray[np.float32]"
    scales: "NDArray[np.float32]"
    model: str | None = None
    size: tuple[int, int] | None = None
    global_vector: "NDArray[np.float32] | None" = None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A photo that could not be taken in, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Job:
    """Photos that are added or removed.

    Attributes:
        id: of the job.
        kind: ``add`` or ``remove``.
        state: ``waiting``, ``running``, ``done`` or ``failed``.
        photos: how many it is about.
        names: of these.
        failures: of photos that could not be read; the others are in the archive.
        remarks: what else happened, a line each.
        archive: whose photos.
        archive_state: the commit from which on answers know of it; None before.
        reason: why it failed.
        code: the class of that error, such as ``StorageError`` where the server's disk is full.
    """

    id: str
    kind: str
    state: str
    photos: int | None = None
    names: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    remarks: tuple[str, ...] = ()
    archive: str | None = None
    archive_state: int | None = None
    reason: str | None = None
    code: str | None = None

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ("done", "failed")


@dataclass(frozen=True, kw_only=True)
class NamesPage:
    """Names of photos, sorted, and the name after which the next ones come; None where that were all."""

    names: tuple[str, ...] = field(metadata={"key": "photos"})
    next: str | None = None


@dataclass(frozen=True, kw_only=True)
class PhotoFacts:
    """A photo of an archive.

    Attributes:
        name: of it.
        archive, state: that hold it.
        size: width and height in pixels, if known.
        features: that are kept of it; None where none are.
    """

    name: str
    archive: str | None = None
    state: int | None = None
    size: tuple[int, int] | None = None
    features: int | None = None


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder of photos, and how many are in it and below it."""

    name: str
    photos: int


@dataclass(frozen=True, kw_only=True)
class ArchiveFacts:
    """An archive that is served.

    Attributes:
        name: that requests name it by.
        photos: how many it holds.
        state: its newest commit that is answered from.
        bytes: of its files.
        model: what described its photos: ``id``, ``name``, ``preprocessing``.
        local: whether it keeps local descriptors.
        geometry: what it keeps of features.
        global_vectors: how it keeps global vectors.
        writable: whether photos may be added and removed.
        pictures: where the files of its photos are: ``folder``, ``packed``, ``elsewhere`` or ``none``.
        stale: whether a newer state cannot be read, so that the last whole one answers.
        batch_size: photos of one shape that its network takes at once; None where it has none.
    """

    name: str
    photos: int
    state: int | None = None
    bytes: int | None = None
    model: Mapping[str, str] = field(default_factory=dict)
    local: bool | None = None
    geometry: str | None = None
    global_vectors: str | None = field(default=None, metadata={"key": "global"})
    writable: bool | None = None
    pictures: str | None = None
    stale: bool = False
    batch_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """Whether a service answers, and if not, what it is doing."""

    ready: bool
    reason: str = ""
