"""How many processors this process may use: those it may run on, and no more than a container's quota of their time.

Docker's ``--cpus``, a Kubernetes CPU limit and systemd's ``CPUQuota`` leave all processors of the machine in sight and
stop a group of processes when its share of a period is used up. Engines that start a thread on every one of them then
wait for threads that are stopped.
"""

import math
import os
from pathlib import Path

_ROOT = Path("/")


def available_processors() -> int:
    """Return the processors of this process's affinity, or a quota of their time, rounded up, where it is less."""
    return min(_affinity(), quota_processors() or _affinity())


def quota_below_processors() -> int | None:
    """Return the quota as a number of processors, rounded up, where it is less than all that can be run on; or None."""
    quota = quota_processors()
    return quota if quota is not None and quota < _affinity() else None


def quota_processors(root: Path = _ROOT) -> int | None:
    """Return the least CPU quota of this process's control groups as a number of processors, rounded up, at least 1.

    Reads version 2 (``cpu.max``) and version 1 (``cpu.cfs_quota_us``), of the process's group and those above it. In a
    container with a namespace of its own its group is the root; without one the group's path may not be mounted, and
    the root is the container's.

    Args:
        root: of the file system.

    Returns:
        None without a quota, and where the system does not tell.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError):
        return None
    shares = []
    for line in lines:
        _, controllers, path = line.split(":", 2) if line.count(":") >= 2 else ("", "none", "/")
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mounted in (root / "sys/fs/cgroup", root / "sys/fs/cgroup" / (controllers or "unified")):
            group = mounted / path.strip("/")
            above = [group, *group.parents]
            shares += [_share(folder) for folder in above[: above.index(mounted) + 1]]
    known = [share for share in shares if share is not None]
    return max(1, math.ceil(min(known))) if known else None


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
