"""An engine of TensorRT or TensorRT-RTX, loaded: its profiles, and contexts to run it in."""

import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.core.bundle import INPUT_NAME
from ctxdeploy.core.engines import EngineKey, logged_errors, make_log
from ctxdeploy.core.errors import BackendError, ConfigError
from ctxdeploy.core.profiles import Profile, Shape, smallest
from ctxdeploy.core.targets import TENSORRT_RTX, label_of

if TYPE_CHECKING:
    import tensorrt as trt


class Engine:
    """An engine on the GPU that is current.

    Attributes:
        profiles: shapes that it takes; the first is the whole range.
        outputs: names of its outputs, in the order of the bundle contract.
        captures: whether CUDA graphs are for us to capture; TensorRT-RTX does that by itself.

    Args:
        trt: the package.
        path: the plan.
        key: of the engine.
        outputs: that it must have.
        graphs: whether work is to be launched as CUDA graphs.

    Raises:
        BackendError: it cannot be loaded, or is not one of a bundle.
    """

    def __init__(self, trt: Any, path: Path, key: EngineKey, outputs: tuple[str, ...], *, graphs: bool) -> None:
        self._log = make_log(trt)
        self._runtime = _runtime(trt, self._log, key)
        self._engine = _deserialised(self._runtime, self._log, path)
        self.outputs, self.captures = outputs, graphs and key.target != TENSORRT_RTX
        _check_interface(trt, self._engine, outputs)
        self._config = _runtime_config(trt, self._engine, graphs)
        self.profiles = _profiles(self._engine)

    @property
    def why(self) -> str:
        """What TensorRT said of its errors, in one line."""
        return logged_errors(self._log)

    def profile_for(self, shape: Shape) -> int:
        """Return the number of the smallest profile that holds a shape; ``ConfigError`` if none does."""
        number = smallest(self.profiles, shape)
        if number is None:
            raise ConfigError(_outside(self.profiles[0], shape))
        return number

    def context(self, profile: int, stream: int) -> "trt.IExecutionContext":
        """Return a context for a profile, without memory of its own; what that takes is put on a stream.

        Raises:
            BackendError: there is no memory for it.
        """
        context = self._engine.create_execution_context(self._config)
        if context is None:
            raise BackendError(f"no memory for the engine: {self.why} (build it with a smaller --max-batch)")
        if not context.set_optimization_profile_async(profile, stream):
            raise RuntimeError(f"profile {profile} cannot be set: {self.why}")
        return context


def _runtime(trt: Any, log: Any, key: EngineKey) -> "trt.Runtime":
    try:
        runtime = trt.Runtime(log)
    except TypeError as error:  # the native factory gave null
        raise BackendError(f"{label_of(key.target)} cannot start: {logged_errors(log)}") from error
    if key.version_compatible:
        # Such a plan carries the runtime of the version that built it, which is code that runs here.
        runtime.engine_host_code_allowed = True
    return runtime


def _deserialised(runtime: "trt.Runtime", log: Any, path: Path) -> "trt.ICudaEngine":
    """Return the engine of a plan, which is read from the file as TensorRT needs it."""
    with path.open("rb") as file:
        try:
            plan = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:  # an empty file
            raise BackendError(f"engine {path} cannot be loaded: the file is empty") from error
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BackendError(f"engine {path} cannot be loaded: {logged_errors(log)}")
    return engine


def _check_interface(trt: Any, engine: "trt.ICudaEngine", outputs: tuple[str, ...]) -> None:
    """Raise ``BackendError`` unless the engine's inputs and outputs are those of the bundle contract."""
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    wanted = {INPUT_NAME: trt.DataType.UINT8, **dict.fromkeys(outputs, trt.DataType.FLOAT)}
    if set(names) != set(wanted) or any(engine.get_tensor_dtype(name) != wanted[name] for name in names):
        raise BackendError(f"the engine's inputs and outputs are {', '.join(names)}: build it anew")


def _runtime_config(trt: Any, engine: "trt.ICudaEngine", graphs: bool) -> "trt.IRuntimeConfig":
    config = engine.create_runtime_config()
    # Contexts that run one after the other share the memory for what is between the layers.
    config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    if hasattr(trt, "CudaGraphStrategy") and hasattr(config, "cuda_graph_strategy"):  # TensorRT-RTX
        strategies = trt.CudaGraphStrategy
        config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE if graphs else strategies.DISABLED
    if hasattr(config, "create_runtime_cache") and hasattr(config, "set_runtime_cache"):
        # It compiles kernels when they are first used: once for all contexts.
        config.set_runtime_cache(config.create_runtime_cache())
    return config


def _profiles(engine: "trt.ICudaEngine") -> tuple[Profile, ...]:
    found = []
    for number in range(engine.num_optimization_profiles):
        low, typical, high = (_shape(sizes) for sizes in engine.get_tensor_profile_shape(INPUT_NAME, number))
        found.append(Profile(low=low, typical=typical, high=high))
    return tuple(found)


def _shape(sizes: Any) -> Shape:
    batch, height, width, channels = (int(size) for size in sizes)
    return batch, height, width, channels


def _outside(whole: Profile, shape: Shape) -> str:
    pairs = zip(whole.low[:3], whole.high[:3], strict=True)
    ranges = " × ".join(f"{lowest}..{highest}" for lowest, highest in pairs)
    given = "×".join(str(size) for size in shape[:3])
    return (
        f"the input's {given} (photos × rows × columns) is outside the engine's {ranges}: give a smaller "
        "--batch-size, or build the engine anew with a larger --max-batch"
    )
