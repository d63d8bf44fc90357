"""The state of a run on disk: everything that its next step depends on, replaced as a whole."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.core.errors import CheckpointError, ConfigError, StorageError
from ctxdeploy.export import save_checkpoint

if TYPE_CHECKING:
    from ctxdeploy.export.networks import DenseNetwork

FORMAT = "ctxdeploy-training/1"
_LOCK = "LOCK"


def save_state(path: Path, content: dict[str, Any]) -> None:
    """Write a state beside the old one, then replace that: a crash leaves either.

    Raises:
        StorageError: the file cannot be written.
    """
    import torch

    _replace(path, lambda part: torch.save({"format": FORMAT, **content}, part))


def save_model(network: "DenseNetwork", path: Path, *, image_size: int) -> None:
    """Write a checkpoint in place of the one that is there: whole, or not at all.

    Raises:
        StorageError: the file cannot be written.
    """
    _replace(path, lambda part: save_checkpoint(network, part, image_size=image_size))


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    # PyTorch writes the name without its suffix into the file: equal weights give equal bytes.
    part = path.with_suffix(".part")
    try:
        write(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, RuntimeError) as error:  # torch says RuntimeError for a full disk
        part.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written: {error}") from error


def load_state(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Return the state of a run, None if there is none.

    Args:
        path: the file.
        identity: what must be the same in the state: network, configuration, data.

    Raises:
        CheckpointError: the file is damaged or no state of a training.
        ConfigError: it is that of another training.
    """
    import torch

    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch documents no closed set of exceptions for files that are not its own
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}): delete it to start again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no state of a training that is known here: delete it to start again")
    for name, value in identity.items():
        if content.get(name) != value:
            raise ConfigError(
                f"{path.parent} holds a training with another {name}: choose another folder, or delete it to start "
                f"again ({_difference(content.get(name), value)})"
            )
    return content


def _difference(old: Any, new: Any) -> str:
    """Return the first setting that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *new]:
            if old.get(key) != new.get(key):
                return f"{key}: {_difference(old.get(key), new.get(key))}"
    return f"{old!r} there, {new!r} here"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a folder; the kernel drops the lock with the process.

    Raises:
        StorageError: another process trains there, or the folder cannot be written.
    """
    path = folder / _LOCK
    try:
        file = path.open("a")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(
                f"another process trains in {folder}: wait until it ends, or choose another folder"
            ) from error
        yield
