"""Where two artefacts of a network diverge: every layer of both on one photo, and the error along the graph.

Both graphs get their intermediate values as outputs and run on the same image, a few values at a time. An engine fuses
less around a value that it must return: what is found is the error of the layers, not of the last bit.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ctxdeploy.core.bundle import OUTPUT_NAMES
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.settings import setting
from ctxdeploy.export.diff.layers import SIZES, UNWEIGHTED, Graph, Tensor, match
from ctxdeploy.export.diff.sides import Distance, Image, Runner, Side, distance
from ctxdeploy.export.parity.matching import Matching
from ctxdeploy.export.parity.parity import PhotoParity, compare_photo

Report = Callable[[str], None]
# Relative error above which a layer has diverged, by the lower precision of the two sides. Measured on networks without
# training, worst layer of ResNet-18 and ResNet-101 (depth adds up): fp32 7e-6 and 3e-5 (between both engines), fp16
# 0.005 and 0.023, bf16 0.05 and 0.21; int8 0.27 on ResNet-18.
TOLERANCES = {"fp32": 1e-3, "fp16": 0.05, "bf16": 0.3, "int8": 0.7, "fp8": 0.7}
# Share of the selected positions that may be others, per unit of tolerance, and at most.
_EXCHANGED, _MAX_EXCHANGED = 10.0, 0.5


@dataclass(frozen=True, kw_only=True)
class DiffConfig:
    """How to compare.

    Attributes:
        tolerance: relative L2 error above which a layer has diverged; that of the lower precision if None.
        threads: of the engines; their own choice if None.
        budget: bytes of values that are held of one side.
    """

    tolerance: float | None = setting(
        None, "--tolerance", "Relative error of a diverged layer.", metavar="ERROR", default_text="by precision"
    )
    threads: int | None = setting(None, "--threads", "Of the runtimes.", default_text="their choice")
    budget: int = 256 << 20

    def __post_init__(self) -> None:
        if self.tolerance is not None and not 0 < self.tolerance < math.inf:
            raise ConfigError(f"tolerance {self.tolerance} is not a positive number: give another --tolerance")
        if self.budget < 1:
            raise ConfigError(f"the budget is {self.budget} bytes: give 1 or more")
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise ConfigError(f"{self.threads} threads are outside 1..1024: give another --threads")


@dataclass(frozen=True, kw_only=True)
class LayerError:
    """One value in both graphs.

    Attributes:
        tensor: what it is in A.
        shapes: in A and B.
        distance: of B's from A's.
        added: how much larger the error is than the largest of the values it is made from.
    """

    tensor: Tensor
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    distance: Distance
    added: float

    @property
    def error(self) -> float:
        """Relative L2 error; infinite for different shapes and for entries that are finite on one side alone."""
        return self.distance.error


@dataclass(frozen=True, kw_only=True)
class Diff:
    """What was found.

    Attributes:
        a, b: the two sides, in words.
        shape: height and width of the image in pixels.
        tolerance: relative error above which a layer has diverged.
        layers: values that both graphs have, in the order of A.
        outputs: what comes out at the end, matched by position; None where a graph has other outputs.
        only_a: layers of A with a weight of their own that have no counterpart in B.
        scales: of the image pyramid, in words.
    """

    a: str
    b: str
    shape: tuple[int, int]
    tolerance: float
    layers: tuple[LayerError, ...]
    outputs: PhotoParity | None
    only_a: tuple[str, ...]
    scales: tuple[str, ...]

    def exceeds(self, layer: LayerError) -> bool:
        """Return whether a layer has diverged; sizes and positions are exact in every precision."""
        limit = min(self.tolerance, TOLERANCES["fp32"]) if layer.tensor.layer == SIZES else self.tolerance
        return layer.error > limit

    @cached_property
    def first(self) -> LayerError | None:
        """The first layer whose error exceeds the tolerance."""
        return next((layer for layer in self.layers if self.exceeds(layer)), None)

    @cached_property
    def jump(self) -> LayerError | None:
        """The layer that adds most to the error of what it is made from."""
        largest = max(self.layers, key=lambda layer: layer.added)
        return largest if largest.added > 0 else None

    @property
    def outputs_error(self) -> float:
        """Relative error of the descriptors at positions that both sides select, were they of equal length."""
        if self.outputs is None:
            return 0.0
        cosine = self.outputs.cosine_mean
        return math.sqrt(max(0.0, 2 - 2 * cosine)) if cosine <= 1 + 1e-9 else math.inf  # NaN: nothing in common

    @property
    def outputs_diverged(self) -> bool:
        """Whether descriptors differ by more than the tolerance, or more positions than that explains."""
        if self.outputs is None:
            return False
        exchanged = min(_EXCHANGED * self.tolerance, _MAX_EXCHANGED)
        return not (self.outputs_error <= self.tolerance and 1 - self.outputs.overlap <= exchanged)

    @property
    def diverged(self) -> bool:
        """Whether anything exceeds the tolerance."""
        return self.first is not None or self.outputs_diverged

    def where(self, layer: LayerError) -> str:
        """Return a layer's name, operator, value and scale."""
        tensor = layer.tensor
        scale = "" if tensor.scale is None else f", scale {self.scales[tensor.scale]}"
        return f"{tensor.layer} ({tensor.op} {tensor.name}{scale})"

    def verdict(self) -> str:
        """Return where the two diverge, in one line; empty if they do not."""
        if self.first is not None:
            shapes = self.first.shapes
            what = f"relative error {self.first.error:.3g}, tolerance {self.tolerance:g}"
            if shapes[0] != shapes[1]:
                what = f"{'×'.join(map(str, shapes[0]))} against {'×'.join(map(str, shapes[1]))}"
            elif any(self.first.distance.nonfinite):
                what = "{} and {} values are not finite".format(*self.first.distance.nonfinite)
            return f"{self.a} and {self.b} diverge first at {self.where(self.first)}: {what}"
        if self.outputs is not None and self.outputs_diverged:
            return (
                f"{self.a} and {self.b} agree in every layer, but not in what they return: {self.outputs.overlap:.1%} "
                f"of the positions are the same, and descriptors there have an error of {self.outputs_error:.3g}"
            )
        return ""

    def metadata(self) -> dict[str, Any]:
        """Return everything as JSON takes it: infinite errors and undefined cosines are null."""
        outputs = None
        if self.outputs is not None:
            outputs = _finite({**self.outputs.metadata(), "error": self.outputs_error})
        return {
            "a": self.a,
            "b": self.b,
            "shape": list(self.shape),
            "tolerance": self.tolerance,
            "scales": list(self.scales),
            "diverged": self.diverged,
            "first": None if self.first is None else _entry(self.first),
            "jump": None if self.jump is None else _entry(self.jump),
            "only_a": list(self.only_a),
            "layers": [_entry(layer) for layer in self.layers],
            "outputs": outputs,
        }


def compare_graphs(
    a: Side, b: Side, image: Image, config: DiffConfig | None = None, report: Report = lambda step: None
) -> Diff:
    """Compare two graphs on an image.

    Args:
        a: how it should be.
        b: what is in question.
        image: H×W×3 uint8, at the size at which it enters the network.
        config: tolerance and limits.
        report: called with the name of each step.

    Raises:
        MissingExtraError: onnx or an engine is not installed.
        ConfigError: a file is not a graph that takes an image, or the two have no layer in common.
        BackendError: an engine cannot run its graph.
    """
    config = config or DiffConfig()
    report(f"reading {a.path.name} and {b.path.name}")
    graphs = Graph(a.path), Graph(b.path)
    pairs = match(*graphs)
    weighted = {tensor.layer for tensor in graphs[0].tensors.values() if tensor.layer not in UNWEIGHTED}
    common = {graphs[0].tensors[name].layer for name in pairs}
    if not pairs or (weighted and not weighted & common):
        raise ConfigError(f"{a.name} and {b.name} have no layer in common: give two artefacts of one network")
    runners = Runner(a, graphs[0], config.threads), Runner(b, graphs[1], config.threads)
    distances = dict(_distances(runners, pairs, image, config.budget, report))
    outputs = None
    if graphs[0].selects and graphs[1].selects:
        report("comparing the outputs")
        wanted, given = (runner.values(OUTPUT_NAMES, image) for runner in runners)
        # Only FIRe has layers of integration, and rows without a position of their own.
        matching = Matching.DESCRIPTOR if any(layer.startswith("lit.") for layer in weighted) else Matching.POSITION
        outputs = compare_photo("the photo", image, wanted, given, matching=matching)
    return Diff(
        a=a.name,
        b=b.name,
        shape=(image.shape[0], image.shape[1]),
        tolerance=config.tolerance or max(TOLERANCES[p] for p in _precisions((a, b), graphs)),
        layers=tuple(_layers(graphs[0], pairs, distances)),
        outputs=outputs,
        only_a=tuple(sorted(weighted - common)),
        scales=_scale_names(a, graphs[0].scales),
    )


def _scale_names(side: Side, count: int) -> tuple[str, ...]:
    """Return the scales that a bundle says, else their numbers."""
    if len(side.scales) == count:
        return tuple(f"{scale:g}" for scale in side.scales)
    return tuple(f"#{number}" for number in range(1, count + 1))


def _precisions(sides: Sequence[Side], graphs: Sequence[Graph]) -> Iterator[str]:
    for side, graph in zip(sides, graphs, strict=True):
        yield from (side.hint, graph.precision)


_Shapes = tuple[tuple[int, ...], tuple[int, ...]]


def _distances(
    runners: tuple[Runner, Runner], pairs: Mapping[str, str], image: Image, budget: int, report: Report
) -> Iterator[tuple[str, tuple[_Shapes, Distance]]]:
    """Yield name in A, shapes and distance of every pair, computed as many at a time as the budget holds."""
    names = list(pairs)
    report("measuring the values")
    chunks = list(_chunks(names, runners[0].sizes(names, image), budget))
    for number, chunk in enumerate(chunks, 1):
        report(f"comparing {len(names)} values, run {number} of {len(chunks)}")
        left = runners[0].values(chunk, image)
        right = runners[1].values([pairs[name] for name in chunk], image)
        for name, x, y in zip(chunk, left, right, strict=True):
            yield name, ((x.shape, y.shape), distance(x, y))


def _chunks(names: Sequence[str], sizes: Sequence[int], budget: int) -> Iterator[list[str]]:
    chunk: list[str] = []
    held = 0
    for name, size in zip(names, sizes, strict=True):
        if chunk and held + size > budget:
            yield chunk
            chunk, held = [], 0
        chunk.append(name)
        held += size
    if chunk:
        yield chunk


def _layers(
    graph: Graph, pairs: Mapping[str, str], distances: Mapping[str, tuple[_Shapes, Distance]]
) -> Iterator[LayerError]:
    """Yield the errors in the order of the graph; values without counterpart hand on what they are made from."""
    inherited: dict[str, float] = {}
    for name, inputs in graph.inputs.items():
        before = max((inherited.get(value, 0.0) for value in inputs), default=0.0)
        inherited[name] = before
        if name in pairs:
            shapes, found = distances[name]
            inherited[name] = found.error
            added = 0.0 if before == math.inf else found.error - before
            yield LayerError(tensor=graph.tensors[name], shapes=shapes, distance=found, added=added)


def _entry(layer: LayerError) -> dict[str, Any]:
    return _finite(
        {
            "name": layer.tensor.name,
            "layer": layer.tensor.layer,
            "op": layer.tensor.op,
            "scale": layer.tensor.scale,
            "shape_a": list(layer.shapes[0]),
            "shape_b": list(layer.shapes[1]),
            **asdict(layer.distance),
            "added": layer.added,
        }
    )


def _finite(entry: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in entry.items()}
