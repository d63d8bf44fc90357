"""Hits compared with the query by geometry: from what the archive keeps of them, or from their files."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ctxdeploy.core.types import Box, FileState, PhotoDescriptors
from ctxdeploy.index import Features, Hit, SearchThreads, Verification, VerificationConfig, verify
from ctxdeploy.querying.photo import indexed_source

if TYPE_CHECKING:
    from ctxdeploy.index import Index
    from ctxdeploy.runtime import Extractor

# Photos whose descriptors are kept in memory: 0.5 MB each at 1000 descriptors of 128 dimensions.
_CACHED = 256


class PhotoFeatures:
    """The features of an archive's photos from their files, the latest of them kept. Any thread may ask."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, FileState | None], Features] = OrderedDict()
        self._turn = threading.Lock()  # one thread at a time extracts a stream of photos

    def of(
        self, names: Sequence[str], folder: Path | None, index: "Index", network: "Callable[[], Extractor]"
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
