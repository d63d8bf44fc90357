"""The types that cross the walls between the rooms: descriptors, precisions, preprocessing, boxes."""

import math
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError, PhotoError
from ctxdeploy.core.files import settings_sha256

# Squared distances of such vectors, summed over 4096 dimensions, stay far below float32's 3.4e38; beyond it every word
# would be infinitely far.
LARGEST = 1e15
# Degrees, clockwise, by which a photo may be turned for the network: its rows and columns stay such.
TURNS = (0, 90, 180, 270)
# Filled when the object is made, so that nobody has to ask whether an array is there.
_NOT_GIVEN: Any = None


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalDescriptors:
    """The local descriptors of one photo, strongest attention first; n may be 0.

    Attributes:
        vectors: n×D float32, not normalised.
        attention: n float32 in (0, 1], divided by the largest of the photo; 1 if it is not given.
        positions: n×2 float32, x then y, in pixels of the original photo (after EXIF rotation), centre of the cell:
            the centre of the top left pixel is (0.5, 0.5). NaN if they are not given.
        scales: n float32, the scale at which the descriptor was found; 1 if it is not given.

    Raises:
        ConfigError: the shapes do not belong together.
    """

    vectors: NDArray[np.float32]
    attention: NDArray[np.float32] = _NOT_GIVEN
    positions: NDArray[np.float32] = _NOT_GIVEN
    scales: NDArray[np.float32] = _NOT_GIVEN

    def __post_init__(self) -> None:
        n = len(self.vectors)
        defaults: dict[str, tuple[tuple[int, ...], float]]
        defaults = {"attention": ((n,), 1.0), "positions": ((n, 2), np.nan), "scales": ((n,), 1.0)}
        for name, (shape, value) in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, np.full(shape, value, np.float32))
        shapes = (self.vectors.ndim, self.attention.shape, self.positions.shape, self.scales.shape)
        if shapes != (2, (n,), (n, 2), (n,)):
            raise ConfigError(f"local descriptors of inconsistent shapes: {self.vectors.shape} and {shapes[1:]}")

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True, kw_only=True, eq=False)
class GlobalDescriptor:
    """One vector that stands for a whole photo; photos are compared by the inner product.

    Attributes:
        vector: D float32 of length 1, or all 0 where the network saw nothing.

    Raises:
        ConfigError: it is not one-dimensional.
    """

    vector: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.vector.ndim != 1:
            raise ConfigError(f"a global descriptor of shape {self.vector.shape}, but D numbers are needed")

    @classmethod
    def pooled(cls, descriptors: LocalDescriptors) -> Self:
        """Return Σ attention · descriptor over local descriptors of all scales, divided by its length (HOW, ECCV 2020).

        In training the sum runs over all positions of the feature maps; a graph returns the K with the largest
        attention. What attention is divided by does not matter, since the length is divided out. Summed row by row in
        float64, so that every machine has the same bits; 0 without descriptors, and where they cancel out.
        """
        weighted = descriptors.attention.astype(np.float64)[:, np.newaxis] * descriptors.vectors
        return cls.unit(np.add.reduce(weighted, axis=0))

    @classmethod
    def unit(cls, vector: NDArray[np.floating[Any]]) -> Self:
        """Return a vector of D finite numbers divided by its length, in float64; 0 stays 0.

        A network's own is of length 1 but for its rounding: 0.002 in bf16.
        """
        total = vector.astype(np.float64)
        length = math.sqrt(math.fsum((total * total).tolist()))
        return cls(vector=(total / length if length > 0 else np.zeros_like(total)).astype(np.float32))

    def __len__(self) -> int:
        return len(self.vector)


class Precision(Enum):
    """Arithmetic of a network's convolutions and matrix products, and the ONNX file that is written for it.

    Norms, attention, exponentials, row sums and the values given to TopK are fp32 in every one of them.
    """

    FP32 = ("fp32", "model.onnx")
    FP16 = ("fp16", "model.fp16.onnx")
    BF16 = ("bf16", "model.bf16.onnx")
    INT8 = ("int8", "model.int8.onnx")
    FP8 = ("fp8", "model.fp8.onnx")

    def __init__(self, label: str, file: str) -> None:
        self.label = label
        self.file = file

    @classmethod
    def parse(cls, label: str) -> "Precision":
        """Return the member of a label; ``ConfigError`` names those there are."""
        for member in cls:
            if member.label == label:
                return member
        raise ConfigError(f"precision {label!r} is unknown: give --precision {', '.join(m.label for m in cls)}")


# What decodes a JPEG: libjpeg-turbo on the CPU, or nvImageCodec on a GPU.
LIBJPEG, NVIMGCODEC = "libjpeg", "nvimgcodec"
DECODERS = (LIBJPEG, NVIMGCODEC)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Settings of the one function that decodes and scales photos (``ctxdeploy.runtime.decode``).

    Attributes:
        image_size: longest side in pixels after scaling; photos are never enlarged.
        draft: let the JPEG decoder scale by 1/2, 1/4 or 1/8 before LANCZOS: 2.5 times faster on a 6-megapixel photo
            and about 50 dB from the exact pixels.
        revision: number of the decoding rules in force (EXIF rotation applied, alpha composited on white, grey, CMYK,
            palette and 16-bit to RGB, Pillow's ``thumbnail`` with LANCZOS). A change of pixels raises it.
        decoder: of baseline JPEGs in colour: ``libjpeg`` or ``nvimgcodec``, whose pixels are a level or two apart. All
            other photos are decoded by the CPU.
    """

    image_size: int = 1024
    draft: bool = False
    revision: int = 1
    decoder: str = LIBJPEG

    def __post_init__(self) -> None:
        if not 16 <= self.image_size <= 16384:
            raise ConfigError(f"image size {self.image_size} is outside 16..16384: give another --image-size")
        if self.revision != 1:
            raise ConfigError(f"preprocessing revision {self.revision} is not known here: upgrade ctxdeploy")
        if self.decoder not in DECODERS:
            raise ConfigError(f"decoder {self.decoder!r} is not known here: upgrade ctxdeploy")
        if self.draft and self.decoder != LIBJPEG:
            raise ConfigError(f"--draft is libjpeg's scaling, which {self.decoder} has not: leave one of them out")

    def metadata(self) -> dict[str, Any]:
        """Return the settings as they stand in ``bundle.json``: the decoder only where it is not libjpeg, as before."""
        settings = asdict(self)
        if self.decoder == LIBJPEG:
            del settings["decoder"]
        return settings

    def on_cpu(self) -> "Preprocessing":
        """Return the same settings for a machine without a GPU: the nearest pixels, under another hash."""
        return replace(self, decoder=LIBJPEG)

    @property
    def hash(self) -> str:
        """Hex sha256 of the settings: two bundles with the same hash turn a photo into the same pixels."""
        return settings_sha256(self.metadata())


TOLERANCE = 1.0  # pixels by which a box may leave the photo: ground truths are rounded, some are one-based


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle in pixels of the original photo, after EXIF rotation.

    The continuous coordinates are those of all positions: the top left pixel covers 0..1, its centre is (0.5, 0.5).

    Attributes:
        x0: left edge.
        y0: upper edge.
        x1: right edge, larger than ``x0``.
        y1: lower edge, larger than ``y0``.
    """

    x0: float
    y0: float
    x1: float
    y1: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(edge) for edge in (self.x0, self.y0, self.x1, self.y1)):
            raise ConfigError(f"box {self}: its edges must be finite numbers")
        if self.x1 <= self.x0 or self.y1 <= self.y0:
            raise ConfigError(f"box {self} is empty: give it as x0,y0,x1,y1 with x0 < x1 and y0 < y1")

    @classmethod
    def parse(cls, text: str) -> "Box":
        """Return the box of a text ``"x0,y0,x1,y1"``; ``ConfigError`` if it is not one."""
        try:
            x0, y0, x1, y1 = (float(part) for part in text.split(","))
        except ValueError as error:
            raise ConfigError(f"box {text!r} is not four numbers: give it as x0,y0,x1,y1") from error
        return cls(x0=x0, y0=y0, x1=x1, y1=y1)

    def __str__(self) -> str:
        return f"{self.x0:g},{self.y0:g},{self.x1:g},{self.y1:g}"

    def pixels(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return the whole pixels (left, upper, right, lower) of the box in a photo of ``size`` (width, height).

        Edges go to the nearest integer, ties to the even one, which is what Pillow's ``crop`` and so the reference do.
        A box that leaves the photo by at most one pixel is clipped.

        Raises:
            PhotoError: the box lies outside the photo, or covers no whole pixel.
        """
        width, height = size
        outside = max(-self.x0, -self.y0, self.x1 - width, self.y1 - height)
        if outside > TOLERANCE:
            raise PhotoError(f"the box {self} does not lie in the photo of {width}×{height} pixels")
        left, upper = max(round(self.x0), 0), max(round(self.y0), 0)
        right, lower = min(round(self.x1), width), min(round(self.y1), height)
        if left >= right or upper >= lower:
            raise PhotoError(f"the box {self} covers no whole pixel of the photo of {width}×{height} pixels")
        return left, upper, right, lower


_LAST_TIME = (1 << 63) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class FileState:
    """A file's size in bytes and modification time, taken before it is read: later changes are noticed next time.

    A time before 1970 becomes 0, and one after April 2262, which no int64 holds, the last that one does.
    """

    size: int
    mtime_ns: int

    def __post_init__(self) -> None:
        if type(self.mtime_ns) is int and not -1 <= self.mtime_ns <= _LAST_TIME:  # -1: unknown
            object.__setattr__(self, "mtime_ns", min(max(self.mtime_ns, 0), _LAST_TIME))


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSeconds:
    """Seconds of the stages that photos go through, of one photo or added up over many.

    Attributes:
        read: reading photos that are not files (members of a tar or zip file, photos of a server). A file is read while
            it is decoded; only where reading it failed its seconds are here.
        decode: decoding and scaling.
        network: the network; of one photo its share of the batch.
    """

    read: float = 0.0
    decode: float = 0.0
    network: float = 0.0

    def __add__(self, other: "StageSeconds") -> "StageSeconds":
        return StageSeconds(
            read=self.read + other.read, decode=self.decode + other.decode, network=self.network + other.network
        )

    @property
    def total(self) -> float:
        """Sum of all stages."""
        return self.read + self.decode + self.network


@dataclass(frozen=True, kw_only=True, eq=False)
class PhotoDescriptors:
    """A photo's descriptors.

    Attributes:
        name: as in its ``PhotoSource``.
        descriptors: n local ones, n at most K; positions in pixels of the original photo. n is 0 of a network that
            gives none.
        global_descriptor: of the photo; None of a network that gives none.
        size: (width, height) of the original photo after EXIF rotation; None where it is not known.
        seconds: time per stage.
        file: state of the file before it was read; None for a photo from memory.
        remark: why hardly any query will find it; empty if nothing is odd.
    """

    name: str
    descriptors: LocalDescriptors
    global_descriptor: GlobalDescriptor | None = None
    size: tuple[int, int] | None = None
    seconds: StageSeconds = StageSeconds()
    file: FileState | None = None
    remark: str = ""

    def with_global(self) -> "PhotoDescriptors":
        """Return it with a global descriptor: its network's own, else the sum of its local ones."""
        if self.global_descriptor is not None:
            return self
        return replace(self, global_descriptor=GlobalDescriptor.pooled(self.descriptors))
