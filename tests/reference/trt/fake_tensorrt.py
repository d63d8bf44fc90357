# ruff: noqa: A002, N802, PTH123, RUF012
"""A stand-in for ``tensorrt`` and ``cuda.bindings.driver`` where there is no GPU, on the CUDA of ``fake_cuda``.

It computes no network: an "engine" is JSON, and running it reads the input from "device" memory and writes numbers that
follow from it. What it is for is the control flow around the real package: shapes, buffers, keys, failures, and what is
under way at the same time. A run is two pieces on its stream, with the input in the context's scratch memory between
them: contexts that share scratch on two streams, or one that is changed while it runs, give wrong numbers. Its names
and signatures are those of the real one; a test compares them with the recorded API.
"""

import enum
import importlib.util
import json
import pathlib
import sys

import numpy as np

__version__ = "11.4.0.1"


def _load_cuda():
    path = pathlib.Path(__file__).parents[1] / "fake_cuda.py"
    spec = importlib.util.spec_from_file_location("fake_cuda", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MACHINE = _load_cuda().Machine()


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
    """Flags, profiles, a timing cache that says for which machine it is."""

    machine = b"timings of NVIDIA H200:"

    def __init__(self):
        self.set, self.limits, self.cache = {BuilderFlag.TF32}, {}, ITimingCache(self.machine)
        self.builder_optimization_level, self.progress_monitor, self.plugins_to_serialize = 3, None, []
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
        self.profiles = []

    def set_flag(self, flag):
        self.set.add(flag)

    def clear_flag(self, flag):
        self.set.discard(flag)

    def set_memory_pool_limit(self, pool, pool_size):
        self.limits[pool.name] = pool_size

    def add_optimization_profile(self, profile):
        low, typical, high = profile.shapes["image"]
        if not all(a <= b <= c for a, b, c in zip(low, typical, high, strict=True)):
            return -1
        self.profiles.append(profile)
        return len(self.profiles) - 1

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
        (low, typical, high), *more = (profile.shapes["image"] for profile in config.profiles)
        return plan(
            low,
            high,
            more=more,
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


def plan(low, high, top_k=40, dim=8, more=(), rows=None, **facts):
    """Return the bytes of an "engine".

    Args:
        low, high: of its first profile.
        top_k, dim: of its outputs.
        more: low, typical and high of further profiles.
        rows: of each photo, the others are padding; a photo of mean brightness b has min(b, rows).
    """
    profiles = [[list(low), list(low), list(high)], *([list(shape) for shape in profile] for profile in more)]
    shapes = {"profiles": profiles, "top_k": top_k, "dim": dim, "rows": rows}
    return json.dumps({"engine": shapes, **facts}).encode()


class Runtime:
    made = 0

    def __init__(self, logger):
        type(self).made += 1
        self.logger, self.engine_host_code_allowed = logger, False

    def deserialize_cuda_engine(self, serialized_engine):
        try:
            return ICudaEngine(json.loads(bytes(serialized_engine))["engine"], self)
        except (ValueError, KeyError):
            self.logger.log(ILogger.Severity.ERROR, "Serialization assertion\n   magicTag failed")
            return None


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class IRuntimeConfig:
    strategy = ExecutionContextAllocationStrategy.STATIC

    def set_execution_context_allocation_strategy(self, strategy=ExecutionContextAllocationStrategy.STATIC):
        self.strategy = strategy


class ICudaEngine:
    names = ("image", "descriptors", "attention", "positions", "scales")
    context_fails = False

    def __init__(self, facts, runtime):
        self.facts, self.runtime, self.configs = facts, runtime, []

    @property
    def num_io_tensors(self):
        return len(self.names)

    @property
    def num_optimization_profiles(self):
        return len(self.facts["profiles"])

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_dtype(self, name):
        return DataType.UINT8 if name == "image" else DataType.FLOAT

    def get_tensor_profile_shape(self, name, profile_index):
        return self.facts["profiles"][profile_index]

    def create_runtime_config(self):
        return IRuntimeConfig()

    def create_execution_context(self, runtime_config=None):
        if self.context_fails:
            self.runtime.logger.log(ILogger.Severity.ERROR, "CUDA out of memory")
            return None
        assert runtime_config.strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        self.configs.append(runtime_config)
        return IExecutionContext(self)


# Profile, shape and number of the context of every run that was put on a stream; those of a graph when it was captured.
RAN = []
CONTEXTS = []  # their numbers


class IExecutionContext:
    fails = None  # a message, to fail with
    hook = None  # called while it runs

    def __init__(self, engine):
        self.engine, self.shape, self.addresses = engine, (-1, -1, -1, 3), {}
        self.profile, self.scratch, self.state, self.settled = 0, (0, 0), {"version": 0}, False
        self.number = len(CONTEXTS)
        CONTEXTS.append(self.number)

    def __del__(self):
        self.state["version"] = "gone"

    def _change(self):
        """Count what is set: what still runs gives NaN, and nothing can be captured before the next run."""
        self.state["version"] += 1
        self.settled = False

    def set_optimization_profile_async(self, profile_index, stream_handle):
        self._change()
        if not 0 <= profile_index < self.engine.num_optimization_profiles:
            return False
        self.profile, self.shape = profile_index, (-1, -1, -1, 3)
        return True

    def set_input_shape(self, name, shape):
        low, _, high = self.engine.facts["profiles"][self.profile]
        if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            return False
        self._change()
        self.shape, self.scratch = tuple(shape), (0, 0)
        return True

    def infer_shapes(self):
        return [] if min(self.shape) > 0 else ["image"]

    def get_tensor_shape(self, name):
        k, d = self.engine.facts["top_k"], self.engine.facts["dim"]
        tails = {"descriptors": (k, d), "attention": (k,), "positions": (k, 2), "scales": (k,)}
        return self.shape if name == "image" else (self.shape[0], *tails[name])

    def update_device_memory_size_for_shapes(self):
        return int(np.prod(self.shape))

    def set_device_memory(self, memory, size):
        self._change()
        self.scratch = (memory, size)

    def set_tensor_address(self, name, memory):
        self._change()
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle):
        assert stream_handle != 0, "the default stream"
        if self.fails:
            self.engine.runtime.logger.log(ILogger.Severity.ERROR, self.fails)
            return False
        if MACHINE.is_capturing(stream_handle) and not self.settled:
            self.engine.runtime.logger.log(ILogger.Severity.ERROR, "a shape was set and not run: nothing to capture")
            return False
        self.settled = True
        RAN.append((self.profile, self.shape, self.number))
        shape, addresses, scratch = self.shape, dict(self.addresses), self.scratch
        state, version, hook = self.state, self.state["version"], self.hook
        facts, count = self.engine.facts, int(np.prod(self.shape))
        assert count <= scratch[1], "the scratch memory is too small"

        def begin():
            if hook:
                hook()
            MACHINE.view(scratch[0], count)[:] = MACHINE.view(addresses["image"], count)

        def end():
            images = MACHINE.view(scratch[0], count).reshape(shape)
            for name, value in answers(images, facts["top_k"], facts["dim"], facts["rows"]).items():
                if state["version"] != version:
                    value = np.full_like(value, np.nan)
                place = MACHINE.view(addresses[name], value.nbytes)
                place[:] = np.ascontiguousarray(value, np.float32).reshape(-1).view(np.uint8)

        MACHINE.enqueue(stream_handle, begin)
        MACHINE.enqueue(stream_handle, end)
        return True


def answers(images, top_k, dim, rows=None):
    """Return what an "engine" computes: numbers that depend on every byte of each photo; NaN in padding."""
    weights = np.arange(images[0].size).reshape(images.shape[1:]) % 251
    sums = (images * weights).sum(axis=(1, 2, 3)).astype(np.float32)
    rank = np.arange(top_k, dtype=np.float32)
    vectors = sums[:, None, None] + rank[None, :, None] + np.arange(dim, dtype=np.float32)
    attention = np.broadcast_to(1 / (rank + 1), (len(images), top_k))
    positions = np.broadcast_to(np.stack([rank, rank + 0.5], axis=1), (len(images), top_k, 2))
    found = {"descriptors": vectors, "attention": attention, "positions": positions, "scales": np.ones_like(attention)}
    if rows is None:
        return found
    padding = rank >= np.minimum(images.mean(axis=(1, 2, 3)).astype(int), rows)[:, None]
    for name, value in found.items():
        found[name] = value = value.copy()
        value[padding] = 0 if name == "attention" else np.nan
    return found


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


# ---- the driver


class Driver:
    """The library of the driver, with the functions that are asked which GPUs there are; all are alike."""

    def __init__(self, name="NVIDIA H200", capability=(9, 0), count=1, status=0):
        self.name, self.capability, self.count, self.status = name, capability, count, status

    def cuInit(self, flags):
        return self.status

    def cuDeviceGetCount(self, count):
        count._obj.value = self.count
        return 0

    def cuDeviceGet(self, device, ordinal):
        device._obj.value = ordinal
        return 0

    def cuDeviceGetName(self, name, length, device):
        name.value = self.name.encode()
        return 0

    def cuDeviceTotalMem_v2(self, size, device):
        size._obj.value = 141 << 30
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = self.capability[attribute - 75]
        return 0


def install(monkeypatch, this_module, *, missing=False, **gpu):
    """Put the stand-ins in place of the real packages and of the driver for one test."""
    monkeypatch.setitem(sys.modules, "tensorrt", this_module)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", MACHINE.module())
    monkeypatch.setattr("ctxdeploy.core.device._driver", lambda: None if missing else Driver(**gpu))
    monkeypatch.setattr(this_module, "REGISTRY", IPluginRegistry())
    MACHINE.devices = gpu.get("count", 1)
