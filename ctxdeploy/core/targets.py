"""The table of runtimes: the one place that says what each is, where it runs, and what it can and cannot do."""

from dataclasses import dataclass
from types import MappingProxyType

from ctxdeploy.core.bundle import Artefact, Bundle
from ctxdeploy.core.device import AUTO, CPU, Device
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.types import Precision

ONNXRUNTIME, OPENVINO, CUDA = "onnxruntime", "openvino", "cuda"
TENSORRT, TENSORRT_RTX = "tensorrt", "tensorrt-rtx"
PRECISIONS = tuple(precision.label for precision in Precision)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A row of the table.

    Attributes:
        label: the runtime's name, for people.
        device: that it runs on, ``CPU`` or ``GPU``.
        package: module to import.
        extra: of ctxdeploy that installs the package.
        precisions: that it can run.
        lacks: why it has none of the others.
        runs: the runtime whose artefacts it runs; its own if empty.
        format: of its artefacts: ``onnx``, or ``engine``, which is built from an ONNX graph.
        suffix: of the artefacts' files.
        module: that holds the backend, imported when it is chosen.
        class_name: the ``Backend`` in it.
    """

    label: str
    device: str
    package: str
    extra: str
    precisions: tuple[str, ...]
    lacks: str = ""
    runs: str = ""
    format: str
    suffix: str
    module: str
    class_name: str


# In the order in which `auto` chooses but for int8. fp32: ONNX Runtime reaches 0.9 of the CPU's peak, without inlining.
TARGETS = MappingProxyType(
    {
        ONNXRUNTIME: Target(
            label="ONNX Runtime",
            device="CPU",
            package="onnxruntime",
            extra="cpu",
            precisions=("fp32", "fp16", "int8"),
            lacks="its CPU kernels have no bf16, and compute fp8 in fp32",
            format="onnx",
            suffix=".onnx",
            module="ctxdeploy.runtime.backends.onnxruntime",
            class_name="OnnxRuntimeBackend",
        ),
        OPENVINO: Target(
            label="OpenVINO",
            device="CPU",
            package="openvino",
            extra="cpu",
            precisions=("fp32", "bf16", "int8"),
            lacks="its CPU plugin computes in fp32 or bf16, and what is int8",
            format="onnx",
            suffix=".onnx",
            module="ctxdeploy.runtime.backends.openvino",
            class_name="OpenVinoBackend",
        ),
        # With the provider CUDAExecutionProvider, which onnxruntime-gpu has beside the one for the CPU.
        CUDA: Target(
            label="ONNX Runtime on CUDA",
            device="GPU",
            package="onnxruntime",
            extra="cuda",
            precisions=("fp32", "fp16"),
            lacks="its CUDA kernels have no convolution in bf16, int8 or fp8",
            runs=ONNXRUNTIME,
            format="onnx",
            suffix=".onnx",
            module="ctxdeploy.runtime.backends.onnxruntime_cuda",
            class_name="CudaBackend",
        ),
        # Engines compute in what they were built for.
        TENSORRT: Target(
            label="TensorRT",
            device="GPU",
            package="tensorrt",
            extra="tensorrt",
            precisions=PRECISIONS,
            format="engine",
            suffix=".plan",
            module="ctxdeploy.runtime.backends.tensorrt",
            class_name="TensorRtBackend",
        ),
        TENSORRT_RTX: Target(
            label="TensorRT-RTX",
            device="GPU",
            package="tensorrt_rtx",
            extra="rtx",
            precisions=tuple(label for label in PRECISIONS if label != Precision.FP8.label),
            lacks="fp8 is offered for TensorRT alone",
            format="engine",
            suffix=".plan",
            module="ctxdeploy.runtime.backends.tensorrt",
            class_name="TensorRtBackend",
        ),
    }
)
GRAPH_TARGETS = tuple(name for name, target in TARGETS.items() if target.format == "onnx")
CPU_TARGETS = tuple(name for name, target in TARGETS.items() if target.device == "CPU")
# Those that artefacts are made for.
EXPORT_TARGETS = tuple(name for name, target in TARGETS.items() if not target.runs)
ENGINE_TARGETS = tuple(name for name, target in TARGETS.items() if target.format == "engine")


def label_of(name: str) -> str:
    """Return what people call a runtime; the name itself, where a bundle names one that is not in the table."""
    return TARGETS[name].label if name in TARGETS else name


def artefact_of(bundle: Bundle, name: str, precision: str) -> Artefact:
    """Return the artefact that a runtime runs in a precision; ``BundleError`` where the bundle has none."""
    return bundle.artefact(TARGETS[name].runs or name, precision)


def choose_for(bundle: Bundle, precision: str) -> str:
    """Return what ``auto`` means for a bundle on a CPU: the first runtime that one of its artefacts was verified in.

    Without any it is the first one that has the precision: a graph made for another runtime may run there too.
    """
    made = {artefact.target for artefact in bundle.artefacts if artefact.precision == precision}
    verified = [name for name in _by_speed(precision) if name in made and name in CPU_TARGETS]
    return (verified or [choose(AUTO, precision)])[0]


def _by_speed(precision: str) -> list[str]:
    """Return the runtimes that have a precision, the fastest on a CPU first.

    int8 in OpenVINO takes 0.4 (lite-small) to 0.97 (ctx-small) of the time in ONNX Runtime.
    """
    able = [name for name, target in TARGETS.items() if precision in target.precisions]
    return sorted(able, key=lambda name: name != OPENVINO) if precision == "int8" else able


def choose(name: str, precision: str, device: str = AUTO, flag: str = "--backend") -> str:
    """Return the runtime that a name, or ``auto``, means for a precision and a device; nothing is loaded.

    ``auto`` for both is a runtime on the CPU if one has the precision: what a bundle and the machine have is not known
    here. ``flag``: what gave the name.

    Raises:
        ConfigError: there is no such runtime, precision or device, or the one does not have the other.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r} is unknown: give --precision {' or '.join(PRECISIONS)}")
    wanted, able = Device.parse(device), _by_speed(precision)
    if name == AUTO:
        fitting = [entry for entry in able if (entry in CPU_TARGETS) is (wanted.kind in (AUTO, CPU))]
        if not fitting and wanted.kind != AUTO:
            raise ConfigError(f"--device {device} has no --precision {precision}: use --backend {' or '.join(able)}")
        return (fitting or able)[0]
    if name not in TARGETS:
        raise ConfigError(f"backend {name!r} is unknown: give --backend {AUTO}, {' or '.join(TARGETS)}")
    if name not in able:
        raise ConfigError(
            f"{flag} {name} has no --precision {precision}: "
            f"use --precision {' or '.join(TARGETS[name].precisions)}, or {flag} {' or '.join(able)}"
        )
    if wanted.kind != AUTO and (name in CPU_TARGETS) is not (wanted.kind == CPU):
        fitting = [entry for entry in able if (entry in CPU_TARGETS) is (wanted.kind == CPU)]
        raise ConfigError(
            f"--backend {name} runs on a {TARGETS[name].device}, not on --device {device}: "
            f"leave out --device, or use --backend {' or '.join(fitting)}"
        )
    return name
