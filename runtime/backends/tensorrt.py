"""TensorRT and TensorRT-RTX on an NVIDIA GPU: engines that ``ctxdeploy build`` made for it."""

import weakref
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.bundle import INPUT_NAME, Artefact, Bundle
from ctxdeploy.core.engines import EngineKey, Machine, check_key, import_package, logged_errors, make_log, read_gpu
from ctxdeploy.core.errors import BackendError, ConfigError
from ctxdeploy.core.targets import TARGETS, label_of
from ctxdeploy.core.text import printable
from ctxdeploy.runtime.backends.base import POLL_SECONDS, Backend
from ctxdeploy.runtime.backends.config import BackendConfig
from ctxdeploy.runtime.backends.cuda import Buffer, Cuda

if TYPE_CHECKING:
    import tensorrt as trt


class TensorRtBackend(Backend):
    """An engine with a context, a stream, and buffers that stay between runs."""

    def __init__(self, bundle: Bundle, config: BackendConfig) -> None:
        super().__init__(bundle)
        target = self.name = config.engine
        artefact = _engine_of(bundle, target, config.precision)
        package = import_package(target)
        gpu = read_gpu(TARGETS[target].extra)
        self.version = str(package.__version__)
        here = Machine(target=target, version=self.version, gpu=gpu)
        check_key(artefact.details, here, precision=artefact.precision, bundle=printable(str(bundle.path)))
        key = EngineKey.parse(artefact.details["key"])
        if key.plugins:
            raise BackendError(
                f"the engine needs plug-in libraries ({', '.join(key.plugins)}), which are not loaded any more: "
                "build it anew"
            )
        self._cuda = Cuda(TARGETS[target].extra)
        self._log = make_log(package)
        self._runtime = _runtime(package, self._log, key)
        self._engine = _engine(self._runtime, self._log, bundle.file(artefact))
        _check_interface(package, self._engine, self.outputs)
        self._context = _context(self._engine, self._log)
        self._stream = self._cuda.stream()
        weakref.finalize(self, self._cuda.releaser("cudaStreamDestroy", self._stream))
        self._buffers = {name: Buffer(self._cuda) for name in (INPUT_NAME, *self.outputs)}
        self.device = f"GPU: {gpu.label}"
        self.precision = artefact.precision
        self.threads = None

    def _run(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        # The GPU cannot be interrupted: after Ctrl-C the executor waits for the end of the one run that is under way,
        # so that no buffer is used or freed before.
        with ThreadPoolExecutor(1, thread_name_prefix="ctxdeploy-network") as executor:
            future = executor.submit(self._compute, images)
            while not wait([future], POLL_SECONDS).done:
                pass
            return future.result()

    def _compute(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        context: trt.IExecutionContext = self._context
        if not context.set_input_shape(INPUT_NAME, images.shape):
            raise ConfigError(_outside(self._engine, images.shape))
        missing = context.infer_shapes()
        shapes = {name: tuple(int(size) for size in context.get_tensor_shape(name)) for name in self.outputs}
        missing += [name for name, shape in shapes.items() if min(shape) < 0]  # a shape that depends on the values
        if missing:
            raise RuntimeError(f"no shape for {', '.join(missing)}: build the engine anew")
        counts = {name: 4 * int(np.prod(shape)) for name, shape in shapes.items()} | {INPUT_NAME: images.nbytes}
        for name, buffer in self._buffers.items():
            buffer.reserve(counts[name])
            if not context.set_tensor_address(name, buffer.device):
                raise RuntimeError(f"no place for {name}: {logged_errors(self._log)}")
        source = self._buffers[INPUT_NAME]
        source.host[: images.nbytes] = images.reshape(-1)
        self._cuda.upload(source, images.nbytes, self._stream)
        started = context.execute_async_v3(self._stream)
        if started:
            for name in self.outputs:
                self._cuda.download(self._buffers[name], counts[name], self._stream)
        self._cuda.synchronise(self._stream)
        if not started:
            raise RuntimeError(logged_errors(self._log))
        return [
            self._buffers[name].host[: counts[name]].view(np.float32).reshape(shapes[name]).copy()
            for name in self.outputs
        ]


def _engine_of(bundle: Bundle, target: str, precision: str) -> Artefact:
    for artefact in bundle.artefacts:
        if (artefact.format, artefact.target, artefact.precision) == ("engine", target, precision):
            return artefact
    raise BackendError(
        f"{bundle.path} has no {label_of(target)} engine of {precision}: "
        f"run  ctxdeploy build {printable(str(bundle.path))} --target {target} --precision {precision}"
    )


def _runtime(trt: Any, log: Any, key: EngineKey) -> "trt.Runtime":
    try:
        runtime = trt.Runtime(log)
    except TypeError as error:  # the native factory gave null
        raise BackendError(f"{label_of(key.target)} cannot start: {logged_errors(log)}") from error
    if key.version_compatible:
        # Such a plan carries the runtime of the version that built it, which is code that runs here.
        runtime.engine_host_code_allowed = True
    return runtime


def _engine(runtime: "trt.Runtime", log: Any, path: Path) -> "trt.ICudaEngine":
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise BackendError(f"engine {path} cannot be loaded: {logged_errors(log)}")
    return engine


def _context(engine: "trt.ICudaEngine", log: Any) -> "trt.IExecutionContext":
    context = engine.create_execution_context()
    if context is None:
        raise BackendError(f"no memory for the engine: {logged_errors(log)} (build it with a smaller --max-batch)")
    return context


def _check_interface(trt: Any, engine: "trt.ICudaEngine", outputs: tuple[str, ...]) -> None:
    """Raise ``BackendError`` unless the engine's inputs and outputs are those of the bundle contract."""
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    wanted = {INPUT_NAME: trt.DataType.UINT8, **dict.fromkeys(outputs, trt.DataType.FLOAT)}
    if set(names) != set(wanted) or any(engine.get_tensor_dtype(name) != wanted[name] for name in names):
        raise BackendError(f"the engine's inputs and outputs are {', '.join(names)}: build it anew")


def _outside(engine: "trt.ICudaEngine", shape: tuple[int, ...]) -> str:
    low, _, high = (tuple(sizes) for sizes in engine.get_tensor_profile_shape(INPUT_NAME, 0))
    ranges = " × ".join(f"{lowest}..{highest}" for lowest, highest in zip(low[:3], high[:3], strict=True))
    given = "×".join(str(size) for size in shape[:3])
    return (
        f"the input's {given} (photos × rows × columns) is outside the engine's {ranges}: give a smaller "
        "--batch-size, or build the engine anew with a larger --max-batch"
    )
