"""Progress of a build, and Ctrl-C while it runs."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ctxdeploy.core.errors import StorageError
from ctxdeploy.core.files import write_file
from ctxdeploy.core.progress import Display

if TYPE_CHECKING:
    import tensorrt as trt


Show = Callable[[int, int], None]
Result = TypeVar("Result")

# Python acts on Ctrl-C only between two of its own instructions, and none must be raised in a call from C++: builds run
# in a thread of their own, and the main thread looks this often.
_POLL_SECONDS = 0.1
# The bar counts per cent: a phase fills one step of its parent.
_BAR = 100


def make_monitor(trt: Any, show: Show) -> Any:
    """Return a progress monitor.

    Args:
        trt: the package.
        show: called with done and total, never with less than before; phases lie in one another and come from any
            thread.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled = False
            self.failure: BaseException | None = None
            self._phases: dict[str, tuple[str | None, int, int]] = {}  # parent, steps, steps done
            self._shown = 0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._phases[phase_name] = (parent_phase, max(num_steps, 1), 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._phases:
                parent, steps, _ = self._phases[phase_name]
                self._phases[phase_name] = (parent, steps, min(step + 1, steps))
            self._update(phase_name)
            return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            parent, _, _ = self._phases.pop(phase_name, (None, 1, 0))
            if parent is None and not self.cancelled and not self._phases:
                self._advance(_BAR)

        def _update(self, phase: str | None) -> None:
            share = 0.0
            while phase is not None and phase in self._phases:
                parent, steps, done = self._phases[phase]
                share, phase = min((done + share) / steps, 1.0), parent
            self._advance(int(share * _BAR))

        def _advance(self, done: int) -> None:
            if done <= self._shown:
                return
            self._shown = done
            try:
                show(done, _BAR)
            except BaseException as error:  # an exception must not travel through C++
                self.failure = self.failure or error
                self.cancelled = True

    return Monitor()


def run_cancellable(work: Callable[[], Result], monitor: Any) -> Result:
    """Return what ``work`` returns; on Ctrl-C the build ends at its next step, and ``KeyboardInterrupt`` is raised."""
    with ThreadPoolExecutor(1, thread_name_prefix="ctxdeploy-build") as executor:
        future = executor.submit(work)
        try:
            while not wait([future], _POLL_SECONDS).done:
                pass
        except BaseException:
            monitor.cancelled = True
            raise
        if monitor.failure is not None:
            raise monitor.failure
        return future.result()


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
    write_file(path, [bytes(config.get_timing_cache().serialize())], advice="choose another --timing-cache")
