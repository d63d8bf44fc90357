"""Which photos of a shard are removed: ``tombstones/<sha256>.safetensors``, as of one manifest.

Tensor ``removed``: uint16, the rising numbers of the removed photos in their shard. The header names the shard.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.index.storage import format as file_format
from ctxdeploy.index.storage.manifest import TOMBSTONES, FileEntry, ShardEntry, store

FORMAT_NAME = "ctxdeploy-tombstones"
FORMAT_VERSION = 1


def write_tombstones(folder: Path, shard: ShardEntry, removed: NDArray[np.uint16]) -> FileEntry:
    """Write the removed photos of a shard, durably; ``removed`` rises."""
    facts = {"format": FORMAT_NAME, "format_version": str(FORMAT_VERSION), "shard": shard.sha256}
    return store(folder, f"{TOMBSTONES}/{{}}.safetensors", file_format.encode({"removed": removed}, facts))


def read_tombstones(folder: Path, shard: ShardEntry) -> NDArray[np.uint16]:
    """Return the rising numbers of a shard's removed photos; empty if there are none.

    Raises:
        ArchiveError: missing, damaged, of a newer format or of another shard; the text names the file and the field.
    """
    if shard.tombstones is None:
        return np.empty(0, np.uint16)
    path = folder / shard.tombstones.file
    arrays, metadata = file_format.map_file(path)
    file_format.check_version(metadata, FORMAT_NAME, (FORMAT_VERSION,), str(path))
    if metadata.get("shard") != shard.sha256:
        raise ArchiveError(f"{path} is damaged: shard is {metadata.get('shard')!r}, not {shard.sha256!r}"[:500])
    file_format.check_tensors(arrays, {"removed": ("<u2", (shard.removed,))}, str(path))
    removed = arrays["removed"]
    if bool((removed[1:] <= removed[:-1]).any()) or int(removed[-1]) >= shard.images:
        raise ArchiveError(f"{path} is damaged: removed does not rise below {shard.images}")
    return removed
