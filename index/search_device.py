"""Where a process searches the states of an archive that it opens one after the other."""

from typing import Protocol

from ctxdeploy.core.device import CUDA, Device
from ctxdeploy.core.errors import BackendError
from ctxdeploy.core.progress import announce

FLAG = "--search-device"


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
