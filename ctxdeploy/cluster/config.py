"""Which photos a segment has, and how it is made."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.part import Part
from ctxdeploy.core.settings import check_types, setting
from ctxdeploy.core.text import printable
from ctxdeploy.indexing.config import GLOBAL, NO_LIMIT, FailureLimit, IndexingConfig

if TYPE_CHECKING:
    from ctxdeploy.runtime.sources import PhotoList

# Names of photos that are not there, which an error says.
_SHOWN = 5


def part_of_place(part: Part, photos: "PhotoList") -> "PhotoList":
    """Return a part of the photos of a place: a run of their sorted names.

    Runs, not hashes of names: the parts in their order are the photos in the order in which one machine takes them.
    """
    return replace(photos, photos=list(part.run_of(photos.photos)))


def named(photos: "PhotoList", names: list[str], where: str) -> "PhotoList":
    """Return the photos of some names; ``ConfigError`` if one is not among them. ``where`` says what gave the names."""
    wanted = set(names)
    found = [photo for photo in photos.photos if photo.name in wanted]
    if len(found) < len(wanted):
        unknown = sorted(wanted.difference(photo.name for photo in found))
        shown = ", ".join(map(printable, unknown[:_SHOWN])) + (", …" if len(unknown) > _SHOWN else "")
        raise ConfigError(f"{where} names photos that are not in {printable(photos.place)}: {shown}")
    return replace(photos, photos=found)


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """How a segment is made; all segments of an archive alike.

    Attributes:
        codebook: an archive, whose codebook and settings the segment is for; a bundle or file, whose codebook it is.
        geometry, global_vectors, boxes: as in ``IndexingConfig``; of an archive they are known.
        failure_limit: how many photos of the segment may fail.
        commit_seconds: least time between two commits of what a run that is interrupted goes on from.
    """

    codebook: Path | None = setting(
        None,
        "--codebook",
        "What the segment is for: an archive, or a bundle's or file's codebook.",
        metavar="ARCHIVE|BUNDLE|FILE",
        default_text="the model's",
    )
    geometry: str = setting(
        "none",
        "--geometry",
        "As of  index.",
        choices=("positions", "codes", "descriptors"),
        alone="codes",
        default_text="none is kept, or as ARCHIVE",
    )
    global_vectors: str = setting(
        "none",
        "--global",
        "As of  index.",
        choices=("fp32", "fp16", "int8"),
        alone=GLOBAL,
        default_text="kept only where there is nothing else, or as ARCHIVE",
    )
    boxes: Path | None = setting(
        None, "--boxes", "Regions of the photos, as of  index.", metavar="FILE", default_text="the whole photo alone"
    )
    failure_limit: FailureLimit = setting(
        NO_LIMIT,
        "--max-failures",
        "Stop when more photos of the segment fail; a share counts from 100 photos on.",
        metavar="N|P%",
        parse=FailureLimit.parse,
        default_text="no limit",
    )
    commit_seconds: float = setting(
        10.0, "--commit-seconds", "Least time between two states that an interrupted run goes on from."
    )

    def __post_init__(self) -> None:
        check_types(self)
        self.indexing()

    def indexing(self) -> IndexingConfig:
        """Return the settings of the run that extracts the photos."""
        return IndexingConfig(
            geometry=self.geometry,
            global_vectors=self.global_vectors,
            boxes=self.boxes,
            failure_limit=self.failure_limit,
            commit_seconds=self.commit_seconds,
        )


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """A Ray cluster, and how its machines are used.

    Attributes:
        address: of the cluster; None for this machine without Ray.
        worker_cpus: processors of a worker.
        worker_gpus: GPUs of a worker.
        list_size: photos of a list, the unit that is given out and repeated.
    """

    address: str | None = setting(
        None,
        "--cluster",
        "Extract on a Ray cluster; local starts one on this machine. All must see PLACE and ARCHIVE under one path.",
        metavar="auto|local|ray://…|HOST:PORT",
        default_text="this machine alone",
    )
    worker_cpus: int = setting(4, "--worker-cpus", "With --cluster: processors of a worker.", metavar="K")
    worker_gpus: float = setting(0.0, "--worker-gpus", "With --cluster: GPUs of a worker.", metavar="G")
    list_size: int = setting(2000, "--list-size", "With --cluster: photos given out at once.", metavar="N")

    def __post_init__(self) -> None:
        check_types(self)
        known = self.address is None or self.address in ("auto", "local") or "://" in self.address
        if not known and re.fullmatch(r"[^\s/]+:\d{1,5}", str(self.address)) is None:
            raise ConfigError(
                f"--cluster {self.address!r} is neither auto nor local, nor an address such as ray://head:10001 or "
                "head:6379"
            )
        for flag, value, low, high in (
            ("--worker-cpus", self.worker_cpus, 1, 1024),
            ("--worker-gpus", self.worker_gpus, 0, 64),
            ("--list-size", self.list_size, 1, 1 << 16),
        ):
            if not low <= value <= high:
                raise ConfigError(f"{flag} {value} is outside {low}..{high}")
