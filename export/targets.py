"""The runtimes that artefacts are made for, in one table, and what each cannot do: said before any work is done."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.types import Precision


@dataclass(frozen=True, kw_only=True)
class Target:
    """A runtime.

    Attributes:
        precisions: that it computes in.
        lacks: why it has none of the others.
    """

    precisions: tuple[Precision, ...]
    lacks: str = ""


ALL = tuple(Precision)
TARGETS = MappingProxyType(
    {
        "onnxruntime": Target(
            precisions=(Precision.FP32, Precision.FP16, Precision.INT8),
            lacks="its CPU kernels know no bf16",
        ),
        "openvino": Target(
            precisions=(Precision.FP32, Precision.BF16, Precision.INT8),
            lacks="its CPU plugin computes in fp32 or bf16",
        ),
        "tensorrt": Target(precisions=ALL),
        "tensorrt-rtx": Target(precisions=ALL),
    }
)
TENSORRT = ("tensorrt", "tensorrt-rtx")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One artefact to make: for a runtime, in a precision."""

    target: str
    precision: Precision


REFERENCE = Job(target="onnxruntime", precision=Precision.FP32)


def plan(targets: Sequence[str], precisions: Sequence[Precision]) -> tuple[list[Job], list[str]]:
    """Return what is to be made, the fp32 graph for ONNX Runtime first, and remarks on pairs that no runtime has.

    Every other artefact is made from the fp32 graph, and ``verify`` compares with it: it is always there.

    Raises:
        ConfigError: a target is unknown, or none of the targets has one of the precisions.
    """
    jobs, remarks = [REFERENCE], []
    for target in targets:
        if target not in TARGETS:
            raise ConfigError(f"target {target!r} is unknown: give --target {', '.join(TARGETS)}")
    for precision in precisions:
        able = [target for target in targets if precision in TARGETS[target].precisions]
        unable = [
            f"{target} has no {precision.label}: {TARGETS[target].lacks}" for target in targets if target not in able
        ]
        if not able:
            others = [target for target, entry in TARGETS.items() if precision in entry.precisions]
            raise ConfigError(f"{'; '.join(unable)}; give --target {' or '.join(others)}, or another --precision")
        remarks += unable
        jobs += [Job(target=target, precision=precision) for target in able]
    return list(dict.fromkeys(jobs)), remarks
