"""Descriptors of the photos that train a codebook, kept on disk until they are in the archive.

A first run extracts a sample of photos, trains the codebook, and then indexes everything. The sample's descriptors are
indexed from here, so that no photo goes through the network twice, also when the run is interrupted and started again.
One safetensors file per photo, written under another name and renamed: a file is complete or absent.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import StorageError
from ctxdeploy.core.files import settings_sha256, storing
from ctxdeploy.core.text import name_bytes
from ctxdeploy.core.types import FileState, GlobalDescriptor, LocalDescriptors, PhotoDescriptors

_TENSORS = ("vectors", "attention", "positions", "scales")
_GLOBAL = "global"  # of networks that give a global descriptor
_MAX_HEADER = 1 << 20
# What reading a file may raise that is absent, or was cut.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


class DescriptorCache:
    """The folder ``<archive>.training``; it comes into being when there is something to keep.

    Args:
        folder: where.
        key: what decides the descriptors (model, preprocessing). What other keys left there is not touched.
    """

    def __init__(self, folder: Path, key: dict[str, str]) -> None:
        self._root = folder
        self._folder = folder / settings_sha256(key)[:16]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from filling the cache; what is in it stays.

        Raises:
            ArchiveError: another process fills it.
            StorageError: the folder cannot be written.
        """
        from ctxdeploy.core.locks import WriterLock

        self._make()
        lock = WriterLock(self._root, needed=False)
        try:
            yield
        finally:
            with suppress(OSError):  # a folder that cannot be looked into any more must not hide what led here
                self._remove_if_empty()
            lock.release()

    def put(self, photo: PhotoDescriptors) -> None:
        """Keep a photo's descriptors."""
        from safetensors.numpy import save

        from ctxdeploy.core.files import write_file

        facts = {"name": json.dumps(photo.name), "remark": photo.remark, **_facts(photo.file)}
        if photo.size is not None:
            facts["pixels"] = json.dumps(photo.size)
        path = self._path(photo.name)
        descriptors = photo.descriptors
        arrays = {
            "vectors": descriptors.vectors,
            "attention": descriptors.attention,
            "positions": descriptors.positions,
            "scales": descriptors.scales,
        }
        if photo.global_descriptor is not None:
            arrays[_GLOBAL] = photo.global_descriptor.vector
        write_file(path, [save(arrays, facts)])

    def has(self, name: str, file: FileState | None) -> bool:
        """Return whether ``get`` would return something; reads no descriptors."""
        try:
            with self._path(name).open("rb") as kept:
                facts: dict[str, str] = _header(kept)["__metadata__"]
            return _facts(file).items() <= facts.items()
        except _DAMAGE:
            return False

    def get(self, name: str, file: FileState | None) -> PhotoDescriptors | None:
        """Return a photo's descriptors; None if there are none, or its file has changed since.

        Args:
            name: of the photo.
            file: its state now; None where it cannot be told.
        """
        photo = _read(self._path(name))
        return photo if photo is not None and photo.file == file else None

    def discard(self, name: str) -> None:
        """Delete a photo's descriptors, if there are any."""
        path = self._path(name)
        with storing(path):
            path.unlink(missing_ok=True)

    def photos(self, names: Set[str]) -> Iterator[PhotoDescriptors]:
        """Yield those photos that are there, in an order that depends on their names alone."""
        for name in sorted(names):
            photo = _read(self._path(name))
            if photo is not None:
                yield photo

    def scales(self, names: Set[str]) -> Iterator[NDArray[np.float32]]:
        """As ``photos``, but only the scales of their descriptors."""
        for name in sorted(names):
            try:
                with self._path(name).open("rb") as file:
                    begin, end = _header(file)["scales"]["data_offsets"]
                    file.seek(begin, os.SEEK_CUR)
                    scales = np.frombuffer(file.read(end - begin), np.float32)
            except _DAMAGE:
                continue
            yield scales

    def remove(self) -> None:
        """Delete the descriptors."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._remove_if_empty()

    def _make(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self._root} cannot be made: {error.strerror or error}; choose another -o") from error

    def _remove_if_empty(self) -> None:
        if not self._root.is_dir() or any(self._root.glob("*/*")):
            return
        shutil.rmtree(self._root, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{hashlib.sha256(name_bytes(name)).hexdigest()[:32]}.safetensors"


def _facts(file: FileState | None) -> dict[str, str]:
    """Return a file's state as it is written: -1 where it is not known."""
    size, mtime_ns = (-1, -1) if file is None else (file.size, file.mtime_ns)
    return {"size": str(size), "mtime_ns": str(mtime_ns)}


def _pixels(text: str | None) -> tuple[int, int] | None:
    """Return width and height as they were written; None where an earlier version wrote none."""
    if text is None:
        return None
    width, height = json.loads(text)
    return int(width), int(height)


def _header(file: BinaryIO) -> dict[str, Any]:
    """Return what a safetensors file says of itself, and leave the file where its tensors begin."""
    length = int.from_bytes(file.read(8), "little")
    if length > _MAX_HEADER:
        raise ValueError(f"a header of {length} bytes")
    header: dict[str, Any] = json.loads(file.read(length))
    given = (*_TENSORS, *((_GLOBAL,) if _GLOBAL in header else ()))
    end = max(header[name]["data_offsets"][1] for name in given)
    if file.seek(0, os.SEEK_END) != 8 + length + end:
        raise ValueError("the file was cut")
    file.seek(8 + length)
    return header


def _read(path: Path) -> PhotoDescriptors | None:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        data = path.read_bytes()  # not mapped, which some file systems cannot do
        facts = _header(io.BytesIO(data))["__metadata__"]
        tensors = load(data)
        arrays = {key: tensors[key] for key in _TENSORS}
        state = FileState(size=int(facts["size"]), mtime_ns=int(facts["mtime_ns"]))
        return PhotoDescriptors(
            name=json.loads(facts["name"]),
            descriptors=LocalDescriptors(**arrays),
            global_descriptor=GlobalDescriptor(vector=tensors[_GLOBAL]) if _GLOBAL in tensors else None,
            size=_pixels(facts.get("pixels")),
            file=None if state.size < 0 else state,
            remark=facts.get("remark", ""),
        )
    except (*_DAMAGE, SafetensorError):  # absent, or damaged: extract it again
        return None
