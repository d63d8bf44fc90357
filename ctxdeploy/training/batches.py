"""Batches made ahead of the network: by a thread, or by processes where a GPU would wait for a thread.

A batch depends on its number and, in recipes with epochs, on what was drawn for it: nothing of it depends on who makes
it. Processes get the sampler once and those numbers; batches come back in order, through shared memory.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from ctxdeploy.core.errors import CtxdeployError, TrainingError
from ctxdeploy.training.features import Maps
from ctxdeploy.training.objectives import BatchSampler, Objective

# Batches that a process is ahead.
_AHEAD = 2
Key = tuple[int, NDArray[Any] | None]


class Batches(Protocol):
    """Batches in order. The first of an epoch waits for the step before it: what is in it depends on the network."""

    def take(self, number: int) -> Any:
        """Return a batch, and let those after it be made."""

    def close(self) -> None:
        """Stop making batches."""


def batches_of(objective: Objective, maps: Maps, end: int, *, workers: int, pinned: bool) -> Batches:
    """Return the batches of an objective up to a number.

    Args:
        objective: whose batches.
        maps: of the network, which epochs begin with.
        end: the number after the last.
        workers: processes that make them; 0 for a thread.
        pinned: whether processes' batches lie in memory that a GPU copies from by itself.
    """
    return ByProcesses(objective, maps, end, workers, pinned) if workers else ByThread(objective, maps, end)


class ByThread:
    """The next batch is made while the network works on this one."""

    def __init__(self, objective: Objective, maps: Maps, end: int) -> None:
        self._objective, self._maps, self._end = objective, maps, end
        self._executor = ThreadPoolExecutor(1, "batches")
        self._next: tuple[int, Future[Any]] | None = None

    def take(self, number: int) -> Any:
        """As ``Batches.take``."""
        _begin_epoch(self._objective, self._maps, number)
        if self._next is None or self._next[0] != number:
            self._next = (number, self._executor.submit(self._objective.batch, number))
        batch = self._next[1].result()
        self._next = None
        if number + 1 < self._end and self._objective.epoch(number + 1) is None:
            self._next = (number + 1, self._executor.submit(self._objective.batch, number + 1))
        return batch

    def close(self) -> None:
        """As ``Batches.close``."""
        self._executor.shutdown(wait=True, cancel_futures=True)


class ByProcesses:
    """Several batches ahead, but never beyond an epoch, are made by processes (PyTorch's ``DataLoader``)."""

    def __init__(self, objective: Objective, maps: Maps, end: int, workers: int, pinned: bool) -> None:
        self._objective, self._maps, self._end = objective, maps, end
        self._keys = _Keys()
        self._loader: DataLoader[Any] = DataLoader(
            _Made(objective.sampler),
            batch_size=None,
            sampler=self._keys,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=pinned,
            worker_init_fn=_share_memory,
            # One that is forked from a process with a GPU's context, or with threads, may hang. Those of a fork server
            # outlive a process that is killed: PyTorch's watchdog looks whether the parent is there.
            multiprocessing_context="spawn",
            prefetch_factor=_AHEAD,
            persistent_workers=True,
        )
        self._stretch: Iterator[Any] | None = None
        self._expected = -1

    def take(self, number: int) -> Any:
        """As ``Batches.take``; ``TrainingError`` if a process died."""
        if _begin_epoch(self._objective, self._maps, number) or self._expected != number:
            self._keys.of = [(n, self._objective.drawn(n)) for n in self._until_next_epoch(number)]
            self._stretch = iter(self._loader)
        self._expected = number + 1
        try:
            made = next(self._stretch)  # type: ignore[arg-type]
        except RuntimeError as error:  # PyTorch's, of a process that the kernel ended
            raise TrainingError(
                f"a process that makes batches ended ({str(error).splitlines()[0]}): give less --photo-memory, fewer "
                "--workers, or the container more shared memory"
            ) from error
        self._objective.sampler.photos.unreadable.update(made.unreadable)
        if made.error is not None:
            raise made.error
        return made.batch

    def close(self) -> None:
        """As ``Batches.close``: with the loader's last reference its processes are ended, and waited for."""
        self._stretch = None
        del self._loader

    def _until_next_epoch(self, number: int) -> Iterator[int]:
        yield number
        for later in range(number + 1, self._end):
            if self._objective.epoch(later) is not None:
                return
            yield later


def _begin_epoch(objective: Objective, maps: Maps, number: int) -> bool:
    """Begin the epoch that begins with a batch; return whether one does."""
    epoch = objective.epoch(number)
    if epoch is None:
        return False
    objective.begin_epoch(epoch, maps)
    objective.train_mode(maps.network)
    return True


class _Keys(Sampler[Key]):
    """Numbers of the batches up to the next epoch, with what was drawn for each."""

    def __init__(self) -> None:
        self.of: list[Key] = []

    def __iter__(self) -> Iterator[Key]:
        return iter(self.of)

    def __len__(self) -> int:
        return len(self.of)


@dataclass(kw_only=True)
class _Batch:
    """What a process sends back.

    Attributes:
        batch: None if it could not be made.
        unreadable: photos of the process so far that cannot be decoded, and why.
        error: what went wrong.
    """

    batch: Any
    unreadable: dict[int, str]
    error: CtxdeployError | None = None

    def pin_memory(self) -> "_Batch":
        """Move the batch to where a GPU copies from by itself; PyTorch calls this."""
        if self.batch is not None:
            self.batch = self.batch.pin_memory()
        return self


class _Made(Dataset[_Batch]):
    """Batches by number, in the process that makes them."""

    def __init__(self, sampler: BatchSampler) -> None:
        self.sampler = sampler

    def __getitem__(self, key: Key) -> _Batch:
        number, drawn = key
        unreadable = self.sampler.photos.unreadable
        try:
            return _Batch(batch=self.sampler.batch(number, drawn), unreadable=unreadable)
        except CtxdeployError as error:  # others come with the trace of the process
            return _Batch(batch=None, unreadable=unreadable, error=error)


def _share_memory(worker: int) -> None:
    """Give each process its part of the memory for decoded photos."""
    del worker
    here = get_worker_info()
    if here is not None and isinstance(here.dataset, _Made):
        here.dataset.sampler.photos.memory //= here.num_workers


def _as_it_is(made: Any) -> Any:
    return made
