"""Which machine this is, where it keeps what it may lose, and whether other machines may see a folder."""

import os
import socket
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_MACHINE = Path("/etc/machine-id")
_MOUNTS = Path("/proc/self/mountinfo")
# File systems that several kernels may have mounted at once. Those of FUSE are, but for a few.
_SHARED = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "ceph", "9p", "virtiofs", "gpfs", "beegfs", "afs"),
        *("ocfs2", "gfs2", "pvfs2", "panfs", "vboxsf", "hgfs", "prl_fs"),
    }
)
_LOCAL_FUSE = ("fuse.fuse-overlayfs", "fuse.mergerfs", "fuse.lxcfs", "fuse.ntfs-3g")


@dataclass(frozen=True, kw_only=True)
class Host:
    """A machine.

    Attributes:
        name: of the network.
        boot: one for each start of its kernel, which containers share; empty where the system has none.
        machine: one for each installed system; empty where there is none.
    """

    name: str
    boot: str
    machine: str


@lru_cache(maxsize=1)
def this_host() -> Host:
    """Return the machine of this process."""
    return Host(name=socket.gethostname(), boot=_line(_BOOT), machine=_line(_MACHINE))


def _line(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()[:64]
    except (OSError, ValueError):
        return ""


def user_cache() -> Path | None:
    """Return this user's folder of what ctxdeploy may lose; None where there is no home. It need not exist."""
    user = os.environ.get("XDG_CACHE_HOME") or ""
    base = Path(user) if user.startswith("/") else Path(os.path.expanduser("~")) / ".cache"  # noqa: PTH111
    return base / "ctxdeploy" if base.is_absolute() else None


def is_network_folder(folder: Path) -> bool:
    """Return whether a folder is on a file system that other machines may have mounted; False where nobody says."""
    try:
        return _is_network_device(folder.stat().st_dev)
    except OSError:
        return False


@lru_cache(maxsize=64)
def _is_network_device(device: int) -> bool:
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split(" ", 3)
        if len(fields) > 2 and fields[2] == wanted:
            return is_network_type(after.split(" ", 1)[0])
    return False


def is_network_type(name: str) -> bool:
    """Return whether file systems of a type, as the kernel calls it, are seen by several machines."""
    return name in _SHARED or (name.startswith("fuse.") and name not in _LOCAL_FUSE)
