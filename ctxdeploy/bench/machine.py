"""The machine and the software that a measurement belongs to, and what memory and energy it took."""

import hashlib
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ctxdeploy.core.cpu import available_processors
from ctxdeploy.core.errors import BackendError
from ctxdeploy.core.files import settings_sha256
from ctxdeploy.core.targets import CPU_TARGETS

PACKAGES = (
    "ctxdeploy", "numpy", "numba", "llvmlite", "pillow", "simplejpeg", "onnxruntime", "onnxruntime-gpu", "openvino",
    "onnx", "tensorrt", "tensorrt-rtx", "cuda-bindings", "numba-cuda", "torch", "asmk", "faiss-cpu", "faiss-gpu",
)  # fmt: skip
# Named beside the figures of the scripts of `benchmarks/`.
SCRIPT_PACKAGES = (
    "ctxdeploy", "numpy", "numba", "llvmlite", "asmk", "faiss-cpu", "onnxruntime", "openvino", "torch",
)  # fmt: skip
# What decides how libraries compute: OPENBLAS_CORETYPE of an older core halves faiss, the others set threads and loops.
VARIABLES = (
    "OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "OMP_WAIT_POLICY", "KMP_AFFINITY", "KMP_BLOCKTIME",
    "GOMP_CPU_AFFINITY", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE", "NUMBA_NUM_THREADS",
    "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_DISABLE_JIT", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA",
    "MALLOC_ARENA_MAX", "LD_PRELOAD", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
# Parts of the package that a checkout has beside ``ctxdeploy/``, an installed copy in it.
_PARTS = ("export", "index", "runtime")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_POWERCAP = Path("/sys/class/powercap")


def machine() -> dict[str, Any]:
    """Return what the hardware is and how it is set up; results of two machines are not compared.

    The processor, its vector flags by name and a hash of all flags, the processors that this process may use, memory,
    frequency governor, huge pages, system. A fact that the system does not tell is None.
    """
    facts = _cpuinfo()
    flags = sorted(set(facts.get("flags", facts.get("Features", "")).split()))
    vector = [flag for flag in flags if flag.startswith(("avx", "amx", "fma", "asimd", "sve", "vnni", "sse4"))]
    return {
        "processor": facts.get("model name") or platform.processor() or platform.machine(),
        "microcode": facts.get("microcode"),
        "vector_flags": vector,
        "flags_sha256": hashlib.sha256(" ".join(flags).encode()).hexdigest()[:16] if flags else None,
        "processors": available_processors(),
        "memory_bytes": _memory(),
        "governor": _line(_GOVERNOR),
        "huge_pages": _line(_HUGE_PAGES),
        "system": f"{platform.system()} {platform.machine()}",
    }


def software() -> dict[str, Any]:
    """Return versions, the hash of our own code, and variables that matter."""
    return {
        "python": platform.python_version(),
        "versions": versions(PACKAGES),
        "code_sha256": code_hash(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def provenance() -> dict[str, Any]:
    """Return date, commit, processor, versions, as the scripts of ``benchmarks/`` write them beside their figures."""
    facts = machine()
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "processor": facts["processor"],
        "processors": facts["processors"],
        "load_average": load(),
        "vector_popcount": "avx512_vpopcntdq" in facts["vector_flags"],
        "python": platform.python_version(),
        "versions": versions(SCRIPT_PACKAGES),
    }


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def load() -> float | None:
    """Return the load average of the last minute; None where the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def code_hash() -> str:
    """Return the hex sha256 of the package's sources: two runs of one version under work are told apart.

    The same in a checkout, whose root is a second folder of the package, and in an installed copy.
    """
    import ctxdeploy

    root = Path(ctxdeploy.__file__).parent
    hashes = _hashes(root, {path for path in root.rglob("*.py") if path.relative_to(root).parts[0] not in _PARTS})
    for part in _PARTS:
        spec = find_spec(f"ctxdeploy.{part}")
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            hashes |= _hashes(Path(folder).parent, set(Path(folder).rglob("*.py")))
    return settings_sha256(hashes)


def _hashes(root: Path, paths: set[Path]) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def commit() -> str | None:
    """Return the commit that our code lies in, if it is a git checkout.

    It decides nothing beside the hash of the code: a result that is itself tracked makes the checkout dirty.
    """
    import ctxdeploy

    folder = Path(ctxdeploy.__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def peak_memory() -> int | None:
    """Return the peak of this process's resident memory in bytes, mapped files included; None where it is not known.

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
    """Return the resident bytes of this process that are not mapped files; None where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    found = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("RssAnon")]
    return 1024 * int(found[0]) if found else None


class GpuMemory:
    """The memory that a GPU engine takes: what was free before it was loaded, less what is free now.

    Args:
        backend: name of the engine; nothing is tried for those of the CPU.
        device: number of the GPU.
    """

    def __init__(self, backend: str, device: int = 0) -> None:
        self._device = device
        self._free = None if backend in CPU_TARGETS else self._free_now()

    def used(self) -> int | None:
        """Return bytes; None for an engine of the CPU, where nothing was tried."""
        return None if self._free is None else max(self._free - self._free_now(), 0)

    def _free_now(self) -> int:
        from ctxdeploy.runtime.backends import Cuda

        cuda = Cuda("cuda", self._device)
        try:
            cuda.use()
            return int(cuda.call("cudaMemGetInfo"))
        except RuntimeError as error:
            raise BackendError(f"the GPU's memory cannot be asked for: {error}: check  nvidia-smi") from error


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
        return sum((end - start) % (wraps + 1) for start, end, (_, wraps) in pairs) / 1e6


def memory_facts(gpu: GpuMemory | None) -> dict[str, Any]:
    """Return this process's memory in bytes as a result holds it."""
    return {"peak": peak_memory(), "own": own_memory(), "gpu": None if gpu is None else gpu.used()}


def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    lines = [line.partition(":") for line in path.read_text(errors="replace").splitlines() if ":" in line]
    return {name.strip(): value.strip() for name, _, value in reversed(lines)}


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _line(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None
