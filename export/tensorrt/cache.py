"""The timing cache: seconds that each layer took on this GPU, kept in a file between builds."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.core.errors import StorageError
from ctxdeploy.core.progress import Display

if TYPE_CHECKING:
    import tensorrt as trt


def load_cache(config: "trt.IBuilderConfig", path: Path, display: Display) -> "trt.ITimingCache":
    """Set the cache of a file for a build; an empty one where the file is missing, damaged, or of another machine.

    Returns:
        The cache, which must live until the build has ended.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    except OSError as error:
        raise StorageError(f"timing cache {path} cannot be read: {error.strerror or error}") from error
    if data:
        kept = _offered(config, data)
        if kept is not None:
            return kept
        display.say(f"timing cache {path} is damaged, or of another GPU or version: starting a new one")
    cache = config.create_timing_cache(b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _offered(config: "trt.IBuilderConfig", data: bytes) -> Any:
    """Return the cache of some bytes if the build takes it, else None."""
    try:
        cache = config.create_timing_cache(data)
    except (RuntimeError, TypeError):  # TypeError: the native factory gave null
        return None
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        return None
    return cache


def save_cache(config: "trt.IBuilderConfig", path: Path) -> None:
    """Write a build's cache to a file, which is the old one or the new one at any time."""
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        partial.write_bytes(config.get_timing_cache().serialize())
        partial.replace(path)
    except OSError as error:
        raise StorageError(f"timing cache {path} cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
