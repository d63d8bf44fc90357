"""Memory and energy that a process, or the machine, has used."""

import sys
from pathlib import Path
from typing import Any

_POWERCAP = Path("/sys/class/powercap")


def peak_memory() -> int | None:
    """Return the most bytes that this process itself has had resident, mapped files included.

    ``getrusage`` of a child begins at its parent's peak; Linux's ``VmHWM`` does not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        peaks = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        if peaks:
            return 1024 * int(peaks[0])
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def own_memory() -> int | None:
    """Return the bytes of memory of this process that are no mapped file; None where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    found = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("RssAnon")]
    return 1024 * int(found[0]) if found else None


class GpuMemory:
    """The memory that a GPU engine takes: what was free before it was loaded, less what is free now.

    Args:
        backend: name of the engine; nothing is tried for those of the CPU.
    """

    def __init__(self, backend: str) -> None:
        self._free = None if not backend.startswith("tensorrt") else _free_on_gpu()

    def used(self) -> int | None:
        """Return bytes; None for an engine of the CPU, where nothing was tried."""
        return None if self._free is None else max(self._free - _free_on_gpu(), 0)


def _free_on_gpu() -> int:
    from ctxdeploy.runtime.backends import Cuda

    return int(Cuda("gpu").call("cudaMemGetInfo"))


class Energy:
    """The processors' own counters of energy (RAPL), where the system lets this process read them.

    Args:
        folder: of the power capping framework.
    """

    def __init__(self, folder: Path = _POWERCAP) -> None:
        self._zones: list[tuple[Path, int]] = []
        for zone in sorted(folder.glob("intel-rapl:*")):
            if zone.name.count(":") != 1:  # parts of a package are counted in it
                continue
            try:
                int((zone / "energy_uj").read_text())
                self._zones.append((zone / "energy_uj", int((zone / "max_energy_range_uj").read_text())))
            except (OSError, ValueError):
                continue

    def __bool__(self) -> bool:
        return bool(self._zones)

    def read(self) -> list[int]:
        """Return the counters, in microjoules."""
        return [int(path.read_text()) for path, _ in self._zones]

    def joules(self, before: list[int], after: list[int]) -> float | None:
        """Return the energy of all packages between two readings, less than a turn of the counter apart."""
        if not self._zones:
            return None
        pairs = zip(before, after, self._zones, strict=True)
        return sum((end - start) % (most + 1) for start, end, (_, most) in pairs) / 1e6


def memory_facts(gpu: GpuMemory | None) -> dict[str, Any]:
    """Return this process's memory in bytes as a result holds it."""
    return {"peak": peak_memory(), "own": own_memory(), "gpu": None if gpu is None else gpu.used()}
