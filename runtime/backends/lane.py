"""Where batches are computed on a GPU, one after the other: a stream, contexts of an engine, memory, CUDA graphs."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ctxdeploy.core.bundle import INPUT_NAME
from ctxdeploy.core.profiles import Shape
from ctxdeploy.runtime.backends.cuda import Cuda, DeviceMemory
from ctxdeploy.runtime.backends.engine import Engine
from ctxdeploy.runtime.backends.ring import Outputs

if TYPE_CHECKING:
    import tensorrt as trt

# CUDA graphs that a lane keeps: five shapes of batches in each of the three slots of the ring, and one to spare. Each
# holds a context and a copy of the launch of every kernel, a few MB.
GRAPHS = 16
# A graph that so many batches passed by without it makes room for another. Otherwise more shapes than graphs in turn
# would each be captured for nothing: a context and a capture take longer than a batch.
_STALE = 8 * GRAPHS
# How many shapes and slots without a graph are remembered.
_MET = 64

# The shape of a batch and the number of its slot in the ring.
_Key = tuple[Shape, int]


@dataclass(kw_only=True, eq=False)
class Work:
    """A context, and what is set in it.

    Attributes:
        context: with a profile; it is not touched while it runs.
        shape: of the input; empty where memory or shape must be set anew.
        outputs: shapes of the outputs for it.
        addresses: of input and outputs.
        key: shape and slot that it is to be captured for; None of a context that runs all shapes of its profile.
        used: the batch of the lane that it ran last.
        graph: handle of the launchable graph that was captured from it, if any: then nothing in it may change.
    """

    context: "trt.IExecutionContext"
    shape: tuple[int, ...] = ()
    outputs: Outputs = field(default_factory=dict)
    addresses: Mapping[str, int] = field(default_factory=dict)
    key: "_Key | None" = None
    used: int = 0
    graph: int | None = None


class Lane:
    """Computes one batch at a time, in the order in which they are given.

    Contexts of all profiles and shapes share one piece of scratch memory, as only one of them runs at a time. A batch
    whose shape and slot come again is captured as a CUDA graph from a context of its own, if there is room: what is
    captured holds its addresses and its context's state, and neither may change afterwards.

    Attributes:
        stream: that it computes on.
        done: event behind the latest batch.

    Args:
        cuda: the GPU.
        engine: that computes.
        graphs: how many graphs are kept, the latest used.
    """

    def __init__(self, cuda: Cuda, engine: Engine, graphs: int = GRAPHS) -> None:
        self._cuda, self._engine = cuda, engine
        self._limit = graphs if engine.captures else 0
        self.stream, self.done = cuda.stream(), cuda.event()
        self._scratch = DeviceMemory(cuda)
        self._contexts = {0: Work(context=engine.context(0, self.stream))}
        self._captured: OrderedDict[_Key, Work] = OrderedDict()
        self._met: OrderedDict[_Key, None] = OrderedDict()
        self._batches = 0

    def captured(self, shape: Shape, slot: int, addresses: Mapping[str, int]) -> Work | None:
        """Return what was captured for a batch in a slot; None where nothing was, or for other addresses."""
        work = self._captured.get((shape, slot))
        if work is None:
            return None
        if work.addresses != addresses:  # its buffers have grown
            self._cuda.synchronise(self.stream)
            self._forget((shape, slot))
            return None
        self._captured.move_to_end((shape, slot))
        return work

    def prepare(self, shape: Shape, slot: int) -> Work:
        """Return a context whose shape is set. The lane must not be computing.

        Raises:
            ConfigError: no profile holds the shape.
            BackendError, RuntimeError: TensorRT refuses it, or there is no memory.
        """
        profile = self._engine.profile_for(shape)
        if (shape, slot) in self._met and self._has_room():
            work = Work(context=self._engine.context(profile, self.stream), key=(shape, slot))
        else:
            if profile not in self._contexts:
                self._contexts[profile] = Work(context=self._engine.context(profile, self.stream))
            work = self._contexts[profile]
        if work.shape != shape:
            self._set_shape(work, shape)
        return work

    def address(self, work: Work, addresses: Mapping[str, int]) -> None:
        """Say where input and outputs of a batch lie."""
        context: trt.IExecutionContext = work.context
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise RuntimeError(f"no place for {name}: {self._engine.why}")
        work.addresses = dict(addresses)

    def launch(self, work: Work, uploaded: int) -> None:
        """Put a batch on the stream, to run once its input is there; ``done`` is recorded behind it.

        Args:
            work: of ``captured`` or ``prepare``.
            uploaded: event behind the upload of the input.
        """
        context: trt.IExecutionContext = work.context
        self._cuda.wait(self.stream, uploaded)
        if work.graph is not None:
            self._cuda.launch(work.graph, self.stream)
        elif not context.execute_async_v3(self.stream):
            raise RuntimeError(self._engine.why)
        self._cuda.record(self.done, self.stream)
        self._batches += 1
        work.used = self._batches

    def remember(self, work: Work, slot: int) -> None:
        """Note that a batch was launched; capture it as a graph if its context is there for that.

        The launch before has brought the context into the state that TensorRT wants captured. An engine that cannot be
        captured goes on without graphs.
        """
        if work.graph is not None or not self._limit:
            return
        if work.key is None:
            self._met[_four(work.shape), slot] = None
            self._met.move_to_end((_four(work.shape), slot))
            while len(self._met) > _MET:
                self._met.popitem(last=False)
            return
        context: trt.IExecutionContext = work.context
        work.graph = self._cuda.captured(self.stream, lambda: context.execute_async_v3(self.stream))
        if work.graph is None:
            self._limit = 0
            self._cuda.synchronise(self.stream)  # the context goes, and it runs
            return
        self._captured[work.key] = work
        while len(self._captured) > self._limit:
            self._cuda.synchronise(self.stream)
            self._forget(next(iter(self._captured)))

    def _has_room(self) -> bool:
        """Say whether there is room for another graph, or one that is used no more."""
        if len(self._captured) < self._limit or not self._limit:
            return self._limit > 0
        return self._batches - next(iter(self._captured.values())).used > _STALE

    def close(self) -> None:
        """Give everything back; nothing may be running."""
        for key in list(self._captured):
            self._forget(key)
        self._contexts.clear()
        self._scratch.release()
        self._cuda.releaser("cudaEventDestroy", self.done)()
        self._cuda.releaser("cudaStreamDestroy", self.stream)()

    def _forget(self, key: _Key) -> None:
        graph = self._captured.pop(key).graph
        if graph is not None:
            self._cuda.releaser("cudaGraphExecDestroy", graph)()

    def _set_shape(self, work: Work, shape: Shape) -> None:
        context: trt.IExecutionContext = work.context
        work.shape = ()
        if not context.set_input_shape(INPUT_NAME, shape):
            raise RuntimeError(f"the shape is refused: {self._engine.why}")
        missing = context.infer_shapes()
        outputs: Outputs = {
            name: tuple(int(size) for size in context.get_tensor_shape(name)) for name in self._engine.outputs
        }
        missing += [name for name, sizes in outputs.items() if min(sizes) < 0]  # a shape that depends on the values
        if missing:
            raise RuntimeError(f"no shape for {', '.join(missing)}: build the engine anew")
        self._reserve(context.update_device_memory_size_for_shapes())
        context.set_device_memory(self._scratch.address, self._scratch.bytes)
        work.shape, work.outputs = shape, outputs

    def _reserve(self, count: int) -> None:
        """Make room for what is between the layers; where it moves, graphs and contexts that know it are void."""
        if count <= self._scratch.bytes:
            return
        self._cuda.synchronise(self.stream)
        for key in list(self._captured):
            self._forget(key)
        for work in self._contexts.values():
            work.shape = ()
        self._scratch.reserve(count)


def _four(shape: tuple[int, ...]) -> Shape:
    batch, height, width, channels = shape
    return batch, height, width, channels
