"""Settings of an archive, where its descriptors came from, and what a search returns."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.types import Box

MAX_SHARD_IMAGES = 65536
MAX_WORDS = 65536
# What an archive may keep of each feature; each keeps what those before it keep.
GEOMETRIES = ("none", "positions", "codes", "descriptors")
# Whether a photo is one whole, or regions whose sums are averaged word by word.
AGGREGATIONS = ("plain", "regional")
# How an archive may keep the global vector of each photo.
GLOBAL_VECTORS = ("none", "fp32", "fp16", "int8", "pq")
GLOBAL_SEARCHES = ("exact", "ivf")
# Words of each part of a vector in product quantisation: a byte.
PART_WORDS = 256
# Cells of global vectors: so many are compared in a millisecond.
MAX_CELLS = 4096
MAX_GLOBAL_DIM = 1 << 16

# Called with how much is done, and of how much.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How a search turns similarities into scores; by default as its archive says.

    Attributes:
        alpha: selectivity exponent, 0..100.
        threshold: similarities below it count 0; -1..1.
        idf: weigh words by ln(photos / photos with the word)².
    """

    alpha: float
    threshold: float
    idf: bool

    def __post_init__(self) -> None:
        if not isinstance(self.idf, bool):
            raise ConfigError(f"idf {self.idf!r} is not true or false")
        for name, low, limit in (("alpha", 0.0, 100.0), ("threshold", -1.0, 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= limit:
                raise ConfigError(f"{name} {value!r} is not a number in {low:g}..{limit:g}")
        if self.threshold < 0 and not math.isclose(self.alpha, round(self.alpha), abs_tol=0.0, rel_tol=0.0):
            raise ConfigError(
                f"alpha {self.alpha} has no value below 0: give a whole alpha, or a threshold of 0 or more"
            )


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """How an archive aggregates and compares (ASMK, ICCV 2013; defaults of HOW, ECCV 2020).

    Attributes:
        aggregation: "plain", or "regional" for photos whose descriptors are those of several regions, one after the
            other (R-ASMK, Teichmann et al., CVPR 2019): scores are divided by the query's length alone, not by the
            photo's, so that a photo of many regions does not lose. A word's sum over regions, divided by their number,
            has the signs and the direction of the sum over all their descriptors: nothing else differs.
        binary: store signs of the residuals (ASMK*: D bits a word) instead of D float32.
        assignment: words per descriptor of an archived photo.
        query_assignment: words per descriptor of a query.
        alpha: selectivity exponent.
        threshold: similarities below it count 0.
        idf: weigh words by ln(images / photos with the word)²; a search may override it.
        shard_images: photos per shard file; image numbers in a shard are 16 bits wide, hence at most 65,536.
        geometry: what to keep of each feature, for geometric verification: "none"; "positions": word, position and
            scale (8 bytes); "codes": also the signs of its residual, and each photo's size (24 bytes at D = 128);
            "descriptors": also the descriptor in int8 (156 bytes). True stands for "codes", False for "none".
        global_vectors: how to keep the global vector of each photo: "none"; "fp32"; "fp16"; "int8", in steps of a 127th
            of its largest number; "pq", the nearest words of a product quantiser, a byte for 8 numbers.
        global_dim: dimension of the global vectors, 1..65,536; 0 where none are kept.
        global_search: "exact": compare every photo; "ivf": look into the nearest cells alone, where there are many.
    """

    aggregation: str = "plain"
    binary: bool = True
    assignment: int = 1
    query_assignment: int = 5
    alpha: float = 3.0
    threshold: float = 0.0
    idf: bool = False
    shard_images: int = MAX_SHARD_IMAGES
    geometry: str = "none"
    global_vectors: str = "none"
    global_dim: int = 0
    global_search: str = "exact"

    def __post_init__(self) -> None:
        if not isinstance(self.binary, bool):
            raise ConfigError(f"binary {self.binary!r} is not true or false")
        if self.aggregation not in AGGREGATIONS:
            raise ConfigError(f"aggregation {self.aggregation!r} is not one of {', '.join(AGGREGATIONS)}")
        object.__setattr__(self, "geometry", parse_geometry(self.geometry))
        for name, high in (("assignment", 64), ("query_assignment", 64), ("shard_images", MAX_SHARD_IMAGES)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
                raise ConfigError(f"{name} {value!r} is not a whole number in 1..{high}")
        self._check_global()
        self.scoring()

    def _check_global(self) -> None:
        if self.global_vectors not in GLOBAL_VECTORS:
            raise ConfigError(f"global_vectors {self.global_vectors!r} is not one of {', '.join(GLOBAL_VECTORS)}")
        dim, low, high = self.global_dim, *((1, MAX_GLOBAL_DIM) if self.keeps_global else (0, 0))
        if isinstance(dim, bool) or not isinstance(dim, int) or not low <= dim <= high:
            allowed = f"a whole number in 1..{MAX_GLOBAL_DIM}" if self.keeps_global else "0"
            raise ConfigError(f"global_dim {dim!r} is not {allowed}, with global_vectors {self.global_vectors!r}")
        if self.global_search not in GLOBAL_SEARCHES[: None if self.keeps_global else 1]:
            raise ConfigError(
                f"global_search {self.global_search!r} is not one of {', '.join(GLOBAL_SEARCHES)}, the last of which "
                "needs global_vectors"
            )

    @property
    def keeps_global(self) -> bool:
        """Whether a global vector of each photo is kept."""
        return self.global_vectors != "none"

    @property
    def global_bytes(self) -> int:
        """Bytes of a photo's global vector."""
        dim = self.global_dim
        sizes = {"none": 0, "fp32": 4 * dim, "fp16": 2 * dim, "int8": dim + 4, "pq": global_parts(dim)}
        return sizes[self.global_vectors] + (2 if self.global_search == "ivf" else 0)

    @property
    def needs_quantiser(self) -> bool:
        """Whether global vectors are coded by words, or searched by cells."""
        return self.global_vectors == "pq" or self.global_search == "ivf"

    def scoring(
        self, *, alpha: float | None = None, threshold: float | None = None, idf: bool | None = None
    ) -> "Scoring":
        """Return how a search compares: as the archive says, but for what is given here."""
        return Scoring(
            alpha=self.alpha if alpha is None else alpha,
            threshold=self.threshold if threshold is None else threshold,
            idf=self.idf if idf is None else idf,
        )

    def keeps(self, geometry: str) -> bool:
        """Return whether at least "positions", "codes" or "descriptors" of features are kept."""
        return keeps(self.geometry, geometry)

    def feature_bytes(self, dim: int) -> int:
        """Return how many bytes a feature of ``dim`` dimensions takes besides its posting."""
        codes = 8 * -(-dim // 64) if self.keeps("codes") else 0
        vectors = dim + 4 if self.keeps("descriptors") else 0
        return (8 if self.keeps("positions") else 0) + codes + vectors

    def metadata(self) -> dict[str, Any]:
        """Return the settings."""
        return asdict(self)


def global_parts(dim: int) -> int:
    """Return into how many parts of at least 8 numbers "pq" cuts a vector, as many as divide it evenly."""
    return next((parts for parts in range(max(dim // 8, 1), 0, -1) if dim % parts == 0), 1)


def keeps(geometry: str, wanted: str) -> bool:
    """Return whether an archive of one setting ``geometry`` keeps what another asks for."""
    return GEOMETRIES.index(geometry) >= GEOMETRIES.index(wanted)


def parse_geometry(value: Any) -> str:
    """Return a setting ``geometry``: one of ``GEOMETRIES``, True for "codes" or False for "none"; else
    ``ConfigError``."""
    if isinstance(value, bool):
        return "codes" if value else "none"
    if value not in GEOMETRIES:
        raise ConfigError(f"geometry {value!r} is not one of {', '.join(GEOMETRIES)}")
    return str(value)


@dataclass(frozen=True, kw_only=True)
class DescriptorSource:
    """Where an archive's descriptors came from; descriptors of another source are not comparable.

    Attributes:
        model: id of the network (``Bundle.model_id``).
        preprocessing: hash of the settings that turned photos into inputs.
        description: for people, such as the bundle's file name.
    """

    model: str
    preprocessing: str
    description: str = ""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, str):
                raise ConfigError(f"{name} of the descriptors' source is {value!r}, not a text")

    def metadata(self) -> dict[str, Any]:
        """Return the source as it stands in the manifest."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Verification:
    """How a query lies in a photo that it found.

    Attributes:
        inliers: occupied cells of a 16×16 grid over the query whose matches one map explains, 0..256.
        affine: 2×3 float64, from pixels of the query to pixels of the photo, fitted to those of the matches that agree
            most closely; None if no map explains the matches.
        query_points: m×2 float32, x and y of the matches that one map explains, in pixels of the query.
        photo_points: m×2 float32, theirs in pixels of the photo.
        box: where the query, or its part, lies in the photo; None without a map.
        similarity: of all these matches: the sum of cosine⁸ of matched descriptors, or their number where they match by
            word and code. It orders hits better than ``inliers``.
    """

    inliers: int
    affine: NDArray[np.float64] | None
    query_points: NDArray[np.float32]
    photo_points: NDArray[np.float32]
    box: Box | None
    similarity: float = 0.0


@dataclass(frozen=True, slots=True)
class Hit:
    """A photo that answers a query, and its ASMK score.

    A score is above 0 and orders the answers of one query; it is neither a share nor a probability. The query's own
    photo has about 0.07 to 0.3, not 1, because descriptors of a query are assigned to five words each, those of an
    archive to one (with ``query_assignment=1`` in ``IndexConfig`` it has 1).

    Attributes:
        name: of the photo.
        score: of it.
        verification: where the query lies in it; None if that was not looked into.
        probability: that it shows the same, 0..1; None if the archive has no judgement.
        global_score: inner product of its global vector and the query's, -1..1; None where they were not compared.
    """

    name: str
    score: float
    verification: Verification | None = None
    probability: float | None = None
    global_score: float | None = None
