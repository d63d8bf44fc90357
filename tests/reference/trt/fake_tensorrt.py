# ruff: noqa: A002, N801, N803, N815, PTH123, RUF012
"""A stand-in for ``tensorrt``, ``cuda.bindings.runtime`` and ``cuda.bindings.driver`` where there is no GPU.

It computes no network: an "engine" is JSON, and running it reads the input from "device" memory and writes numbers that
follow from it. What it is for is the control flow around the real package: shapes, buffers, keys, failures. Its names
and signatures are those of the real one; a test compares them with the recorded API.
"""

import ctypes
import enum
import json
import sys
from types import ModuleType

import numpy as np

__version__ = "11.4.0.1"


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def __init__(self):
        pass


class DataType(enum.Enum):
    FLOAT = 0
    UINT8 = 1


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class BuilderFlag(enum.Enum):
    TF32 = 0
    VERSION_COMPATIBLE = 1


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class HardwareCompatibilityLevel(enum.Enum):
    NONE = 0
    AMPERE_PLUS = 1
    SAME_COMPUTE_CAPABILITY = 2


class IProgressMonitor:
    def __init__(self):
        pass


class ITimingCache:
    def __init__(self, data):
        self.data = data

    def serialize(self):
        return self.data


class IOptimizationProfile:
    def set_shape(self, input, min, opt, max):
        self.shapes = {input: [list(min), list(opt), list(max)]}


class IBuilderConfig:
    """Flags, one profile, a timing cache that says for which machine it is."""

    machine = b"timings of NVIDIA H200:"

    def __init__(self):
        self.set, self.limits, self.cache = {BuilderFlag.TF32}, {}, ITimingCache(self.machine)
        self.builder_optimization_level, self.progress_monitor, self.plugins_to_serialize = 3, None, []
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE

    def set_flag(self, flag):
        self.set.add(flag)

    def clear_flag(self, flag):
        self.set.discard(flag)

    def set_memory_pool_limit(self, pool, pool_size):
        self.limits[pool.name] = pool_size

    def add_optimization_profile(self, profile):
        self.profile = profile
        return 0

    def create_timing_cache(self, serialized_timing_cache):
        if serialized_timing_cache and not serialized_timing_cache.startswith(b"timings"):
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return ITimingCache(serialized_timing_cache or self.machine)

    def set_timing_cache(self, cache, ignore_mismatch):
        if not cache.data.startswith(self.machine) and not ignore_mismatch:
            return False
        self.cache = cache
        return True

    def get_timing_cache(self):
        return self.cache


class INetworkDefinition:
    model = b""


class ParserError:
    def __init__(self, name, operator, stack, text):
        self.name, self.operator, self.stack, self.text = name, operator, stack, text

    def node(self):
        return 7

    def node_name(self):
        return self.name

    def node_operator(self):
        return self.operator

    def local_function_stack(self):
        return self.stack

    def desc(self):
        return self.text


class OnnxParser:
    errors = []

    def __init__(self, network, logger):
        self.network = network

    def parse(self, model, path=None):
        self.network.model = bytes(model)
        return not self.errors

    @property
    def num_errors(self):
        return len(self.errors)

    def get_error(self, index):
        return self.errors[index]

    def get_used_vc_plugin_libraries(self):
        return []


class Builder:
    refuses = None  # a message, to fail with

    def __init__(self, logger):
        self.logger = logger

    def create_network(self, flags=0):
        assert flags == 1 << 1
        return INetworkDefinition()

    def create_builder_config(self):
        return IBuilderConfig()

    def create_optimization_profile(self):
        return IOptimizationProfile()

    def build_serialized_network(self, network, config):
        if self.refuses:
            self.logger.log(ILogger.Severity.ERROR, self.refuses)
            return None
        config.progress_monitor.phase_start("Building engine", None, 2)
        for step in range(2):
            if not config.progress_monitor.step_complete("Building engine", step):
                return None
        config.progress_monitor.phase_finish("Building engine")
        config.cache.data += b" one layer"
        low, typical, high = config.profile.shapes["image"]
        return plan(
            low,
            high,
            typical=typical,
            flags=sorted(f.name for f in config.set),
            limits=config.limits,
            level=config.builder_optimization_level,
            serialised=config.plugins_to_serialize,
            hardware=config.hardware_compatibility_level.name,
            nodes=nodes(network.model),
        )


def nodes(model):
    """Return operator, domain and attributes of the nodes of a serialised model."""
    import onnx

    found = onnx.load_model_from_string(model).graph.node
    return [[n.op_type, n.domain, sorted(a.name for a in n.attribute)] for n in found if n.domain]


def plan(low, high, top_k=40, dim=8, **facts):
    """Return the bytes of an "engine"."""
    shapes = {"low": list(low), "high": list(high), "top_k": top_k, "dim": dim}
    return json.dumps({"engine": shapes, **facts}).encode()


class Runtime:
    made = 0

    def __init__(self, logger):
        type(self).made += 1
        self.logger, self.engine_host_code_allowed = logger, False

    def deserialize_cuda_engine(self, serialized_engine):
        try:
            return ICudaEngine(json.loads(serialized_engine)["engine"], self)
        except (ValueError, KeyError):
            self.logger.log(ILogger.Severity.ERROR, "Serialization assertion\n   magicTag failed")
            return None


class ICudaEngine:
    names = ("image", "descriptors", "attention", "positions", "scales")
    context_fails = False

    def __init__(self, facts, runtime):
        self.facts, self.runtime = facts, runtime

    @property
    def num_io_tensors(self):
        return len(self.names)

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_dtype(self, name):
        return DataType.UINT8 if name == "image" else DataType.FLOAT

    def get_tensor_profile_shape(self, name, profile_index):
        return [self.facts["low"], self.facts["low"], self.facts["high"]]

    def create_execution_context(self):
        if self.context_fails:
            self.runtime.logger.log(ILogger.Severity.ERROR, "CUDA out of memory")
            return None
        return IExecutionContext(self)


class IExecutionContext:
    fails = None  # a message, to fail with
    hook = None  # called while it runs

    def __init__(self, engine):
        self.engine, self.shape, self.addresses = engine, (-1, -1, -1, 3), {}

    def set_input_shape(self, name, shape):
        low, high = self.engine.facts["low"], self.engine.facts["high"]
        if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            return False
        self.shape = tuple(shape)
        return True

    def infer_shapes(self):
        return [] if min(self.shape) > 0 else ["image"]

    def get_tensor_shape(self, name):
        k, d = self.engine.facts["top_k"], self.engine.facts["dim"]
        tails = {"descriptors": (k, d), "attention": (k,), "positions": (k, 2), "scales": (k,)}
        return self.shape if name == "image" else (self.shape[0], *tails[name])

    def set_tensor_address(self, name, memory):
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle):
        assert stream_handle != 0, "the default stream"
        if self.fails:
            self.engine.runtime.logger.log(ILogger.Severity.ERROR, self.fails)
            return False
        if self.hook:
            self.hook()
        images = at(self.addresses["image"], self.shape, np.uint8)
        for name, value in answers(images, self.engine.facts["top_k"], self.engine.facts["dim"]).items():
            at(self.addresses[name], value.shape, np.float32)[:] = value
        return True


def answers(images, top_k, dim):
    """Return what an "engine" computes: numbers that depend on every byte of each photo."""
    weights = np.arange(images[0].size).reshape(images.shape[1:]) % 251
    sums = (images * weights).sum(axis=(1, 2, 3)).astype(np.float32)
    rank = np.arange(top_k, dtype=np.float32)
    vectors = sums[:, None, None] + rank[None, :, None] + np.arange(dim, dtype=np.float32)
    attention = np.broadcast_to(1 / (rank + 1), (len(images), top_k))
    positions = np.broadcast_to(np.stack([rank, rank + 0.5], axis=1), (len(images), top_k, 2))
    return {"descriptors": vectors, "attention": attention, "positions": positions, "scales": np.ones_like(attention)}


def at(address, shape, dtype):
    """Return the "device" memory at an address, which must have been allocated and hold that much."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    assert len(DEVICE[address]) >= count
    return np.frombuffer(DEVICE[address], dtype, int(np.prod(shape))).reshape(shape)


class IPluginCreatorV3One:
    def __init__(self, name, version, namespace):
        self.name, self.plugin_version, self.plugin_namespace = name, version, namespace


class IPluginRegistry:
    """Libraries whose file says what is in them: ``name version namespace`` per line."""

    def __init__(self):
        self.all_creators = [IPluginCreatorV3One("ROIAlign_TRT", "2", "")]

    def load_library(self, plugin_path):
        with open(plugin_path, encoding="utf-8") as file:
            lines = [line.split() for line in file]
        if any(len(line) != 3 for line in lines):
            return None
        self.all_creators += [IPluginCreatorV3One(*line) for line in lines]
        return object()


REGISTRY = IPluginRegistry()


def get_plugin_registry():
    return REGISTRY


# ---- cuda.bindings
DEVICE, HOST, STREAMS = {}, {}, set()


class cudaError_t(enum.Enum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2


class cudaMemcpyKind(enum.Enum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


LIMIT = [1 << 40]


def _allocate(store, count):
    if count > LIMIT[0]:
        return cudaError_t.cudaErrorMemoryAllocation, None
    memory = ctypes.create_string_buffer(count)
    store[ctypes.addressof(memory)] = memory
    return cudaError_t.cudaSuccess, ctypes.addressof(memory)


def _free(store, address):
    del store[address]
    return (cudaError_t.cudaSuccess,)


def _copy(dst, src, count, kind, stream):
    device = dst if kind is cudaMemcpyKind.cudaMemcpyHostToDevice else src
    assert len(DEVICE[device]) >= count and stream != 0
    ctypes.memmove(dst, src, count)
    return (cudaError_t.cudaSuccess,)


def _make_stream(flags):
    STREAMS.add(11 + len(STREAMS))
    return cudaError_t.cudaSuccess, max(STREAMS)


def _end_stream(stream):
    STREAMS.remove(stream)
    return (cudaError_t.cudaSuccess,)


def cuda_runtime():
    """Return a module with the functions that the backend calls, over memory of this machine."""
    module = ModuleType("cuda.bindings.runtime")
    module.cudaError_t, module.cudaMemcpyKind = cudaError_t, cudaMemcpyKind
    module.cudaMalloc = lambda size: _allocate(DEVICE, size)
    module.cudaFree = lambda devPtr: _free(DEVICE, devPtr)
    module.cudaHostAlloc = lambda size, flags: _allocate(HOST, size)
    module.cudaFreeHost = lambda ptr: _free(HOST, ptr)
    module.cudaMemcpyAsync = _copy
    module.cudaStreamCreateWithFlags = _make_stream
    module.cudaStreamDestroy = _end_stream
    module.cudaStreamSynchronize = lambda stream: (cudaError_t.cudaSuccess,)
    return module


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_NO_DEVICE = 100


class CUdevice_attribute(enum.IntEnum):
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76


def cuda_driver(name="NVIDIA H200", capability=(9, 0), count=1, status=0, missing=False):
    """Return a module with the functions that are asked which GPU there is."""

    def begin(flags):
        if missing:
            raise RuntimeError("Failed to dlopen libcuda.so.1")
        return (CUresult(status),)

    module = ModuleType("cuda.bindings.driver")
    module.CUresult, module.CUdevice_attribute = CUresult, CUdevice_attribute
    module.cuInit = begin
    module.cuDeviceGetCount = lambda: (CUresult.CUDA_SUCCESS, count)
    module.cuDeviceGet = lambda number: (CUresult.CUDA_SUCCESS, number)
    module.cuDeviceGetName = lambda length, device: (CUresult.CUDA_SUCCESS, name.encode().ljust(length, b"\0"))
    module.cuDeviceGetAttribute = lambda number, device: (CUresult.CUDA_SUCCESS, capability[number - 75])
    return module


def install(monkeypatch, this_module, **gpu):
    """Put the stand-ins in place of the real packages and of the driver for one test."""
    monkeypatch.setitem(sys.modules, "tensorrt", this_module)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda_runtime())
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", cuda_driver(**gpu))
    monkeypatch.setattr(this_module, "REGISTRY", IPluginRegistry())
