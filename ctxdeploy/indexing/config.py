"""How photos are indexed, and how many of them may fail."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import ConfigError, TooManyFailuresError
from ctxdeploy.core.settings import check_types, setting
from ctxdeploy.core.text import printable

if TYPE_CHECKING:
    from ctxdeploy.index import IndexConfig

# How global vectors are kept where nothing is said.
GLOBAL = "fp16"
# Photos that must have been tried before a share of them means something.
MIN_TRIED = 100


@dataclass(frozen=True, kw_only=True)
class FailureLimit:
    """A limit of failures; without any, a run goes on whatever fails.

    Attributes:
        count: failures that are allowed.
        share: part of the photos tried so far, 0 to 1, that may fail; it counts from a hundred photos on.
    """

    count: int | None = None
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``N`` or ``P%``; ``ConfigError`` for anything else."""
        try:
            limit = cls(share=float(text[:-1]) / 100) if text.endswith("%") else cls(count=int(text))
        except ValueError:
            limit = None
        if limit is None or (limit.count or 0) < 0 or not 0 <= (limit.share or 0) <= 1:
            raise ConfigError(f"--max-failures {text!r} is neither a number of photos nor a share such as 5%")
        return limit

    def check(self, failures: Counter[str], tried: int) -> None:
        """Raise ``TooManyFailuresError`` if more failed than is allowed.

        Args:
            failures: of this run, by reason.
            tried: photos of this run, failures among them.
        """
        failed = failures.total()
        over_count = self.count is not None and failed > self.count
        over_share = self.share is not None and tried >= MIN_TRIED and failed > self.share * tried
        if over_count or over_share:
            limit = f"{self.count}" if over_count else f"{100 * (self.share or 0):g}%"
            reason, times = failures.most_common(1)[0]
            raise TooManyFailuresError(
                f"stopped: {failed} of {tried} photos failed, more than --max-failures {limit}; most often ({times} "
                f"times): {printable(reason)}; what was done is kept, run again with another limit to continue"
            )


NO_LIMIT = FailureLimit()


def parse_cells(text: str) -> int:
    """Return the number of cells that a text means, 0 for "auto"; ``ValueError`` for anything else."""
    if text == "auto":
        return 0
    if not (text.isascii() and text.isdigit()) or not int(text):
        raise ValueError("is neither a number of cells nor auto")
    return int(text)


@dataclass(frozen=True, kw_only=True)
class IndexingConfig:
    """How photos are indexed.

    Attributes:
        codebook: file of a codebook to use. Only for a new archive.
        words: size of a codebook that is trained from the photos. If neither is given, that of the bundle is used, and
            where it carries none, one is trained whose size is chosen from the number of descriptors.
        training_photos: photos at most that train the codebook, and the words and cells of global vectors, drawn with
            ``seed``.
        seed: of the sample and of k-means.
        commit_seconds: least time between two commits. It grows to a tenth of the time that the run has taken, and to
            five minutes at most.
        geometry: what to keep of each descriptor for geometric verification, as ``IndexConfig.geometry``. Only for a
            new archive.
        global_vectors: how to keep the global vector of each photo, as ``IndexConfig.global_vectors``: the network's,
            or the sum of the local descriptors where it gives none. Of a network without local descriptors it is always
            kept, in ``GLOBAL`` if nothing else is said. Only for a new archive.
        global_cells: partition the global vectors into so many cells, of which a query looks into a sixteenth where
            there are many photos; 0 for as many as suit the sample; None to compare all photos. These and the words of
            "pq" are trained on the sample that trains a codebook. Only for a new archive.
        boxes: file of regions of the photos, as ``read_boxes`` takes it: the descriptors of each box are aggregated
            with those of the whole photo. Given with every run of such an archive, and to no other.
        sync: remove the archive's photos that are gone.
        moved: the photos are at another place now than the archive remembers.
        retry_failed: try photos again that could not be decoded before.
        failure_limit: how many photos may fail.
        collect_garbage: remove files of interrupted runs and former states at the end, even if nothing was compacted.
    """

    codebook: Path | None = setting(
        None, "--codebook", "Codebook to use.", metavar="FILE", default_text="the model's, or trained"
    )
    words: int | None = setting(None, "--words", "Train a codebook of this size from the photos.", metavar="N")
    training_photos: int = setting(5000, "--training-photos", "Photos that train codebook and cells.")
    seed: int = 0
    geometry: str = setting(
        "none",
        "--geometry",
        "Keep each descriptor's position and scale, a code as well, or the descriptor too (8, 24 or 156 bytes at 128 "
        "dimensions); without a value: codes.",
        choices=("positions", "codes", "descriptors"),
        alone="codes",
        default_text="none is kept",
    )
    global_vectors: str = setting(
        "none",
        "--global",
        "Keep a global vector of each photo too, for --rank global and global-then-local: the network's, or the sum of "
        f"the local descriptors; pq: a byte for 8 numbers; without a value: {GLOBAL}.",
        choices=("fp32", "fp16", "int8", "pq"),
        alone=GLOBAL,
        default_text="kept only where there is nothing else",
    )
    global_cells: int | None = setting(
        None,
        "--global-cells",
        "With --global: partition the vectors into so many cells, of which a query looks into a few; auto: as many as "
        "suit the photos that train them.",
        metavar="N|auto",
        parse=parse_cells,
        default_text="all photos are compared",
    )
    boxes: Path | None = setting(
        None,
        "--boxes",
        "Regions of the photos: the descriptors of each box count beside those of the whole photo (R-ASMK).",
        metavar="FILE",
        default_text="the whole photo alone",
    )
    sync: bool = setting(False, "--sync", "Remove photos from the archive that are gone from PLACE.")
    moved: bool = setting(False, "--moved", "The archive's photos are at PLACE now.")
    retry_failed: bool = setting(False, "--retry-failed", "Try photos again that could not be decoded before.")
    failure_limit: FailureLimit = setting(
        NO_LIMIT,
        "--max-failures",
        "Stop when more photos fail; a share counts from 100 photos on.",
        metavar="N|P%",
        parse=FailureLimit.parse,
        default_text="no limit",
    )
    commit_seconds: float = setting(
        10.0, "--commit-seconds", "Least time between two commits; it grows to a tenth of the run, 300 at most."
    )
    collect_garbage: bool = setting(False, "--gc", "At the end, remove files of interrupted runs and former states.")

    def __post_init__(self) -> None:
        from ctxdeploy.index import MAX_WORDS, IndexConfig

        try:
            object.__setattr__(self, "geometry", IndexConfig(geometry=self.geometry).geometry)
        except ConfigError as error:
            raise ConfigError(f"--{error}") from error
        IndexConfig(global_vectors=self.global_vectors, global_dim=int(self.global_vectors != "none"))
        check_types(self)
        self._check_global()
        if self.codebook is not None and self.words is not None:
            raise ConfigError("--codebook and --words exclude each other: a given codebook has its size")
        if self.words is not None and not 1 <= self.words <= MAX_WORDS:
            raise ConfigError(f"--words {self.words} is outside 1..{MAX_WORDS}")
        if self.training_photos < 1:
            raise ConfigError(f"--training-photos {self.training_photos} must be positive")
        if not 0 <= self.commit_seconds <= 86400:
            raise ConfigError(f"--commit-seconds {self.commit_seconds:g} is outside 0..86400")

    def _check_global(self) -> None:
        """Refuse cells without vectors, and a sample that is too small for what is to be trained on it."""
        from ctxdeploy.index import MAX_CELLS, PART_WORDS

        cells = self.global_cells
        if cells is not None and self.global_vectors == "none":
            raise ConfigError(f"--global-cells {cells or 'auto'} partitions global vectors: say --global too")
        if cells is not None and not 0 <= cells <= MAX_CELLS:
            raise ConfigError(f"--global-cells {cells} is outside 1..{MAX_CELLS}")
        needed = max(cells or 0, PART_WORDS if self.global_vectors == "pq" else 0)
        if self.training_photos < needed:
            raise ConfigError(
                f"--training-photos {self.training_photos} are fewer than the {needed} that --global "
                f"{self.global_vectors}{f' --global-cells {cells}' if cells else ''} is trained on"
            )

    def for_archive(self, bundle: Bundle) -> "IndexConfig":
        """Return the settings of a new archive for the descriptors of a model."""
        from ctxdeploy.index import IndexConfig

        extraction = bundle.extraction
        kept = self.global_vectors if self.global_vectors != "none" or "local" in extraction.gives else GLOBAL
        dim = extraction.global_dim or extraction.dim
        return IndexConfig(
            aggregation="plain" if self.boxes is None else "regional",
            geometry=self.geometry,
            global_vectors=kept,
            global_dim=0 if kept == "none" else dim,
            global_search="exact" if self.global_cells is None else "ivf",
        )
