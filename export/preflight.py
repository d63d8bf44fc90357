"""Which artefacts are to be made, and what their targets cannot do: all of it at once, before any work is done."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ctxdeploy.core.bundle import Extraction, ShapeRange
from ctxdeploy.core.errors import BackendError, ConfigError
from ctxdeploy.core.extras import require, require_onnxruntime
from ctxdeploy.core.targets import ENGINE_TARGETS, EXPORT_TARGETS, ONNXRUNTIME, OPENVINO, TARGETS
from ctxdeploy.core.types import Precision
from ctxdeploy.export.networks.config import NetworkConfig


@dataclass(frozen=True, kw_only=True)
class Job:
    """One artefact to make: for a runtime, in a precision."""

    target: str
    precision: Precision


REFERENCE = Job(target=ONNXRUNTIME, precision=Precision.FP32)


def plan(targets: Sequence[str], precisions: Sequence[Precision]) -> tuple[list[Job], list[str]]:
    """Return what is to be made, the fp32 graph for ONNX Runtime first, and remarks on pairs that no runtime has.

    Every other artefact is made from the fp32 graph, and ``verify`` compares with it: it is always there.

    Raises:
        ConfigError: a target is unknown, or none of the targets has one of the precisions.
    """
    jobs, remarks = [REFERENCE], []
    for target in targets:
        if target not in EXPORT_TARGETS:
            raise ConfigError(f"target {target!r} is unknown: give --target {', '.join(EXPORT_TARGETS)}")
    for precision in precisions:
        have = [target for target in EXPORT_TARGETS if precision.label in TARGETS[target].precisions]
        able = [target for target in targets if target in have]
        unable = [f"{t} has no {precision.label}: {TARGETS[t].lacks}" for t in targets if t not in have]
        if not able:
            raise ConfigError(f"{'; '.join(unable)}; give --target {' or '.join(have)}, or another --precision")
        remarks += unable
        jobs += [Job(target=target, precision=precision) for target in able]
    return list(dict.fromkeys(jobs)), remarks


# From the jobs of a target, scales and K, the network and the shapes of its input to one line a problem.
Look = Callable[[Sequence[Job], Extraction, NetworkConfig, ShapeRange], list[str]]


def preflight(jobs: Sequence[Job], extraction: Extraction, network: NetworkConfig, shapes: ShapeRange) -> None:
    """Look for what stands in the way of each target, before there is a graph.

    Raises:
        ConfigError: something does; the message lists everything, and what solves it.
        MissingExtraError: a runtime of this machine is not installed.
    """
    found: list[str] = []
    for target, look in _LOOKS.items():
        wanted = [job for job in jobs if job.target == target]
        if wanted:
            found += look(wanted, extraction, network, shapes)
    _refuse(found)


def check_graph(proto: Any, jobs: Sequence[Job]) -> None:
    """Look through the fp32 graph (``onnx.ModelProto``) for what a target's parser cannot take.

    Raises:
        ConfigError: there is something; the message lists everything.
    """
    from ctxdeploy.export.tensorrt.limits import graph_problems

    targets = {job.target for job in jobs}
    _refuse([line for target in ENGINE_TARGETS if target in targets for line in graph_problems(proto, target)])


def _refuse(found: list[str]) -> None:
    if found:
        raise ConfigError("; ".join(dict.fromkeys(found)))


def _onnxruntime(jobs: Sequence[Job], extraction: Extraction, network: NetworkConfig, shapes: ShapeRange) -> list[str]:
    require_onnxruntime()
    return []


def _openvino(jobs: Sequence[Job], extraction: Extraction, network: NetworkConfig, shapes: ShapeRange) -> list[str]:
    from ctxdeploy.runtime.backends import check_openvino_precision

    capabilities = require(OPENVINO, TARGETS[OPENVINO].extra).Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    found = []
    for precision in sorted({job.precision.label for job in jobs}):
        try:
            check_openvino_precision(capabilities, precision)
        except BackendError as error:
            found.append(f"openvino {precision}: {error}")
    return found


def _tensorrt(jobs: Sequence[Job], extraction: Extraction, network: NetworkConfig, shapes: ShapeRange) -> list[str]:
    from ctxdeploy.export.tensorrt.limits import problems

    return problems(extraction, network, target=jobs[0].target, shapes=shapes)


_LOOKS: dict[str, Look] = {
    ONNXRUNTIME: _onnxruntime,
    OPENVINO: _openvino,
    **dict.fromkeys(ENGINE_TARGETS, _tensorrt),
}
