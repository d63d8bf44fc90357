"""What the targets cannot do, all of it at once and with the option that solves it, before any work is done."""

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

from ctxdeploy.core.bundle import Extraction, ShapeRange
from ctxdeploy.core.errors import BackendError, ConfigError
from ctxdeploy.core.extras import require, require_onnxruntime
from ctxdeploy.export.networks.config import NetworkConfig
from ctxdeploy.export.targets import TENSORRT, Job

# From the jobs of a target, scales and K, the network and the shapes of its input to one line a problem.
Look = Callable[[Sequence[Job], Extraction, NetworkConfig, ShapeRange], list[str]]


def preflight(jobs: Sequence[Job], extraction: Extraction, network: NetworkConfig, shapes: ShapeRange) -> None:
    """Look for what stands in the way of each target, before there is a graph.

    Raises:
        ConfigError: something does; the message lists everything, and what solves it.
        MissingExtraError: a runtime of this machine is not installed.
    """
    found: list[str] = []
    for target, look in LOOKS.items():
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
    _refuse([line for target in TENSORRT if target in targets for line in graph_problems(proto, target)])


def _refuse(found: list[str]) -> None:
    if found:
        raise ConfigError("; ".join(dict.fromkeys(found)))


def _onnxruntime(jobs: Sequence[Job], extraction: Extraction, network: NetworkConfig, shapes: ShapeRange) -> list[str]:
    require_onnxruntime()
    return []


def _openvino(jobs: Sequence[Job], extraction: Extraction, network: NetworkConfig, shapes: ShapeRange) -> list[str]:
    from ctxdeploy.runtime.backends import check_openvino_precision

    capabilities = require("openvino", "cpu").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
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


LOOKS: MappingProxyType[str, Look] = MappingProxyType(
    {"onnxruntime": _onnxruntime, "openvino": _openvino, "tensorrt": _tensorrt, "tensorrt-rtx": _tensorrt}
)
