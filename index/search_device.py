"""Where a process searches the states of an archive that it opens one after the other."""

from dataclasses import dataclass
from typing import Any, Protocol

from ctxdeploy.core.device import CPU, CUDA, Device, gpu_present
from ctxdeploy.core.errors import BackendError
from ctxdeploy.core.progress import announce

FLAG = "--search-device"


@dataclass(frozen=True, kw_only=True)
class SearchPlace:
    """Where an opened state of an archive is searched.

    Attributes:
        device: that compares postings: ``cpu``, such as ``cuda:0``, or ``servers`` of the shards.
        threads: of this process. They assign and verify, and compare postings where nothing else does.
        gpu: model and compute capability of the GPU that compares postings; None where none does.
    """

    device: str
    threads: int
    gpu: str | None = None

    @classmethod
    def of(cls, device: str, threads: int) -> "SearchPlace":
        """Return the place of a device by what ``Searcher.device`` calls it."""
        found = gpu_present(Device.parse(device).number) if device.startswith(CUDA) else None
        return cls(device=device, threads=threads, gpu=None if found is None else found.label)

    @property
    def label(self) -> str:
        """Return it in words."""
        own = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        if self.device == CPU:
            return f"the CPU, {own}"
        which = self.device if self.gpu is None else f"{self.device} ({self.gpu})"
        return f"{which}, and {own} of the CPU for what is not done there"

    def metadata(self) -> dict[str, Any]:
        """Return it as JSON takes it, and as it is made of that again."""
        return {"device": self.device, "threads": self.threads, "gpu": self.gpu}


class Movable(Protocol):
    """An archive that can be searched elsewhere, such as an ``Index``."""

    def search_on(self, device: Device) -> None:
        """Search there from now on; see ``Reader``."""


class SearchDevice:
    """The CPU, or a GPU.

    The first state that is opened has to fit there. A later one that does not, while the former is still in use, is
    searched on the CPU: an archive that grows is answered from in any case.

    Args:
        text: ``cpu``, ``cuda`` (the first GPU) or ``cuda:N``; ``auto`` is the CPU, for a GPU has to hold all postings.

    Raises:
        ConfigError: another text.
    """

    def __init__(self, text: str) -> None:
        self._device = Device.parse(text, FLAG)
        self._is_used = False

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self._device.kind == CUDA

    def take(self, index: Movable) -> None:
        """Have an archive searched there; errors as ``Reader.search_on``."""
        if not self.is_gpu:
            return
        try:
            index.search_on(self._device)
        except BackendError as error:
            if not self._is_used:
                raise
            announce(f"{error}; until then the newest state is searched on the CPU, with the same hits")
        self._is_used = True
