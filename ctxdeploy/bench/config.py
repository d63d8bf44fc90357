"""What a measurement measures and how long, as the options of ``ctxdeploy bench`` say it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.settings import setting
from ctxdeploy.index import MAX_WORDS


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """How much is measured.

    Attributes:
        windows: in all, those of earlier runs of the same command included.
        block: windows after which the processes are made anew.
    """

    windows: int = setting(18, "--windows", "In all; more go on with a file.")
    block: int = setting(3, "--block", "Windows until processes are renewed.")

    def __post_init__(self) -> None:
        if not 1 <= self.windows <= 10_000 or not 1 <= self.block <= 1000:
            raise ConfigError(f"--windows {self.windows} must be in 1..10000 and --block {self.block} in 1..1000")


def _parse_counts(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise ValueError("is not a list of whole numbers such as 1,4,16")
    return tuple(int(part) for part in parts)


def _counts(default: tuple[int, ...] | None, flag: str, text: str, default_text: str = "") -> Any:
    shown = default_text or ",".join(map(str, default or ()))
    return setting(default, flag, text, metavar="N,N", parse=_parse_counts, default_text=shown)


@dataclass(frozen=True, kw_only=True)
class CompanionConfig:
    """What is measured beside the main case.

    Attributes:
        against: texts of ``--against``.
        peer: PyTorch, or ``asmk``, where they are installed.
    """

    against: Sequence[str] = ()
    peer: bool = setting(True, "--peer/--no-peer", "Measure PyTorch or asmk besides, where installed.")


@dataclass(frozen=True, kw_only=True)
class ExtractMeasurement:
    """What ``bench extract`` measures.

    Attributes:
        count: photos.
        batch_sizes: sizes above 1 that the network is measured with besides.
        thread_counts: numbers of threads that the main case is measured with besides.
        checkpoint: of the model, for PyTorch; random weights without.
    """

    count: int = setting(6, "--count", "Photos, spread over the folder.")
    batch_sizes: tuple[int, ...] = _counts((1, 4), "--batch-sizes", "Of the network.")
    thread_counts: tuple[int, ...] = _counts((1,), "--thread-counts", "Besides --threads.")
    checkpoint: Path | None = setting(None, "--checkpoint", "Of the model, for PyTorch.", default_text="random weights")


@dataclass(frozen=True, kw_only=True)
class EndToEndMeasurement:
    """What ``bench end-to-end`` measures.

    Attributes:
        count: photos.
        words: of the codebook.
        checkpoint: of the model, for PyTorch; random weights without.
    """

    count: int = setting(12, "--count", "Photos, spread over the folder.")
    words: int | None = setting(None, "--words", "Of the codebook.", default_text="fits the photos")
    checkpoint: Path | None = setting(None, "--checkpoint", "Of the model, for PyTorch.", default_text="random weights")


@dataclass(frozen=True, kw_only=True)
class SearchMeasurement:
    """What ``bench search`` measures.

    Attributes:
        photos, words: of a synthetic archive.
        descriptors: of a photo and of a query.
        sizes: photos of smaller synthetic archives that are measured besides; None: a 64th, a 16th and a quarter.
        seed: of everything that is drawn.
        queries: timed in every window.
        batch_sizes: sizes above 1 that are measured besides, up to the number of queries.
        thread_counts: numbers of threads that single queries are measured with besides.
        threads: of assignment and search; None: all.
    """

    photos: int = setting(65_536, "--photos", "Of a synthetic archive.")
    descriptors: int = setting(1000, "--descriptors", "Of a photo and of a query.")
    words: int = setting(65_536, "--words", "Of a synthetic archive.")
    sizes: tuple[int, ...] | None = _counts(None, "--sizes", "Smaller archives besides.", "three")
    seed: int = setting(0, "--seed", "Of everything that is drawn.")
    queries: int = setting(30, "--queries", "Timed in every window.")
    batch_sizes: tuple[int, ...] | None = _counts(None, "--batch-sizes", "Of queries.", "16, or all of fewer")
    thread_counts: tuple[int, ...] = _counts((1,), "--thread-counts", "Besides --threads.")
    threads: int | None = setting(None, "--threads", "Of a query.", default_text="all")

    def __post_init__(self) -> None:
        for flag, value in (
            ("--photos", self.photos),
            ("--descriptors", self.descriptors),
            ("--words", self.words),
            ("--queries", self.queries),
            ("--threads", 1 if self.threads is None else self.threads),
        ):
            if value < 1:
                raise ConfigError(f"{flag} {value} is too small: give 1 or more")
        if self.words > MAX_WORDS:
            raise ConfigError(f"--words {self.words} is outside 1..{MAX_WORDS}")
        if any(size > self.queries for size in self.batches):
            raise ConfigError(f"--batch-sizes up to {max(self.batches)} need as many --queries, not {self.queries}")

    @property
    def batches(self) -> tuple[int, ...]:
        """Sizes of batches."""
        return (min(16, self.queries),) if self.batch_sizes is None else self.batch_sizes

    def synthetic(self) -> dict[str, int]:
        """Return what a synthetic archive is made from."""
        return {name: getattr(self, name) for name in ("photos", "descriptors", "words", "seed")}

    def synthetic_sizes(self) -> list[int]:
        """Return the photos of the synthetic archives, rising; the last is the main one."""
        smaller = [self.photos // part for part in (64, 16, 4)] if self.sizes is None else self.sizes
        return sorted({size for size in smaller if 0 < size < self.photos} | {self.photos})
