"""Values of a graph as a runtime computes them, and how far two of them are from each other."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core import bundle
from ctxdeploy.core.bundle import INPUT_NAME
from ctxdeploy.core.cpu import engine_threads
from ctxdeploy.core.errors import BackendError, BundleError, ConfigError, CtxdeployError
from ctxdeploy.core.extras import require, require_onnxruntime
from ctxdeploy.core.targets import CPU_TARGETS, ONNXRUNTIME, OPENVINO, TARGETS
from ctxdeploy.core.types import Precision
from ctxdeploy.export.diff.layers import Graph
from ctxdeploy.runtime.backends import first_line, session_options

Image = NDArray[np.uint8]
# OpenVINO's inference precision hints. int8 is written in the graph, around it is fp32.
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_SMALL = 256  # images with a side below this are run as they are, to know the sizes of the values
_BLOCK = 1 << 20  # values that are compared at a time: float64 copies of a whole value took 0.8 GB at 1024 pixels


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two that are compared.

    Attributes:
        path: of the ONNX file.
        engine: ``onnxruntime`` or ``openvino``.
        hint: precision that OpenVINO computes a graph of fp32 in.
        label: what messages call it.
        scales: of the image pyramid, where a bundle says them.
        image_size: longest side of a photo, where a bundle says it.
    """

    path: Path
    engine: str = ONNXRUNTIME
    hint: str = "fp32"
    label: str = ""
    scales: tuple[float, ...] = ()
    image_size: int | None = None

    def __post_init__(self) -> None:
        if self.engine not in CPU_TARGETS:
            raise ConfigError(f"backend {self.engine!r} is unknown: give {' or '.join(CPU_TARGETS)}")
        if self.hint not in _HINTS:
            raise ConfigError(f"{self.hint!r} is not a precision to compute in: give {', '.join(_HINTS)}")
        if self.engine == ONNXRUNTIME and self.hint != "fp32":
            raise ConfigError(
                f"onnxruntime computes in the precision that is written in the file, not in {self.hint}: "
                f"name the file (BUNDLE:{self.hint}), or give the backend openvino"
            )

    @property
    def name(self) -> str:
        """What it is, in a few words."""
        hint = f" in {self.hint}" if self.hint != "fp32" else ""
        return f"{self.label or self.path} ({self.engine}{hint})"


def side(text: str, engine: str | None = None, hint: str | None = None) -> Side:
    """Return what ``BUNDLE``, ``BUNDLE:precision`` or an ONNX file means.

    Args:
        text: a bundle's folder, perhaps with a precision (fp32 if not), or an ONNX file.
        engine: that runs it; what the artefact was made for if None.
        hint: precision that OpenVINO computes in; the artefact's if None.

    Raises:
        ConfigError: there is no such file, or it is not an ONNX graph.
        BundleError: the bundle is damaged, or has no graph of this precision.
    """
    path, precision = Path(text), Precision.FP32.label
    head, colon, tail = text.rpartition(":")
    if colon and not path.exists():
        path, precision = Path(head), Precision.parse(tail).label
    if path.is_file():
        return Side(path=path, engine=engine or CPU_TARGETS[0], hint=hint or "fp32", label=path.name)
    if not path.exists():
        raise ConfigError(f"{path} does not exist: give a bundle, BUNDLE:precision, or an .onnx file")
    opened = bundle.open(path)
    graphs = [a for a in opened.artefacts if a.format == "onnx" and a.precision == precision]
    wanted = [a for a in graphs if a.target == engine] or graphs
    if not wanted:
        found = ", ".join(sorted({a.precision for a in opened.artefacts if a.format == "onnx"}))
        raise BundleError(
            f"{path} has no ONNX graph of precision {precision}, only {found}: name one, as BUNDLE:{found}"
        )
    artefact = wanted[0]
    engine = engine or (artefact.target if artefact.target in CPU_TARGETS else CPU_TARGETS[0])
    # One file serves fp32 and OpenVINO's bf16: the artefact's precision is then the hint.
    computed = precision if engine == OPENVINO and precision in _HINTS else "fp32"
    return Side(
        path=opened.file(artefact),
        engine=engine,
        hint=hint or computed,
        label=text,
        scales=opened.extraction.pyramid,
        image_size=opened.preprocessing.image_size,
    )


class Runner:
    """Runs parts of a graph in an engine; a part is compiled for each run."""

    def __init__(self, side: Side, graph: Graph, threads: int | None) -> None:
        self.side, self.graph = side, graph
        self._threads = threads
        self._run = {ONNXRUNTIME: self._onnxruntime, OPENVINO: self._openvino}[side.engine]

    def values(self, names: Sequence[str], image: Image) -> list[NDArray[Any]]:
        """Return the values of these names for an image H×W×3.

        Raises:
            BackendError: the engine cannot run the graph.
        """
        return self._checked(self.graph.exposing(names), len(names), image)

    def sizes(self, names: Sequence[str], image: Image) -> list[int]:
        """Return about how many bytes these values take as fp32.

        ONNX Runtime takes shapes last and holds every value until then (3.2 GB for ResNet-18 with seven scales at 1024
        pixels): they are taken on a quarter and an eighth of a large image, and their growth goes on.
        """
        height, width = image.shape[:2]
        if min(height, width) < _SMALL:
            return [4 * count for count in self._counts(names, image)]
        small, large = (image[: height // part, : width // part] for part in (8, 4))
        grown = math.log(large.size / small.size)
        sizes = []
        for few, more in zip(self._counts(names, small), self._counts(names, large), strict=True):
            power = math.log(max(more, 1) / max(few, 1)) / grown
            sizes.append(round(4 * more * (image.size / large.size) ** min(max(power, 0.0), 2.0)))
        return sizes

    def _counts(self, names: Sequence[str], image: Image) -> list[int]:
        found = self._checked(self.graph.exposing(names, shapes=True), len(names), image)
        return [math.prod(int(size) for size in shape) for shape in found]

    def _checked(self, serialised: bytes, count: int, image: Image) -> list[NDArray[Any]]:
        try:
            return self._run(serialised, count, image[None])
        except CtxdeployError:
            raise
        except Exception as error:  # the engines raise classes of their own, RuntimeError and ValueError
            other = next(engine for engine in CPU_TARGETS if engine != self.side.engine)
            what = first_line(error)
            raise BackendError(f"{self.side.name} cannot run: {what}; perhaps {other} can (--backend-…)") from error

    def _onnxruntime(self, serialised: bytes, count: int, images: Image) -> list[NDArray[Any]]:
        ort = require_onnxruntime()
        options = session_options(ort, self._threads)
        session = ort.InferenceSession(serialised, options, providers=["CPUExecutionProvider"])
        # Copies: the results lie in the session's arena, and would keep all of it (0.7 GB at 1024 pixels).
        return [np.array(value) for value in session.run(None, {INPUT_NAME: images})]

    def _openvino(self, serialised: bytes, count: int, images: Image) -> list[NDArray[Any]]:
        openvino = require(OPENVINO, TARGETS[OPENVINO].extra)
        core = openvino.Core()
        capability = self.side.hint.upper()
        if capability not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise BackendError(f"this CPU has no {self.side.hint} arithmetic")
        properties: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _HINTS[self.side.hint], "NUM_STREAMS": 1}
        told = engine_threads(self._threads)
        if told is not None:
            properties["INFERENCE_NUM_THREADS"] = told
        request = core.compile_model(core.read_model(serialised), "CPU", properties).create_infer_request()
        request.infer({INPUT_NAME: images})
        return [np.array(request.get_output_tensor(index).data) for index in range(count)]


@dataclass(frozen=True, kw_only=True)
class Distance:
    """How far a value is from what it should be; over the entries that are finite in both.

    Attributes:
        error: relative L2 error; infinite where shapes differ, or other entries are not finite than should be.
        max_abs: largest difference of two entries.
        cosine: between the two as vectors; NaN where one of them is zero.
        nonfinite: entries that are not finite, in either.
    """

    error: float
    max_abs: float
    cosine: float
    nonfinite: tuple[int, int]


def distance(a: NDArray[Any], b: NDArray[Any]) -> Distance:
    """Return how far ``b`` is from ``a``, in float64."""
    if a.shape != b.shape:
        return Distance(error=math.inf, max_abs=math.inf, cosine=math.nan, nonfinite=(_nonfinite(a), _nonfinite(b)))
    squares, products, others, differences, largest = 0.0, 0.0, 0.0, 0.0, 0.0
    nonfinite, unlike = [0, 0], False
    for x, y in _blocks(a, b):
        fine = np.isfinite(x), np.isfinite(y)
        both = fine[0] & fine[1]
        if not both.all():
            nonfinite = [count + int((~mask).sum()) for count, mask in zip(nonfinite, fine, strict=True)]
            unlike |= not np.array_equal(x[~both], y[~both], equal_nan=True)
            x, y = x[both], y[both]
        difference = x - y
        squares, products, others = squares + float(x @ x), products + float(x @ y), others + float(y @ y)
        differences += float(difference @ difference)
        largest = max(largest, float(np.abs(difference).max(initial=0.0)))
    error = math.sqrt(differences / squares) if squares > 0 else (math.inf if differences > 0 else 0.0)
    lengths = math.sqrt(squares) * math.sqrt(others)
    return Distance(
        error=math.inf if unlike else error,
        max_abs=largest,
        cosine=products / lengths if lengths > 0 else math.nan,
        nonfinite=(nonfinite[0], nonfinite[1]),
    )


def _nonfinite(array: NDArray[Any]) -> int:
    return int((~np.isfinite(array)).sum())


def _blocks(a: NDArray[Any], b: NDArray[Any]) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    x, y = a.reshape(-1), b.reshape(-1)
    for start in range(0, len(x), _BLOCK):
        part = slice(start, start + _BLOCK)
        yield x[part].astype(np.float64), y[part].astype(np.float64)
