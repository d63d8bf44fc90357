"""The engines, all named in one place."""

from dataclasses import dataclass
from types import MappingProxyType

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.types import Precision

AUTO = "auto"
_CPU = ("onnxruntime", "openvino")
PRECISIONS = tuple(precision.label for precision in Precision)


@dataclass(frozen=True, kw_only=True)
class BackendEntry:
    """A row of the table.

    Attributes:
        module: to import when it is chosen.
        class_name: the ``Backend`` in it.
        precisions: that it can run.
        lacks: why it has none of the others.
    """

    module: str
    class_name: str
    precisions: tuple[str, ...]
    lacks: str = ""


# In the order in which `auto` chooses. fp32: ONNX Runtime reaches 0.9 of the CPU's peak and needs no inlining.
BACKENDS = MappingProxyType(
    {
        "onnxruntime": BackendEntry(
            module="ctxdeploy.runtime.backends.onnxruntime",
            class_name="OnnxRuntimeBackend",
            precisions=("fp32", "fp16", "int8"),
            lacks="its CPU kernels have no bf16",
        ),
        "openvino": BackendEntry(
            module="ctxdeploy.runtime.backends.openvino",
            class_name="OpenVinoBackend",
            precisions=("fp32", "bf16", "int8"),
            lacks="its CPU plugin computes in fp32 or bf16",
        ),
        # Engines compute in what they were built for.
        "tensorrt": BackendEntry(
            module="ctxdeploy.runtime.backends.tensorrt", class_name="TensorRtBackend", precisions=PRECISIONS
        ),
        "tensorrt-rtx": BackendEntry(
            module="ctxdeploy.runtime.backends.tensorrt", class_name="TensorRtBackend", precisions=PRECISIONS
        ),
    }
)


def choose_for(bundle: Bundle, precision: str) -> str:
    """Return what ``auto`` means for a bundle: the first CPU engine that one of its artefacts was verified in.

    Without any it is the first one that has the precision: a graph made for another engine may run there too.
    """
    made = {artefact.target for artefact in bundle.artefacts if artefact.precision == precision}
    verified = [name for name in _CPU if name in made and precision in BACKENDS[name].precisions]
    return (verified or [choose(AUTO, precision)])[0]


def choose(name: str, precision: str) -> str:
    """Return the backend that a name, or ``auto``, means for a precision; nothing is loaded.

    Raises:
        ConfigError: there is no such backend or precision, or the one does not have the other.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r} is unknown: give --precision {' or '.join(PRECISIONS)}")
    able = [backend for backend, entry in BACKENDS.items() if precision in entry.precisions]
    if name == AUTO:
        return able[0]
    if name not in BACKENDS:
        raise ConfigError(f"backend {name!r} is unknown: give --backend {AUTO}, {' or '.join(BACKENDS)}")
    if name not in able:
        raise ConfigError(
            f"--backend {name} has no --precision {precision}: "
            f"use --precision {' or '.join(BACKENDS[name].precisions)}, or --backend {' or '.join(able)}"
        )
    return name
