"""A stand-in for ``onnxruntime-gpu``: its sessions compute with the real package on the CPU, late, on a stream.

What goes in is read, and what comes out is written, at addresses of the "GPU" of ``fake_cuda``, when its stream gets
there, and one after the other: so whoever reads too early, or uses memory again too early, gets wrong numbers.

    machine = load_reference("fake_cuda").Machine(seed)
    runtime = load_reference("fake_onnxruntime").install(monkeypatch, machine)
"""

import importlib
import sys
import threading
import time
import weakref
from types import ModuleType

import numpy as np

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
real = importlib.import_module("onnxruntime")


class Runtime:
    """The package, for a ``fake_cuda.Machine``.

    Attributes:
        providers: of the package.
        in_force: provider that every session gets, whatever was asked for.
        on_cpu: operators that sessions assign to the CPU.
        is_early: whether runs return before they are computed.
        is_stuck: whether runs wait within the network until they are terminated.
        stuck: set when one does.
        failures: messages by the number of a run, which fails with it half way.
        refusal: message with which sessions cannot be made.
        said: what ``preload_dlls`` prints.
        sessions: those that are alive.
        options: of the CUDA provider, of each session that was made.
        runs: so many have begun.
    """

    def __init__(self, machine):
        self.machine = machine
        self.providers, self.in_force, self.on_cpu = [CUDA, CPU], CUDA, ("Shape", "Concat")
        self.is_early = self.is_stuck = False
        self.stuck = threading.Event()
        self.failures, self.refusal, self.said = {}, "", ""
        self.sessions, self.options, self.runs = weakref.WeakSet(), [], 0

    def module(self):
        """Return the module."""
        module = ModuleType("onnxruntime")
        module.__version__ = "1.32.0"
        module.SessionOptions, module.RunOptions = real.SessionOptions, real.RunOptions
        module.get_available_providers = lambda: list(self.providers)
        module.preload_dlls = self.preload_dlls
        module.InferenceSession = self.make_session
        return module

    def make_session(self, path_or_bytes, sess_options=None, providers=None, provider_options=None, **kwargs):
        """Return a session, on the CPU a real one."""
        if CUDA not in providers:
            return real.InferenceSession(path_or_bytes, sess_options, providers, provider_options, **kwargs)
        assert kwargs == {"enable_fallback": 0}
        return Session(self, path_or_bytes, sess_options, providers, provider_options)

    def preload_dlls(self, cuda=True, cudnn=True, msvc=True, directory=None):
        """Print what is missing."""
        print(self.said)


def install(patch, machine):
    """Put a machine, its driver and this package in place of the real ones for one test; return the package."""
    from ctxdeploy.core.device import Gpu
    from ctxdeploy.runtime.backends import onnxruntime_cuda

    runtime = Runtime(machine)
    patch.setitem(sys.modules, "cuda.bindings.runtime", machine.module())
    patch.setitem(sys.modules, "onnxruntime", runtime.module())
    gpu = Gpu(name="NVIDIA H200", capability=(9, 0), memory=141 << 30)
    patch.setattr(onnxruntime_cuda, "find_gpu", lambda number: gpu)
    return runtime


class Session:
    def __init__(self, runtime, path_or_bytes, sess_options, providers, provider_options):
        if runtime.refusal:
            raise RuntimeError(runtime.refusal)
        assert list(providers) == [CUDA, CPU] and provider_options[1] == {}
        assert sess_options.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"
        self._real = real.InferenceSession(path_or_bytes, sess_options, providers=[CPU])
        self._runtime, self._options = runtime, provider_options[0]
        runtime.options.append(self._options)
        runtime.sessions.add(self)

    def get_providers(self):
        return [CUDA, CPU] if self._runtime.in_force == CUDA else [self._runtime.in_force]

    def get_provider_graph_assignment_info(self):
        parts = [(CPU, name) for name in self._runtime.on_cpu] + [(CUDA, name) for name in ("Conv", "TopK")]
        return [Part(ep_name, [Node(name)]) for ep_name, name in parts]

    def io_binding(self):
        return IOBinding(self)

    def run_with_iobinding(self, iobinding, run_options=None):
        runtime, machine, stream = self._runtime, self._runtime.machine, int(self._options["user_compute_stream"])
        assert iobinding.session is self
        number, runtime.runs = runtime.runs, runtime.runs + 1
        found = {}

        def read():
            (name, place), *others = iobinding.inputs.items()
            assert not others
            images = place.array(machine)
            found.update(zip(iobinding.outputs, self._real.run(list(iobinding.outputs), {name: images}), strict=True))

        def write(name):
            iobinding.outputs[name].array(machine)[...] = found[name]

        self._put(stream, read)
        for done, name in enumerate(iobinding.outputs):
            while runtime.is_stuck and not run_options.terminate:
                runtime.stuck.set()
                time.sleep(0.01)
            if run_options.terminate:
                raise RuntimeError("Exiting due to terminate flag being set to true.")
            if number in runtime.failures and done == 1:
                raise RuntimeError(runtime.failures[number])
            self._put(stream, lambda name=name: write(name))
        while not runtime.is_early and machine.streams[stream].waiting:
            with machine._lock:
                machine.step()
        if machine.failure is not None:
            raise machine.failure

    def _put(self, stream, function):
        machine = self._runtime.machine
        with machine._lock:
            machine.submit(stream, function)


class Node:
    def __init__(self, op_type):
        self.name, self.op_type, self.domain = "", op_type, ""


class Part:
    def __init__(self, ep_name, nodes):
        self.ep_name, self._nodes = ep_name, nodes

    def get_nodes(self):
        return self._nodes


class Place:
    """Memory of the GPU with a type and a shape."""

    def __init__(self, device_type, device_id, element_type, shape, buffer_ptr):
        assert device_type == "cuda"
        self.device, self.dtype, self.shape, self.address = device_id, np.dtype(element_type), tuple(shape), buffer_ptr

    def array(self, machine):
        count = int(np.prod(self.shape)) * self.dtype.itemsize
        return machine.view(self.address, count).view(self.dtype).reshape(self.shape)


class IOBinding:
    def __init__(self, session):
        self.session, self.inputs, self.outputs = session, {}, {}

    def bind_input(self, name, device_type, device_id, element_type, shape, buffer_ptr):
        self.inputs[name] = Place(device_type, device_id, element_type, shape, buffer_ptr)

    def bind_output(self, name, device_type="cpu", device_id=0, element_type=None, shape=None, buffer_ptr=None):
        self.outputs[name] = Place(device_type, device_id, element_type, shape, buffer_ptr)
