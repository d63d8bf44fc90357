"""What is asked of the pairs of an archive."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.settings import check_types, setting

# Names of photos: in a file, one a line; those that begin with a text that ends in / or *; or given one by one.
Photos: TypeAlias = str | Collection[str]

# What is left out where pairs are verified and nothing else is said. A reconstruction loses more by a missing pair than
# by one too many: on four walks round objects, none of minibench, 0.965 of overlapping pairs are there (0.89 by score).
_VERIFIED = 0.05


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """Which pairs of an archive's photos are given.

    Attributes:
        top: other photos at most that one photo is paired with on its own behalf; of others' it may be in more pairs.
        min_score: pairs below it are left out; of the search with archived codes, in which a photo has 1 with itself.
        min_probability: pairs less sure than this to show the same are left out; see ``Judgement``. None: none is, or
            with ``verify`` those below 0.05.
        verify: compare the pairs by geometry, by what the archive keeps of their features; their probability says it.
        queries: photos that look for others; all if None.
        mapped: photos that are looked for; all if None.
        skip_neighbours: pairs of one sequence nearer than this many frames are left out. A sequence is what lies in one
            folder, in natural order of the names.
        connected: add the best pairs between parts that no pair joins, until one can get from each photo to each other.
        symmetric: give each pair in both directions.
    """

    top: int = setting(20, "--top", "Other photos for each photo.", metavar="K")
    min_score: float = setting(0.0, "--min-score", "Leave out pairs below it.")
    min_probability: float | None = setting(
        None, "--min-probability", "Leave out pairs less sure to show the same.", default_text="0.05 with --verify"
    )
    verify: bool = setting(False, "--verify", "Compare the pairs by geometry (archives with --geometry).")
    queries: Photos | None = setting(
        None,
        "--queries",
        "Photos that look for others: a file of names, or dir/ or prefix*.",
        metavar="LIST",
        parse=str,
    )
    mapped: Photos | None = setting(
        None, "--mapped", "Photos that are looked for, likewise.", metavar="LIST", parse=str
    )
    skip_neighbours: int = setting(
        0, "--skip-neighbours", "Leave out pairs of a folder nearer than N frames.", metavar="N"
    )
    connected: bool = setting(False, "--connected", "Add the best bridges until all photos hang together.")
    symmetric: bool = setting(False, "--symmetric", "Give each pair in both directions.")

    def __post_init__(self) -> None:
        check_types(self)
        if self.top < 1:
            raise ConfigError(f"--top {self.top} is not positive: ask for at least one other photo")
        if not 0 <= self.min_score <= 1:
            raise ConfigError(f"--min-score {self.min_score:g} is not in 0..1")
        if self.min_probability is not None and not 0 <= self.min_probability <= 1:
            raise ConfigError(f"--min-probability {self.min_probability:g} is not in 0..1")
        if self.skip_neighbours < 0:
            raise ConfigError(f"--skip-neighbours {self.skip_neighbours} is negative: give a number of frames, or 0")
        for flag, photos in (("--queries", self.queries), ("--mapped", self.mapped)):
            if photos is not None and not isinstance(photos, str | Collection):
                raise ConfigError(f"{flag} {photos!r} is neither a text nor names")
        if self.connected and self.queries != self.mapped:
            raise ConfigError(
                "--connected is for pairs within one set of photos: give --queries and --mapped the same LIST"
            )

    @property
    def least_probability(self) -> float | None:
        """The probability below which pairs are left out; None if they are not judged."""
        return _VERIFIED if self.verify and self.min_probability is None else self.min_probability
