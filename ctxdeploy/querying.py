"""Photos to answers from an archive."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.descriptors import LocalDescriptors

if TYPE_CHECKING:
    from ctxdeploy.index import Hit, Index
    from ctxdeploy.runtime import Box, Extractor


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What a query found.

    Attributes:
        photo: the query's file.
        box: its part that was searched for; None for the whole photo.
        hits: best first.
        descriptors: of the query.
        extract_seconds: reading, decoding and network.
        search_seconds: assignment, aggregation and search.
    """

    photo: Path
    box: "Box | None"
    hits: list["Hit"]
    descriptors: LocalDescriptors
    extract_seconds: float
    search_seconds: float

    def metadata(self) -> dict[str, Any]:
        """Return the answer as ``ctxdeploy query --json`` prints it."""
        box = None if self.box is None else [self.box.x0, self.box.y0, self.box.x1, self.box.y1]
        return {
            "query": str(self.photo),
            "box": box,
            "results": [{"rank": i + 1, "name": hit.name, "score": hit.score} for i, hit in enumerate(self.hits)],
            "descriptors": len(self.descriptors),
            "seconds": {"extract": self.extract_seconds, "search": self.search_seconds},
        }


def ask(index: "Index", extractor: "Extractor", photo: Path, box: "Box | None" = None, top: int = 10) -> Answer:
    """Query an archive with a photo.

    Args:
        index: the archive; its model must have been checked against the extractor's.
        extractor: the model.
        photo: the file.
        box: the part to search for; the whole photo if None.
        top: hits at most.

    Raises:
        PhotoError: the photo cannot be read, or the box does not lie in it.
    """
    start = time.perf_counter()
    descriptors = extractor.extract_one(photo, box)
    extracted = time.perf_counter()
    hits = index.search(descriptors, top)
    return Answer(
        photo=photo,
        box=box,
        hits=hits,
        descriptors=descriptors,
        extract_seconds=extracted - start,
        search_seconds=time.perf_counter() - extracted,
    )
