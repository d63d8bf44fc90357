"""TensorRT and TensorRT-RTX on an NVIDIA GPU: engines that ``ctxdeploy build`` made for it.

    photos ─ slot: page-locked memory ═ copies up ─┐               ┌─ copies down: attention, then the rows there are
                                                   └ lane: computes ┘

Three slots and two lanes: while one batch is computed, the next is copied up, the one before is copied down, and the
lane beside it fills what the tail of a batch leaves of the chip.
"""

import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.bundle import Artefact, Bundle
from ctxdeploy.core.device import find_gpu
from ctxdeploy.core.engines import EngineKey, Machine, check_key, import_package
from ctxdeploy.core.errors import BackendError, CtxdeployError
from ctxdeploy.core.profiles import Shape
from ctxdeploy.core.targets import TARGETS, label_of
from ctxdeploy.core.text import printable
from ctxdeploy.runtime.backends.base import Backend, Pending, Photos
from ctxdeploy.runtime.backends.config import BackendConfig
from ctxdeploy.runtime.backends.cuda import Cuda
from ctxdeploy.runtime.backends.engine import Engine
from ctxdeploy.runtime.backends.lane import Lane
from ctxdeploy.runtime.backends.ring import Slot

SLOTS, LANES = 3, 2


class TensorRtBackend(Backend):
    """An engine with the slots and lanes that batches go through."""

    in_flight = SLOTS

    def __init__(self, bundle: Bundle, config: BackendConfig) -> None:
        super().__init__(bundle)
        target = self.name = config.engine
        artefact = _engine_of(bundle, target, config.precision)
        package = import_package(target)
        gpu = find_gpu(config.gpu)
        self.version = str(package.__version__)
        here = Machine(target=target, version=self.version, gpu=gpu)
        check_key(artefact.details, here, precision=artefact.precision, bundle=printable(str(bundle.path)))
        key = EngineKey.parse(artefact.details["key"])
        if key.plugins:
            raise BackendError(
                f"the engine needs plug-in libraries ({', '.join(key.plugins)}), which are not loaded any more: "
                "build it anew"
            )
        self._cuda = Cuda(TARGETS[target].extra, config.gpu)
        self._cuda.use()
        self._engine = Engine(package, bundle.file(artefact), key, self.outputs, graphs=config.cuda_graphs)
        self._lanes = [Lane(self._cuda, self._engine) for _ in range(LANES)]
        self._by_age = list(self._lanes)
        self._slots = [Slot(self._cuda, number, self.outputs) for number in range(SLOTS)]
        weakref.finalize(self, _release, self._cuda, self._lanes, self._slots)
        self.device = f"GPU: {gpu.label}"
        self.precision = artefact.precision
        self.threads = None
        # What the engine is tuned for.
        self.fitting_batch = self._engine.profiles[0].typical[0]

    def _start(self, photos: Photos) -> Pending:
        check = self.limits.watch()
        height, width, channels = photos[0].shape
        shape = (len(photos), height, width, channels)
        self._engine.profile_for(shape)  # what no profile holds is refused before anything is copied
        self._cuda.use()
        slot = next((slot for slot in self._slots if slot.is_free), None)
        if slot is None:
            raise BackendError(f"{SLOTS} runs are under way, and no more can be: take their results first")
        # After Ctrl-C a run may have been left before its end.
        self._cuda.finish(slot.mark(), check)
        lane = self._next_lane()
        slot.is_free = False
        try:
            self._put(photos, shape, slot, lane, check)
        except BaseException:
            with suppress(RuntimeError):  # the GPU is gone
                self._cuda.synchronise(lane.stream)
                self._cuda.synchronise(slot.stream)
            slot.is_free = True
            raise
        return _UnderWay(self._cuda, slot, check)

    def _next_lane(self) -> Lane:
        """Return the first lane that computes nothing, else the one that was given work longest ago."""
        lane = next((lane for lane in self._lanes if self._cuda.is_done(lane.done)), self._by_age[0])
        self._by_age.remove(lane)
        self._by_age.append(lane)
        return lane

    def _put(self, photos: Photos, shape: Shape, slot: Slot, lane: Lane, check: Callable[[], None]) -> None:
        """Put a batch on the streams of its slot and its lane."""
        uploaded = slot.upload(photos)
        work = lane.captured(shape, slot.number, slot.addresses)
        if work is None:
            # No context is touched while it runs. The other lane computes meanwhile.
            self._cuda.finish(lane.done, check)
            work = lane.prepare(shape, slot.number)
            slot.reserve(work.outputs)
            lane.address(work, slot.addresses)
        lane.launch(work, uploaded)
        slot.fetch(lane.done, work.outputs)
        lane.remember(work, slot.number)


class _UnderWay:
    """A batch in a slot."""

    def __init__(self, cuda: Cuda, slot: Slot, check: Callable[[], None]) -> None:
        self._cuda, self._slot, self._check = cuda, slot, check

    def wait(self) -> None:
        with suppress(CtxdeployError, RuntimeError):  # for who asks for the arrays
            self._cuda.use()
            self._cuda.finish(self._slot.fetched, self._check)

    def arrays(self) -> list[NDArray[np.float32]]:
        self._cuda.use()
        self._cuda.finish(self._slot.fetched, self._check)
        rows = self._slot.fetch_rows()
        self._cuda.finish(self._slot.fetched, self._check)
        return self._slot.arrays(rows)

    def close(self) -> None:
        # Whoever takes the slot next waits for what is under way in it.
        self._slot.is_free = True
        self._cuda.use()
        self._cuda.finish(self._slot.fetched, lambda: None)


def _release(cuda: Cuda, lanes: Sequence[Lane], slots: Sequence[Slot]) -> None:
    """Give everything back once nothing is under way; nothing is said of a GPU that is gone."""
    with suppress(RuntimeError):
        cuda.use()
        for stream in (*(lane.stream for lane in lanes), *(slot.stream for slot in slots)):
            cuda.synchronise(stream)
    for lane in lanes:
        lane.close()
    for slot in slots:
        slot.close()


def _engine_of(bundle: Bundle, target: str, precision: str) -> Artefact:
    for artefact in bundle.artefacts:
        if (artefact.format, artefact.target, artefact.precision) == ("engine", target, precision):
            return artefact
    raise BackendError(
        f"{bundle.path} has no {label_of(target)} engine of {precision}: "
        f"run  ctxdeploy build {printable(str(bundle.path))} --target {target} --precision {precision}"
    )
