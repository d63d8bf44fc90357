"""What is planned: photos, machines, and what the archive keeps; each field is an option of ``ctxdeploy plan``."""

from dataclasses import dataclass

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.settings import check_types, parse_bytes, parse_count, setting
from ctxdeploy.indexing.config import GLOBAL

# More photos than this nobody has; beyond, products of counts and bytes leave 2^62.
MAX_PHOTOS = 10**12


def _parse_photos(text: str) -> int:
    photos = parse_count(text)
    if photos < 1:
        raise ValueError("is not a number of photos from 1 on, such as 20000 or 100M")
    return photos


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What is planned.

    Attributes:
        photos: of the archive; 0 for as many as the archive of ``--archive`` has.
        machines: that extract, and that hold the archive; None for as few as can hold it in memory.
        processors, memory, disk: of a machine (bytes); None for this machine's, and for a disk that is large enough.
        memory_share: part of the memory that the archive may take.
        replicas: copies of each part of the archive, on different machines.
        rate: queries a second that shall be answered; 0 says how many can be.
        batch: queries that are searched together.
        words, dim: of the codebook; None for those of the archive or the model.
        geometry, global_vectors, global_dim, global_cells, idf: as of an archive; None for what the archive has,
            else nothing.
        list_size: photos that a worker takes at once, and that make a segment.
        top: results of a query.
    """

    photos: int = setting(
        0, "--photos", "Such as 100M.", metavar="N", parse=_parse_photos, default_text="as many as --archive has"
    )
    machines: int | None = setting(
        None, "--machines", "That extract and search.", default_text="as few as hold the archive in memory"
    )
    processors: int | None = setting(None, "--processors", "Of a machine.", default_text="this machine's")
    memory: int | None = setting(
        None, "--memory", "Of a machine.", metavar="SIZE", parse=parse_bytes, default_text="this machine's"
    )
    memory_share: float = setting(0.9, "--memory-share", "Of a machine's memory that the archive may take.")
    disk: int | None = setting(
        None, "--disk", "Of a machine.", metavar="SIZE", parse=parse_bytes, default_text="not compared"
    )
    replicas: int = setting(1, "--replicas", "Copies of each part of the archive, on different machines.")
    rate: float = setting(0.0, "--rate", "Queries a second to be answered.", default_text="says how many can be")
    batch: int = setting(1, "--batch", "Queries that are searched together.")
    words: int | None = setting(None, "--words", "Of the codebook.", parse=parse_count, default_text="the model's")
    dim: int | None = setting(None, "--dim", "Of a descriptor.", default_text="the model's")
    geometry: str | None = setting(
        None,
        "--geometry",
        "As of  index.",
        choices=("none", "positions", "codes", "descriptors"),
        alone="codes",
        default_text="as the archive, else none",
    )
    global_vectors: str | None = setting(
        None,
        "--global",
        "As of  index.",
        choices=("none", "fp32", "fp16", "int8", "pq"),
        alone=GLOBAL,
        default_text="as the archive, else none",
    )
    global_dim: int | None = setting(None, "--global-dim", "Of a global vector.", default_text="the model's")
    global_cells: int | None = setting(
        None, "--global-cells", "Cells of global vectors.", metavar="N", default_text="as the archive, else none"
    )
    idf: bool | None = setting(
        None, "--idf/--no-idf", "Weigh words by how rare they are.", default_text="as the archive, else off"
    )
    list_size: int = setting(2000, "--list-size", "Photos that a worker takes at once; a segment.")
    top: int = setting(10, "--top", "Results of a query.")

    def __post_init__(self) -> None:
        check_types(self)
        low_high = (
            ("--photos", self.photos, 0, MAX_PHOTOS),
            ("--machines", self.machines, 1, 10**6),
            ("--processors", self.processors, 1, 10**5),
            ("--memory", self.memory, 1 << 20, 1 << 60),
            ("--disk", self.disk, 1 << 20, 1 << 60),
            ("--memory-share", self.memory_share, 0.01, 1.0),
            ("--replicas", self.replicas, 1, 1000),
            ("--rate", self.rate, 0, 10**9),
            ("--batch", self.batch, 1, 1 << 16),
            ("--words", self.words, 1, 1 << 24),
            ("--dim", self.dim, 1, 4096),
            ("--global-dim", self.global_dim, 1, 1 << 16),
            ("--global-cells", self.global_cells, 1, 4096),
            ("--list-size", self.list_size, 1, 1 << 16),
            ("--top", self.top, 1, 1 << 20),
        )
        for flag, value, low, high in low_high:
            if value is not None and not low <= value <= high:
                raise ConfigError(f"{flag} {value} is outside {low}..{high}")
        if self.machines is not None and self.replicas > self.machines:
            raise ConfigError(f"--replicas {self.replicas} need as many --machines, not {self.machines}")
        if self.global_cells is not None and self.global_vectors == "none":
            raise ConfigError("--global-cells partitions global vectors: say --global too")
