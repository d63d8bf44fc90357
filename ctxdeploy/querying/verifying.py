"""Hits compared with the query by geometry: from what the archive keeps of them, or from their files."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ctxdeploy.core.cpu import checked_threads
from ctxdeploy.core.text import counted, printable
from ctxdeploy.core.types import Box, FileState, PhotoDescriptors
from ctxdeploy.index import Features, Hit, SearchThreads, Verification, VerificationConfig, rank, verify
from ctxdeploy.query import GEOMETRY, QueryConfig
from ctxdeploy.querying.found import Found
from ctxdeploy.querying.photo import indexed_source

if TYPE_CHECKING:
    from ctxdeploy.index import QueriedIndex
    from ctxdeploy.runtime import Extractor

# Photos that a remark names.
_NAMED = 3
_OTHERWISE = "compare their files with --verify-from photos; or leave out --verify-by"
# Photos whose descriptors are kept in memory: 0.5 MB each at 1000 descriptors of 128 dimensions.
_CACHED = 256


class PhotoFeatures:
    """The features of an archive's photos from their files, the latest of them kept. Any thread may ask."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, FileState | None], Features] = OrderedDict()
        self._turn = threading.Lock()  # one thread at a time extracts a stream of photos

    def of(
        self, names: Sequence[str], folder: Path | None, index: "QueriedIndex", network: "Callable[[], Extractor]"
    ) -> dict[str, Features]:
        """Return the features of those photos whose files can be read.

        Args:
            names: of photos.
            folder: that their names are paths in; None if it is not known, and then none is read.
            index: the archive, whose words they get.
            network: which describes them; not called if all are kept.
        """
        if folder is None:
            return {}
        with self._turn:
            sources = {name: indexed_source(name, folder) for name in dict.fromkeys(names)}
            keys = {name: (name, source.state()) for name, source in sources.items()}
            missing = [source for name, source in sources.items() if keys[name] not in self._kept]
            if missing:
                for found in network().extract(missing):
                    if isinstance(found, PhotoDescriptors) and len(found.descriptors):
                        features = index.features(found.descriptors, size=found.size)
                        if features is not None:
                            self._kept[keys[found.name]] = features
            found_here = {name: self._kept[key] for name, key in keys.items() if key in self._kept}
            for name in found_here:
                self._kept.move_to_end(keys[name])
            while len(self._kept) > _CACHED:
                self._kept.popitem(last=False)
            return found_here


# What is taken for the verification of a photo of which nothing is known.
NO_MAP = Verification(
    inliers=0,
    affine=None,
    query_points=np.empty((0, 2), np.float32),
    photo_points=np.empty((0, 2), np.float32),
    box=None,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Verified:
    """What was verified of the hits of a query.

    Attributes:
        by_name: of the hits of whose geometry something is known.
        matches: what matched their features, by name: ``descriptors``, ``codes`` or ``words``.
        missing: names of hits whose files should have been compared, and could not be.
        unknown: of these, hits of which the archive keeps nothing either.
    """

    by_name: dict[str, Verification] = field(default_factory=dict)
    matches: dict[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unknown: int = 0


def verify_hits(
    query: Features,
    photos: Mapping[str, Features | None],
    config: VerificationConfig,
    threads: SearchThreads,
    *,
    part: Box | None,
) -> Verified:
    """Compare a query with photos that it found.

    Args:
        query: its features.
        photos: the features of each by its name; None where nothing is known of its geometry.
        config: of the verification.
        threads: that take the photos in turn.
        part: the part of its photo that the query is.
    """
    found: dict[str, Verification] = {}
    known = {name: photo for name, photo in photos.items() if photo is not None}
    matches = {name: _match(query, photo, config.matches) for name, photo in known.items()}
    for kind in sorted(set(matches.values())):
        names = [name for name, match in matches.items() if match == kind]
        results = verify(query, [known[name] for name in names], replace(config, matches=kind), threads, part=part)
        found |= dict(zip(names, results, strict=True))
    return Verified(by_name=found, matches=matches)


@dataclass(frozen=True, kw_only=True, eq=False)
class HitVerifier:
    """Verifies what queries of an archive found.

    Attributes:
        index, name, network, image_size, folder, files, config: as of ``Answerer``.
    """

    index: "QueriedIndex"
    name: str
    network: "Callable[[], Extractor]"
    image_size: Callable[[], int]
    folder: Path | None
    files: PhotoFeatures
    config: QueryConfig

    def verified(self, item: Found, hits: Sequence[Hit]) -> Verified:
        """Compare a query with hits.

        Raises:
            ConfigError: the archive keeps too little of its features.
        """
        if not hits:
            return Verified()
        names = [hit.name for hit in hits]
        files = self._files(names, item)
        stored = self.index.stored_features([name for name in names if name not in files])
        photos = {name: files[name] if name in files else stored[name] for name in names}
        query = self._features(item, files)
        if query is None or all(photo is None for photo in photos.values()):
            otherwise = "compare their files with --verify-from photos"
            if self.config.verify_from == "photos":  # and none of them could be read
                otherwise = f"say where their files are now:  ctxdeploy index FOLDER -o {self.name} --moved"
            raise self.index.keeps_too_little("positions", "--verify", otherwise=otherwise)
        wanted = self.config.verification.matches
        if wanted in ("codes", "descriptors") and not _have(wanted, [query, *photos.values()]):
            raise self.index.keeps_too_little(wanted, f"--verify-by {wanted}", otherwise=_OTHERWISE)
        turn = (360 - item.turn) // 90 % 4
        config = replace(self.config.verification, turn=turn, image_size=self.image_size())
        verified = verify_hits(query, photos, config, _threads(), part=item.box)
        gone = [name for name in names if name not in files] if self.config.verify_from == "photos" else []
        unknown = sum(name not in verified.by_name for name in gone)
        return replace(verified, missing=tuple(gone), unknown=unknown)

    def _files(self, names: list[str], item: Found) -> dict[str, Features]:
        """Return the features of photos' files, by name, and of the query's if it is of the archive."""
        if self.config.verify_from != "photos":
            return {}
        asked = names if item.photo is not None else [*names, item.query.photo.name]
        return self.files.of(asked, self.folder, self.index, self.network)

    def _features(self, item: Found, files: Mapping[str, Features]) -> Features | None:
        if item.photo is not None:
            return self.index.features(item.photo.descriptors, size=item.photo.size)
        name = item.query.photo.name
        return files[name] if name in files else self.index.features(name)

    def remarks(self, verified: Verified) -> tuple[str, ...]:
        """Return what is said of hits whose files could not be compared."""
        if not verified.missing:
            return ()
        where = "no folder of the photos is known" if self.folder is None else f"not in {self.folder}, or unreadable"
        names = ", ".join(map(printable, verified.missing[:_NAMED])) + (", …" if len(verified.missing) > _NAMED else "")
        kept = "what the archive keeps of them was"
        if verified.unknown:
            kept += f", but of {verified.unknown:,} it keeps nothing, and they lose places to what was compared"
        return (
            f"the files of {counted(len(verified.missing), 'result')} could not be compared ({where}): {names}; {kept}",
        )


def _have(kind: str, features: Iterable[Features | None]) -> bool:
    """Return whether all features that are known have descriptors, or codes."""
    known = [one for one in features if one is not None]
    return all((one.vectors if kind == "descriptors" else one.codes) is not None for one in known)


@cache
def _threads() -> SearchThreads:
    """Return the threads that verify, for all archives of this process."""
    return SearchThreads(checked_threads(None))


def _match(query: Features, photo: Features, wanted: str) -> str:
    """Return what matches two features: what is wanted, or the best that both have."""
    if wanted != "auto":
        return wanted
    if query.vectors is not None and photo.vectors is not None:
        return "descriptors"
    return "codes" if query.codes is not None and photo.codes is not None else "words"


def by_geometry(hits: Sequence[Hit], verified: Verified) -> list[Hit]:
    """Return hits by what of the query one map explains in them, as DELG does (Cao et al., ECCV 2020).

    Those that agree equally, such as those without a map, stay in the order that they come in.
    """
    found = [replace(hit, verification=verified.by_name.get(hit.name)) for hit in hits]
    return sorted(found, key=lambda hit: 0.0 if hit.verification is None else -hit.verification.similarity)


def ranked_by(verified: Verified, hits: Sequence[Hit], config: QueryConfig) -> list[Hit]:
    """Return hits in the order of their scores and of what was verified."""
    known = verified.by_name
    if not known:
        return list(hits)
    if config.rerank_by == GEOMETRY:
        return by_geometry(hits, verified)
    first = [known.get(hit.name) or NO_MAP for hit in hits[: config.verify]]
    ranked = rank(hits, first, config.verification)
    return [replace(hit, verification=known.get(hit.name)) for hit in ranked]
