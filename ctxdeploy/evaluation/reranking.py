"""What follows the search of an evaluation's query, as ``ctxdeploy query`` does it: expansion, then verification."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.settings import check_types, setting
from ctxdeploy.core.types import Box, LocalDescriptors
from ctxdeploy.index import SearchThreads, VerificationConfig, rank, verify

if TYPE_CHECKING:
    from ctxdeploy.index import Hit, Index, Verification

# What an archive must keep of the features that are matched, as ``--geometry`` calls it.
_KEPT = {"words": "positions", "codes": "codes", "descriptors": "descriptors", "auto": "descriptors"}


@dataclass(frozen=True, kw_only=True)
class Reranking:
    """How hits are ranked once they are found.

    Attributes:
        expand: hits that ask too, with their stored codes.
        verify: hits that are compared with the query by geometry; 0 for none.
        verification: how they are compared.
    """

    expand: int = setting(0, "--expand", "So many of the first results ask too; 0: none.", metavar="N")
    verify: int = setting(0, "--verify", "Compare so many of the first results by geometry; 0: none.", metavar="N")
    verification: VerificationConfig = field(default_factory=VerificationConfig)

    def __post_init__(self) -> None:
        check_types(self)
        for flag, value in (("--expand", self.expand), ("--verify", self.verify)):
            if value < 0:
                raise ConfigError(f"{flag} {value} is negative: give a number of results, or 0 for none")

    @property
    def is_none(self) -> bool:
        """Whether a search alone decides."""
        return not self.expand and not self.verify

    @property
    def geometry(self) -> str:
        """What a new archive has to keep for it, as ``IndexConfig.geometry``."""
        return _KEPT[self.verification.matches] if self.verify else "none"

    def for_photos_of(self, image_size: int) -> "Reranking":
        """Return it for photos that a model sees with so many pixels on their longest side."""
        return replace(self, verification=replace(self.verification, image_size=image_size))

    def check(self, index: "Index") -> None:
        """Raise ``ConfigError`` unless an archive keeps what is compared."""
        wanted = self.verification.matches
        needed = "positions" if wanted == "auto" else self.geometry
        if self.verify and not index.config.keeps(needed):
            what = "--verify" if wanted == "auto" else f"--verify-by {wanted}"
            raise index.keeps_too_little(needed, what, otherwise=f"give another -o, or leave out {what}")

    def ranked(
        self,
        index: "Index",
        query: LocalDescriptors,
        hits: "Sequence[Hit]",
        threads: SearchThreads,
        *,
        part: Box | None = None,
    ) -> "list[Hit]":
        """Return hits, the first of them verified.

        Args:
            index: archive that keeps the geometry of its photos.
            query: with positions.
            hits: of the search, best first.
            threads: that verify.
            part: of its photo that the query is.
        """
        if not self.verify:
            return list(hits)
        return rank(hits, self._verified(index, query, hits, threads, part), self.verification)

    def by_geometry(
        self,
        index: "Index",
        query: LocalDescriptors,
        hits: "Sequence[Hit]",
        threads: SearchThreads,
        *,
        part: Box | None = None,
    ) -> "list[Hit]":
        """As ``ranked``, by geometry alone; hits that agree equally stay as they were."""
        found = self._verified(index, query, hits, threads, part)
        first = sorted(zip(hits, found, strict=False), key=lambda pair: -pair[1].similarity)
        return [*(hit for hit, _ in first), *hits[len(found) :]]

    def _verified(
        self, index: "Index", query: LocalDescriptors, hits: "Sequence[Hit]", threads: SearchThreads, part: Box | None
    ) -> "list[Verification]":
        asked = index.features(query)
        photos = [index.features(hit.name) for hit in hits[: self.verify]]
        known = [photo for photo in photos if photo is not None]
        if asked is None or len(known) < len(photos):
            raise index.keeps_too_little("positions", "--verify")
        return verify(asked, known, self.verification, threads, part=part)
