"""Queries to answers from an archive.

A query is a file, the bytes of one, a PIL image or an array, which all go through the decoder of indexed photos; or a
photo of the archive, of which nothing but its stored codes is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.settings import check_types, setting
from ctxdeploy.core.text import counted
from ctxdeploy.core.types import Box, LocalDescriptors
from ctxdeploy.index import VerificationConfig
from ctxdeploy.judgement import FOUND

if TYPE_CHECKING:
    from ctxdeploy.index import Hit
    from ctxdeploy.runtime import PhotoSource

# Hits that ask too where nothing else is said.
EXPAND = 5
# As ``ctxdeploy.index.checked_expand`` has it.
MOST_EXPAND = 64
# Photos that an archive of another model than the built-in ones must hold for that: fewer say too little of what
# unrelated ones score.
EXPANDED_FROM = 100
TURN = ("auto", "none", "all")
VERIFY_FROM = ("archive", "photos")
# What orders the answers, and what orders the first ones anew. Photos that are ranked anew where nothing is said.
LOCAL, GLOBAL, GLOBAL_THEN_LOCAL = RANKS = ("local", "global", "global-then-local")
ASMK, GEOMETRY = RERANK_BY = ("asmk", "geometry")
RERANK = 100


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is asked with.

    Attributes:
        photo: its name, and its file or bytes.
        indexed: ask with what the archive holds of the photo of this name; ``photo`` is not read.
    """

    photo: "PhotoSource"
    indexed: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What a query found.

    Attributes:
        photo: the query: its name and file or bytes.
        box: its part that was searched for; None for the whole photo.
        descriptors: of the query; None of a photo of the archive that was asked with its stored codes.
        hits: best first.
        best_probability: of all hits, also of those that ``min_probability`` leaves out; None if that was not judged.
        rank: what ordered them, one of ``RANKS``. Scores of ``global`` are inner products of global vectors, and are
            not judged.
        turn: degrees, clockwise, by which the photo was turned to find them; positions and boxes are those of the
            photo as it is.
        size: (width, height) in pixels of the queried photo, upright; None of one that was not read.
        searched: photos that could be hits,
        photos: and those of the archive.
        missing: parts of an archive's shards that did not answer, such as "2/4": their photos were not searched.
        state: the archive's state that answered, by the number of its manifest: each commit has one of its own.
        remarks: what the user may not expect, a line each,
        notes: and what holds for all queries of the archive.
        extract_seconds: reading, decoding and network.
        search_seconds: all that follows: assignment, search, verification, judgement; of several searched for at once,
            each its share.
    """

    photo: "PhotoSource"
    box: Box | None
    descriptors: LocalDescriptors | None
    hits: list["Hit"] = field(default_factory=list)
    best_probability: float | None = None
    rank: str = LOCAL
    turn: int = 0
    size: tuple[int, int] | None = None
    searched: int = 0
    photos: int = 0
    missing: tuple[str, ...] = ()
    state: int = 0
    remarks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    extract_seconds: float = 0.0
    search_seconds: float = 0.0

    @property
    def is_indexed(self) -> bool:
        """Whether it was asked with what the archive holds."""
        return self.descriptors is None

    @property
    def asked_with(self) -> str:
        """What was asked with, in words."""
        if self.descriptors is None:
            return {LOCAL: "its stored codes", GLOBAL: "its stored global vector"}.get(
                self.rank, "its stored global vector and codes"
            )
        local = counted(len(self.descriptors), "descriptor")
        return {LOCAL: local, GLOBAL: "its global vector"}.get(self.rank, f"its global vector and {local}")

    @property
    def found(self) -> int | None:
        """How many hits are certain to show the same; None if that was not judged."""
        if (self.hits[0].probability if self.hits else self.best_probability) is None:
            return None
        return sum(is_certain(hit) for hit in self.hits)

    def metadata(self) -> dict[str, Any]:
        """Return the answer as ``ctxdeploy query --json`` prints it."""
        return {
            "query": self.photo.name,
            "indexed": self.is_indexed,
            "box": _edges(self.box),
            "turn": self.turn,
            "rank": self.rank,
            "state": self.state,
            "found": self.found,
            "best_probability": self.best_probability,
            "results": [_result(rank, hit) for rank, hit in enumerate(self.hits, 1)],
            "descriptors": None if self.descriptors is None else len(self.descriptors),
            "seconds": {"extract": self.extract_seconds, "search": self.search_seconds},
            "remarks": list(self.remarks),
        }


def is_certain(hit: "Hit") -> bool:
    """Return whether a hit is found, and not only among the nearest."""
    return hit.probability is not None and hit.probability >= FOUND


def _result(rank: int, hit: "Hit") -> dict[str, Any]:
    verification = hit.verification
    affine = None if verification is None else verification.affine
    return {
        "rank": rank,
        "name": hit.name,
        "score": hit.score,
        "global_score": hit.global_score,
        "probability": hit.probability,
        "certain": None if hit.probability is None else is_certain(hit),
        "inliers": None if verification is None else verification.inliers,
        "affine": None if affine is None else affine.tolist(),
        "box": None if verification is None else _edges(verification.box),
    }


def _edges(box: Box | None) -> list[float] | None:
    return None if box is None else [box.x0, box.y0, box.x1, box.y1]


@dataclass(frozen=True, kw_only=True)
class QueryConfig:
    """What is asked of an archive.

    Attributes:
        box: the part of a photo to search for; the whole photo if None.
        top: hits at most.
        rank: what orders the answers: ``local`` descriptors by ASMK; ``global`` vectors; ``global-then-local``: the
            first by global vectors are ordered anew by their local descriptors. None for local, and for global in an
            archive of global vectors alone.
        rerank: so many are ordered anew; the others follow as they were.
        rerank_by: what orders them: ``asmk``, as a search among them alone, with ``expand`` and ``verify`` as in a
            search of all; or ``geometry`` alone, as DELG does it (Cao et al., ECCV 2020).
        refine_global: so many of the first by global vectors are ordered anew by vectors that are refined with their
            neighbours among them (``ctxdeploy/index/refinement.py``); 0 for none. Scores stay what they are.
        global_probes: cells of global vectors that are looked into, in an archive that was made with them; 0 compares
            all photos; None for a sixteenth of the cells from 32,768 photos on, and for all photos below.
        global_from: archive whose global vectors are searched first, with its own model; its photos have the same
            names. None for those of the archive itself.
        expand: hits that ask too, with their stored codes; None for 5, but for 0 in an archive of another model than
            the built-in ones that has fewer than 100 photos, or is asked with other settings than its own.
        verify: hits that are compared with the query by geometry, and ranked by it as well; 0 for none.
        verify_from: what they are compared by: what the ``archive`` keeps of them, or the descriptors of their files
            (``photos``), which are extracted for it.
        verification: how they are compared.
        turn: ``all``: the query is asked as it is and by quarter turns, and the best answer is kept, for which the
            file of a photo of the archive is read; ``auto``: by turns only where nothing is certain as it is, and an
            archived photo never; ``none``.
        prefix: only photos whose names begin with one of these may be hits; all if there is none. Probabilities stay
            those of the question to the whole archive; expansion and verification go on among these photos.
        among: names of the photos that may be hits, as ``prefix``, and both hold where both are given; all if there is
            none. Names that the archive does not hold are left out, and said in ``Answer.notes``.
        min_probability: hits that are less likely to show the same are left out; 0..1.
        alpha, threshold, idf: of the scores; None for the archive's settings. With others nothing is judged.
    """

    box: Box | None = setting(
        None, "--box", "Search for this part of the photo (pixels).", metavar="x0,y0,x1,y1", parse=Box.parse
    )
    top: int = setting(10, "--top", "Results of a query.")
    rank: str | None = setting(
        None,
        "--rank",
        "What orders the answers: local descriptors, global vectors, or these and then, of the first, local ones.",
        choices=RANKS,
        default_text="local, or what the archive has",
    )
    rerank: int = setting(RERANK, "--rerank", "With global-then-local: so many are ordered anew.", metavar="N")
    rerank_by: str = setting(ASMK, "--rerank-by", "What orders them: ASMK, or geometry alone.", choices=RERANK_BY)
    refine_global: int = setting(
        0, "--refine-global", "Order so many of the first by global vectors refined by their neighbours.", metavar="N"
    )
    global_probes: int | None = setting(
        None,
        "--global-probes",
        "Of an archive made with --global-cells: look into so many cells; 0: compare all photos.",
        metavar="N",
        default_text="a sixteenth of them, where there are many photos",
    )
    global_from: Path | None = setting(
        None,
        "--global-from",
        "Search the global vectors of this archive first, with its own model.",
        metavar="ARCHIVE",
        default_text="the same archive",
    )
    expand: int | None = setting(
        None,
        "--expand",
        "So many of the first results ask too; 0: none.",
        metavar="N",
        default_text=f"{EXPAND}; of fewer than {EXPANDED_FROM} photos only with the built-in models",
    )
    verify: int = setting(0, "--verify", "Compare so many of the first results by geometry; 0: none.", metavar="N")
    verify_from: str = setting(
        "archive", "--verify-from", "What they are compared by: what is stored, or their files.", choices=VERIFY_FROM
    )
    verification: VerificationConfig = field(default_factory=VerificationConfig)
    turn: str = setting(
        "auto", "--turn", "Ask by quarter turns as well: where nothing is certain, never, always.", choices=TURN
    )
    prefix: tuple[str, ...] = setting(
        (), "--prefix", "Find only photos whose names begin so, such as 2024/; may be repeated.", metavar="TEXT"
    )
    among: tuple[str, ...] = ()
    min_probability: float | None = setting(
        None, "--min-probability", "Leave out results less likely to show the same.", metavar="P"
    )
    alpha: float | None = setting(
        None, "--alpha", "Selectivity: higher counts close matches more.", default_text="the archive's"
    )
    threshold: float | None = setting(
        None, "--threshold", "Similarities below it count nothing.", default_text="the archive's"
    )
    idf: bool | None = setting(None, "--idf/--no-idf", "Weigh visual words by rarity.", default_text="the archive's")

    def __post_init__(self) -> None:
        check_types(self)
        if self.top < 1:
            raise ConfigError(f"--top {self.top} is not positive: ask for at least one result")
        if self.expand is not None and not 0 <= self.expand <= MOST_EXPAND:
            raise ConfigError(f"--expand {self.expand} is outside 0..{MOST_EXPAND}: 0 expands nothing")
        if self.verify < 0:
            raise ConfigError(f"--verify {self.verify} is negative: 0 verifies nothing")
        for flag, value, known in (
            ("--turn", self.turn, TURN),
            ("--verify-from", self.verify_from, VERIFY_FROM),
            ("--rank", self.rank or LOCAL, RANKS),
            ("--rerank-by", self.rerank_by, RERANK_BY),
        ):
            if value not in known:
                raise ConfigError(f"{flag} {value!r} is unknown: give {', '.join(known)}")
        for flag, names in (("--prefix", self.prefix), ("--among", self.among)):
            if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
                raise ConfigError(f"{flag} {names!r} is not a tuple of texts")
        self._check_rank()
        if self.min_probability is None:
            return
        if not 0 <= self.min_probability <= 1:
            raise ConfigError(f"--min-probability {self.min_probability} is not a number in 0..1")
        if not self.is_judged:
            raise ConfigError("--min-probability needs the archive's own scores: leave out --alpha, --threshold, --idf")

    def _check_rank(self) -> None:
        """Refuse what belongs to other rankings than the one that is asked for."""
        if self.rerank < 1:
            raise ConfigError(f"--rerank {self.rerank} is not positive: give how many are ordered anew")
        if self.refine_global < 0 or (self.refine_global and self.rank in (None, LOCAL)):
            raise ConfigError(
                f"--refine-global {self.refine_global} says how many of the first by global vectors are refined: give "
                f"0 or more, with --rank {GLOBAL} or {GLOBAL_THEN_LOCAL}"
            )
        if self.global_probes is not None and (self.global_probes < 0 or self.rank in (None, LOCAL)):
            raise ConfigError(
                f"--global-probes {self.global_probes} says into how many cells of global vectors to look: give 0 or "
                f"more, with --rank {GLOBAL} or {GLOBAL_THEN_LOCAL}"
            )
        if self.rank == GLOBAL:
            self.check_global()
        if self.rank == GLOBAL_THEN_LOCAL:
            if self.rerank_by == GEOMETRY and self.verify:
                raise ConfigError("--rerank-by geometry compares all that --rerank says: leave out --verify")
            return
        given = {
            "--rerank": self.rerank != RERANK,
            "--rerank-by": self.rerank_by != ASMK,
            "--global-from": self.global_from is not None,
        }
        flag = next((flag for flag, is_given in given.items() if is_given), None)
        if flag is not None:
            raise ConfigError(f"{flag} needs --rank {GLOBAL_THEN_LOCAL}")

    def check_global(self) -> None:
        """Raise ``ConfigError`` for what global vectors alone do not answer: local descriptors do."""
        given = {
            "--verify": self.verify > 0,
            "--expand": bool(self.expand),
            "--min-probability": self.min_probability is not None,
            "--turn all": self.turn == "all",
            "--alpha": self.alpha is not None,
            "--threshold": self.threshold is not None,
            "--idf": self.idf is not None,
        }
        flag = next((flag for flag, is_given in given.items() if is_given), None)
        if flag is not None:
            raise ConfigError(
                f"{flag} is about local descriptors, and --rank {GLOBAL} ranks by global vectors alone: leave it out, "
                f"or say --rank {GLOBAL_THEN_LOCAL} in an archive that has both"
            )

    @property
    def is_restricted(self) -> bool:
        """Whether only some photos may be hits."""
        return bool(self.prefix or self.among)

    @property
    def compared(self) -> int:
        """How many hits are compared with the query by geometry."""
        by_geometry = self.rank == GLOBAL_THEN_LOCAL and self.rerank_by == GEOMETRY
        return self.rerank if by_geometry else self.verify

    @property
    def is_judged(self) -> bool:
        """Whether hits have probabilities: what is known of an archive's scores holds for its own settings."""
        return self.alpha is None and self.threshold is None and self.idf is None


def box_of(box: Box | Sequence[float] | None) -> Box | None:
    """Return a box of four numbers (x0, y0, x1, y1), or as it is; ``ConfigError`` if it is not one."""
    if box is None or isinstance(box, Box):
        return box
    try:
        x0, y0, x1, y1 = map(float, box)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"box {box!r} is not four numbers: give it as x0, y0, x1, y1") from error
    return Box(x0=x0, y0=y0, x1=x1, y1=y1)
