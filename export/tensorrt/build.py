"""An ONNX graph to an engine."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ctxdeploy.core.bundle import INPUT_NAME
from ctxdeploy.core.device import Gpu, NoGpuError, find_gpu
from ctxdeploy.core.engines import (
    RTX_CAPABILITIES,
    EngineKey,
    Hardware,
    import_package,
    logged_errors,
    make_log,
)
from ctxdeploy.core.errors import BackendError
from ctxdeploy.core.profiles import Profile
from ctxdeploy.core.progress import Display
from ctxdeploy.core.targets import TARGETS, TENSORRT, TENSORRT_RTX, label_of
from ctxdeploy.core.types import Precision
from ctxdeploy.export.tensorrt.config import EngineConfig
from ctxdeploy.export.tensorrt.monitor import load_cache, make_monitor, run_cancellable, save_cache

if TYPE_CHECKING:
    import tensorrt as trt


# Arithmetic that older GPUs lack: there TensorRT would refuse with a message about one of its tactics.
_MIN_CAPABILITY = {Precision.BF16: (8, 0), Precision.FP8: (8, 9)}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A serialised engine.

    Attributes:
        data: as the runtime deserialises it.
        key: what it depends on.
        seconds: that parsing and building took.
    """

    data: bytes
    key: EngineKey
    seconds: float

    def details(self) -> dict[str, Any]:
        """Return what an ``Artefact`` keeps of it."""
        return {"key": self.key.metadata(), "build_seconds": round(self.seconds, 1)}


def build_plan(
    proto: Any,
    profiles: Sequence[Profile],
    config: EngineConfig,
    *,
    target: str,
    precision: Precision,
    display: Display | None = None,
) -> Plan:
    """Build an engine.

    Args:
        proto: the ``onnx.ModelProto`` in the precision that is wanted: its types are the engine's.
        profiles: shapes of the input, that of the whole range first.
        config: settings.
        target: ``tensorrt``, on the machine and GPU that will run it, or ``tensorrt-rtx``, on any machine.
        precision: of ``proto``.
        display: shows progress.

    Raises:
        ConfigError: the target lacks what ``config`` asks for.
        MissingExtraError: its package is not installed.
        BackendError: there is no usable GPU, or TensorRT cannot take the graph or build it.
        StorageError: the timing cache cannot be read or written.
        KeyboardInterrupt: Ctrl-C; nothing is left behind.
    """
    config.check(target)
    package = import_package(target)
    gpu = _gpu(target, precision)
    start = time.monotonic()
    proto, kernels = _with_plugins(proto, config, gpu, target)
    data = _built(package, proto, profiles, config, target, precision, display or Display(quiet=True))
    key = _key(str(package.__version__), target, gpu, config, profiles)
    return Plan(
        data=data,
        key=replace(key, plugins=dict(kernels)),
        seconds=time.monotonic() - start,
    )


def _with_plugins(proto: Any, config: EngineConfig, gpu: Gpu | None, target: str) -> tuple[Any, Mapping[str, str]]:
    """Return the graph that asks for kernels of ours, and what will hold the sha256 of each that is compiled."""
    if not config.plugins or gpu is None:
        return proto, {}
    from ctxdeploy.export.operators import register_kernels, with_kernels

    extra = TARGETS[target].extra
    model, compiled = with_kernels(proto, config.plugins, extra), register_kernels(gpu.capability, extra)
    compiled.clear()  # of an engine before this one
    return model, compiled


def _built(
    trt: Any,
    proto: Any,
    profiles: Sequence[Profile],
    config: EngineConfig,
    target: str,
    precision: Precision,
    display: Display,
) -> bytes:
    """Return the engine. Everything that is made here must live until the build has ended."""
    log = make_log(trt)
    builder = _builder(trt, log, target)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = parse_graph(trt, network, log, proto, target)
    settings = _settings(trt, builder, parser, config)
    _add_profiles(builder, settings, profiles, log)
    cache = None if config.timing_cache is None else load_cache(settings, config.timing_cache, display)
    with display.steps(f"building for {label_of(target)}, {precision.label}", "%") as show:
        monitor = make_monitor(trt, show)
        settings.progress_monitor = monitor
        data = run_cancellable(lambda: builder.build_serialized_network(network, settings), monitor)
    if data is None:
        raise BackendError(f"{label_of(target)} cannot build the engine: {_reason(log)}")
    if cache is not None and config.timing_cache is not None:
        save_cache(settings, config.timing_cache)
    return bytes(data)


def _gpu(target: str, precision: Precision) -> Gpu | None:
    """Return the GPU to build on; TensorRT-RTX needs none."""
    if target != TENSORRT:
        return None
    try:
        gpu = find_gpu()
    except NoGpuError as error:
        without = f"give --target {TENSORRT_RTX}, which builds without one"
        raise error.asked_by(f"--target {target}", without) from error
    needed = _MIN_CAPABILITY.get(precision, (0, 0))
    if gpu.capability < needed:
        raise BackendError(
            f"{gpu.label} has no {precision.label} arithmetic (compute capability {needed[0]}.{needed[1]} or later): "
            "use --precision fp16"
        )
    return gpu


def _builder(trt: Any, log: Any, target: str) -> "trt.Builder":
    try:
        return trt.Builder(log)
    except TypeError as error:  # the native factory gave null
        raise BackendError(f"{label_of(target)} cannot start: {_reason(log)}") from error


def _settings(
    trt: Any,
    builder: "trt.Builder",
    parser: "trt.OnnxParser",
    config: EngineConfig,
) -> "trt.IBuilderConfig":
    settings = builder.create_builder_config()
    if config.workspace is not None:
        settings.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, config.workspace)
    settings.builder_optimization_level = config.optimisation_level
    if config.tf32:
        settings.set_flag(trt.BuilderFlag.TF32)
    else:
        settings.clear_flag(trt.BuilderFlag.TF32)  # it is on by default
    if config.version_compatible:
        settings.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        # TensorRT's own plugin libraries that its parser used; without them in the plan no other version loads it.
        settings.plugins_to_serialize = parser.get_used_vc_plugin_libraries()
    levels = {
        Hardware.AMPERE_PLUS: trt.HardwareCompatibilityLevel.AMPERE_PLUS,
        Hardware.SAME_COMPUTE_CAPABILITY: trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,
    }
    if config.hardware in levels:
        settings.hardware_compatibility_level = levels[config.hardware]
    return settings


def _add_profiles(
    builder: "trt.Builder", settings: "trt.IBuilderConfig", profiles: Sequence[Profile], log: Any
) -> None:
    for profile in profiles:
        shapes = builder.create_optimization_profile()
        shapes.set_shape(INPUT_NAME, profile.low, profile.typical, profile.high)
        if settings.add_optimization_profile(shapes) < 0:
            raise BackendError(f"the shapes {profile.low} to {profile.high} are refused: {_reason(log)}")


def _reason(log: Any) -> str:
    words = logged_errors(log)
    return f"{words} (give a larger --workspace or a smaller --max-batch)" if "OutOfMemory" in words else words


def _key(version: str, target: str, gpu: Gpu | None, config: EngineConfig, profiles: Sequence[Profile]) -> EngineKey:
    capabilities = RTX_CAPABILITIES if gpu is None else (f"{gpu.capability[0]}.{gpu.capability[1]}",)
    return EngineKey(
        target=target,
        version=version,
        gpu=None if gpu is None else gpu.name,
        capabilities=capabilities,
        version_compatible=config.version_compatible,
        hardware=config.hardware,
        options=config.options(profiles),
    )


_MAX_COMPLAINTS = 5  # in the message


def parse_graph(trt: Any, network: "trt.INetworkDefinition", log: Any, proto: Any, target: str) -> "trt.OnnxParser":
    """Parse a model into an empty network.

    Returns:
        The parser, which must live until the build has ended.

    Raises:
        BackendError: it cannot take the model; the message names node, operator and function.
    """
    parser = trt.OnnxParser(network, log)
    if parser.parse(proto.SerializeToString()):
        return parser
    found = [_complaint(parser.get_error(i)) for i in range(parser.num_errors)]
    found = list(dict.fromkeys(found)) or ["no reason given"]
    more = f"; and {len(found) - _MAX_COMPLAINTS} more" if len(found) > _MAX_COMPLAINTS else ""
    raise BackendError(f"{label_of(target)} cannot take the graph: {'; '.join(found[:_MAX_COMPLAINTS])}{more}")


def _complaint(error: "trt.ParserError") -> str:
    """Return one error as ``node_17 (Exp, in GaussianSmoothing): reason``."""
    # An entry of the stack is the calling node and, in brackets, its function.
    functions = [entry.rpartition("(")[2].rstrip(") ") for entry in error.local_function_stack()]
    where = f", in {' > '.join(functions)}" if functions else ""
    name = error.node_name() or f"node {error.node()}"
    # A build without a GPU adds a line about the driver to every reason.
    lines = [line.strip() for line in error.desc().splitlines() if line.strip() and "cudaError" not in line]
    reason = " ".join(lines)
    if reason in ("", "false"):  # what is left of the parser's own assertion that it has such an operator
        reason = "not supported"
    return f"{name} ({error.node_operator()}{where}): {reason[:300]}"
