"""What this process may use: processors it may run on, no more than a container's quota of their time, and the address
space for a thread on each.

Docker's ``--cpus``, a Kubernetes CPU limit and systemd's ``CPUQuota`` leave all processors of the machine in sight and
stop a group of processes when its share of a period is used up. Engines that start a thread on every core then wait for
threads that are stopped.
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ctxdeploy.core.errors import ConfigError, OutOfMemoryError

_ROOT = Path("/")
_SIBLINGS = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def available_processors() -> int:
    """Return the processors of this process's affinity, or a quota of their time, rounded up, where it is less."""
    return min(len(_affinity()), quota_processors() or len(_affinity()))


def checked_threads(threads: int | None) -> int:
    """Return a number of threads; None stands for the processors this process may use.

    Raises:
        ConfigError: fewer than one.
    """
    if threads is None:
        return available_processors()
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ConfigError(f"{threads!r} threads: give a whole number of at least 1")
    return threads


def engine_threads(threads: int | None) -> int | None:
    """Return what an engine is told that would start a thread on every core: None leaves it to that.

    Args:
        threads: that someone asked for. If None a quota decides, rounded up to processors, where it is less than the
            cores of this process's affinity.
    """
    quota = None if threads else quota_processors()
    return threads or (quota if quota is not None and quota < _cores() else None)


# Under ulimit -v of 0.6 to 0.9 GB, on two processors, numba, the engine or its decoders could not be loaded: with
# errors that name other causes, an abort, or without an end, in a BLAS that waits for memory and hears no signal.
_LIBRARIES, _THREAD = 1 << 30, 32 << 20


def check_address_space() -> None:
    """Raise ``OutOfMemoryError`` if ``ulimit -v`` leaves no room for the libraries of a network and a search."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    needed = _LIBRARIES + _THREAD * len(_affinity())
    if limit != resource.RLIM_INFINITY and limit < needed:
        raise OutOfMemoryError(
            f"this process may map {limit >> 20:,} MiB (ulimit -v), and its libraries need {needed >> 20:,} MiB with "
            f"{len(_affinity())} processors: raise the limit, or take it away with  ulimit -v unlimited"
        )


def quota_processors(root: Path = _ROOT) -> int | None:
    """Return the least CPU quota of this process's control groups as a number of processors, rounded up, at least 1.

    Reads version 2 (``cpu.max``) and version 1 (``cpu.cfs_quota_us``), of the process's group and those above it, as
    far as they are mounted.

    Args:
        root: of the file system.

    Returns:
        None without a quota, and where the system does not tell.
    """
    try:
        groups = dict(_groups((root / "proc/self/cgroup").read_text(encoding="utf-8")))
        mounts = (root / "proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except (OSError, UnicodeError):
        return None
    shares = []
    for kind, top, place in _mounts(mounts):
        if kind in groups:
            mounted = root / place.lstrip("/")
            group = mounted / _below(groups[kind], top)
            above = [group, *group.parents]
            shares += [_share(folder) for folder in above[: above.index(mounted) + 1]]
    known = [share for share in shares if share is not None]
    return max(1, math.ceil(min(known))) if known else None


def _groups(text: str) -> Iterator[tuple[str, str]]:
    """Yield kind and path of this process's groups: version 2's, and version 1's with the controller of processors."""
    for line in text.splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if "cpu" in controllers.split(","):
            yield "cgroup", path
        elif number == "0" and not controllers:
            yield "cgroup2", path


def _mounts(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield kind, top group and place of what is mounted of either version (``proc(5)``, mountinfo)."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) < 5 or len(kinds) < 3:
            continue
        top, place = (re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field) for field in fields[3:5])
        if kinds[0] == "cgroup2" or (kinds[0] == "cgroup" and "cpu" in kinds[2].split(",")):
            yield kinds[0], top, place


def _below(path: str, top: str) -> str:
    """Return a group's path below the group that is mounted; of a group outside of it nothing is mounted."""
    try:
        return str(PurePosixPath(path).relative_to(top))
    except ValueError:
        return "."


def _share(group: Path) -> float | None:
    """Return the quota of one group in processors; None without one."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period"))
        share = float(quota) / float(period)  # "max", or -1, is none
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return share if share > 0 and math.isfinite(share) else None


def _affinity() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _cores(root: Path = _ROOT) -> int:
    """Return the cores of this process's affinity, or its processors where the system does not tell."""
    try:
        return len({(root / _SIBLINGS.format(number)).read_text(encoding="utf-8") for number in _affinity()})
    except OSError:
        return len(_affinity())
