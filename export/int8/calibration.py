"""How a graph becomes int8, and the range of every tensor of the trunk, from photos.

Each scale runs on its own, and the graph itself returns every 389th value of a tensor beside its extremes, so that no
activation outlives its use. All scales of a place have one range.

ONNX Runtime's calibrators (1.32), which give each scale a range of its own, were tried on how without training, three
scales, six photos of 384 pixels, first convolution fp32. Descriptor cosine mean, ResNet-18 and half its width: .9807
and .9755 here, .9761 and .9708 here without clipping; their MinMax .9781 and .9732, Entropy .9770 and .9710, Percentile
.9828 and .9769. Percentile and Entropy take photos of one shape alone (others end in "inhomogeneous shape"), and hold
every value of every photo until the last one: about 2.6 GB for a photo of 1024×768 at seven scales.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.bundle import INPUT_NAME
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.extras import require_onnxruntime
from ctxdeploy.core.settings import setting
from ctxdeploy.export.int8.layers import find_trunk, subgraph


@dataclass(frozen=True, kw_only=True)
class Int8Config:
    """Settings of the quantisation and of the search.

    Attributes:
        max_photos: photos to calibrate with; more than these are left out, evenly.
        max_kept: largest share of the trunk's convolutions that the search may keep in fp32.
        keep: convolutions that stay fp32 from the beginning, by name.
        source: where the photos come from, as reports say it.
    """

    max_photos: int = setting(
        16,
        "--calibration-photos",
        "Photos of --calibrate that int8 or fp8 is fitted to, spread over them.",
        metavar="N",
    )
    max_kept: float = 0.5
    keep: frozenset[str] = frozenset()
    source: str = "sample photos"

    def __post_init__(self) -> None:
        if type(self.max_photos) is not int or self.max_photos < 1:
            raise ConfigError(f"--calibration-photos is {self.max_photos!r}: give 1 or more photos to calibrate with")
        if not 0 <= self.max_kept <= 1:
            raise ConfigError(f"max_kept is {self.max_kept}: give a share of the convolutions, 0 to 1")


Image = NDArray[np.uint8]

LEVELS = 127
# A prime: no row or channel of a feature map is met more often than another.
_STEP = 389
_BINS = 8192
# Shares of the largest value that are tried as the clipping limit.
_SHARES = np.linspace(0.1, 1, 91)


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """What int8 must hold at each place of the trunk.

    Attributes:
        limits: largest magnitude that is not clipped, by place.
        largest: largest magnitude seen, by place.
        photos: names of the photos.
    """

    limits: Mapping[str, float]
    largest: Mapping[str, float]
    photos: tuple[str, ...]

    def metadata(self) -> dict[str, Any]:
        """Return the ranges as they stand in ``bundle.json``."""
        return {
            "method": "mse",
            "photos": len(self.photos),
            "limits": {place: float(f"{limit:.6g}") for place, limit in self.limits.items()},
            "largest": {place: float(f"{value:.6g}") for place, value in self.largest.items()},
        }


def calibrate(proto: Any, photos: Mapping[str, Image], config: Int8Config | None = None) -> Ranges:
    """Run photos through the trunk and choose the range of each place, one for all scales.

    Args:
        proto: the fp32 graph.
        photos: H×W×3 uint8 by name, at the size at which they enter the network.
        config: number of photos.

    Raises:
        ConfigError: there is no photo, or the graph has no trunk.
        MissingExtraError: onnxruntime is not installed.
    """
    config = config or Int8Config()
    chosen = _chosen(photos, config.max_photos)
    trunk = find_trunk(proto)
    places = trunk.observed()
    samples: dict[str, list[NDArray[np.float32]]] = {place: [] for place in places}
    largest = dict.fromkeys(places, 0.0)
    for tensors in trunk.by_scale(places):
        for outputs in _observe(proto, list(tensors.values()), chosen):
            for place, values, high, low in zip(tensors, outputs[::3], outputs[1::3], outputs[2::3], strict=True):
                samples[place].append(values)
                # numpy's maximum hands NaN on.
                largest[place] = float(np.max([largest[place], float(high), -float(low)]))
    limits = {place: _limit(np.concatenate(samples[place]), largest[place]) for place in places}
    return Ranges(limits=limits, largest=largest, photos=tuple(chosen))


def open_session(proto: Any) -> Any:
    """Return a session of ONNX Runtime on the CPU; ``MissingExtraError`` where it is not installed."""
    from ctxdeploy.runtime.backends import session_options

    ort = require_onnxruntime()
    options = session_options(ort, None)
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _chosen(photos: Mapping[str, Image], max_photos: int) -> dict[str, Image]:
    if not photos:
        raise ConfigError("no photo to calibrate with: give a folder of photos with --calibrate")
    names = list(photos)
    if len(names) > max_photos:
        names = [names[i * len(names) // max_photos] for i in range(max_photos)]
    return {name: photos[name] for name in names}


def _observe(proto: Any, tensors: list[str], photos: Mapping[str, Image]) -> Iterator[list[NDArray[np.float32]]]:
    """Yield for each photo three arrays for each tensor: every 389th value, largest, least."""
    observer = open_session(_observed(proto, tensors))
    for photo in photos.values():
        yield observer.run(None, {INPUT_NAME: photo[None]})


def _observed(proto: Any, tensors: list[str]) -> Any:
    """Return the graph of some tensors with three outputs for each."""
    from onnx import helper, numpy_helper

    model = subgraph(proto, tensors)
    constants = {"flat": [-1], "begin": [0], "end": [2**62], "axis": [0], "step": [_STEP]}
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), f"observer.{name}"))
    window = [f"observer.{name}" for name in ("begin", "end", "axis", "step")]
    # ONNX Runtime begins with the branch of the last leaf: a tensor is observed, and freed, as soon as it is there only
    # if the first one stands last. ResNet-18 at 1024×768 then peaks at 1.5 GB, the other way round at 2.3.
    for i, tensor in reversed(list(enumerate(tensors))):
        model.graph.node.extend(
            [
                helper.make_node("Reshape", [tensor, "observer.flat"], [f"observer.row.{i}"]),
                helper.make_node("Slice", [f"observer.row.{i}", *window], [f"observer.values.{i}"]),
                helper.make_node("ReduceMax", [tensor], [f"observer.high.{i}"], keepdims=0),
                helper.make_node("ReduceMin", [tensor], [f"observer.low.{i}"], keepdims=0),
            ]
        )
    names = [f"observer.{what}.{i}" for i in range(len(tensors)) for what in ("values", "high", "low")]
    return subgraph(model, names)


def _limit(values: NDArray[np.float32], largest: float) -> float:
    """Return the clipping limit with the least squared error; 1 for a tensor that is zero on every photo.

    ResNet-18 how, untrained, first convolution fp32: descriptor cosine mean .973 against .944 without clipping.
    """
    if not np.isfinite(largest):
        raise ConfigError(f"a tensor of the network reaches {largest} on a photo: it cannot be quantised")
    if not largest > 0:
        return 1.0
    counts, edges = np.histogram(np.abs(values), bins=_BINS, range=(0, largest))
    centres = (edges[:-1] + edges[1:]) / 2
    errors = [float(counts @ (_rounded(centres, largest * share) - centres) ** 2) for share in _SHARES]
    # Of equal ones the largest: values met on a few photos alone must not be clipped for nothing.
    return float(largest * _SHARES[len(errors) - 1 - int(np.argmin(errors[::-1]))])


def _rounded(values: NDArray[np.float64], limit: float) -> NDArray[np.float64]:
    step = limit / LEVELS
    return np.minimum(np.rint(values / step), LEVELS) * step
