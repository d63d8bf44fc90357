"""The state of a run on disk: everything that its next step depends on, replaced as a whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ctxdeploy.core.errors import CheckpointError, ConfigError, StorageError
from ctxdeploy.core.locks import WriterLock
from ctxdeploy.export import save_tensors

FORMAT = "ctxdeploy-training/1"


def save_state(path: Path, content: dict[str, Any]) -> None:
    """Write a state in place of the old one: a crash leaves either. Its tensors are those of a CPU, wherever they are.

    Raises:
        StorageError: the file cannot be written.
    """
    save_tensors({"format": FORMAT, **_on_cpu(content)}, path)


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
        raise CheckpointError(f"{path} is not a state of a training that is known here: delete it to start again")
    for name, value in identity.items():
        if content.get(name) != value:
            raise ConfigError(
                f"{path.parent} holds a training with another {name}: choose another folder, or delete it to start "
                f"again ({_difference(content.get(name), value)})"
            )
    return content


def _on_cpu(content: Any) -> Any:
    """Return dictionaries, lists and tuples with their tensors on the CPU."""
    import torch

    if isinstance(content, torch.Tensor):
        return content.detach().cpu()
    if isinstance(content, dict):
        return {name: _on_cpu(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(_on_cpu(value) for value in content)
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
    lock = WriterLock(folder, busy=StorageError)
    try:
        yield
    finally:
        lock.release()
