"""Machine code on disk, which is only ever a matter of speed: without it, or with what is left of it, loops compile.

numba's own cache wants a folder that it can write, even to read what is there; it is stale where a loop includes
another whose file changed; and whatever its pickles raise ends the caller. Here a loop has one file for each signature
and processor: its sha256, and what numba needs to run it again.
"""

import hashlib
import os
import secrets
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numba.core.compiler import CompileResult
from numba.core.serialize import dumps, loads

from ctxdeploy.core.progress import announce
from ctxdeploy.core.reading import open_regular
from ctxdeploy.index.kernels.folders import CACHE, Place, given_folder, places, remove_other_versions
from ctxdeploy.index.kernels.processor import PROCESSOR, target

# All remarks about compiling are one topic: a process says it once, with the cause that it met first.
_TOPIC = "compiling"
_FIRST = "compiling the loops of the index for this processor, for the first time after an installation: up to 20 s"
_MORE = (
    "compiling loops of the index that nothing has used here before, up to 20 s; all of them ahead:  ctxdeploy warm-up"
)
_SUFFIX = ".code"
_SHA256 = 32


@dataclass
class Tally:
    """What became of the loops of this process: compiled, or read; files that could not be kept."""

    compiled: int = 0
    read: int = 0
    lost: int = 0


TALLY = Tally()
_counting = threading.Lock()


def _count(what: str) -> None:
    with _counting:
        setattr(TALLY, what, getattr(TALLY, what) + 1)


class MachineCode:
    """The files of one loop, as a numba dispatcher asks for them; no damage to them, and no lack of room, is an error.

    Raises:
        OSError: the source cannot be read.
    """

    def __init__(self, function: Any) -> None:
        source = Path(function.__code__.co_filename)
        self._name = f"{source.stem}.{function.__qualname__}-{function.__code__.co_firstlineno}"
        self.places = places(source)
        self._enabled = True
        if given_folder() and self.places[0].problem:
            announce(f"machine code is neither read from nor kept in {self.places[0].problem}")

    @property
    def cache_path(self) -> str:
        """Where code is kept; empty if nowhere."""
        place = self.kept_in()
        return "" if place is None else str(place.folder)

    def kept_in(self) -> Place | None:
        """Return where code is kept; None where nothing can be written."""
        return next((place for place in self.places if place.is_writable()), None)

    def enable(self) -> None:
        """Read and keep code."""
        self._enabled = True

    def disable(self) -> None:
        """Neither read nor keep code."""
        self._enabled = False

    def flush(self) -> None:
        """Forget what was kept."""
        for place in self.places:
            for path in place.folder.glob(f"{self._name}.*{_SUFFIX}"):
                with suppress(OSError):
                    path.unlink()

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Return the compiled loop, or None where it must be compiled."""
        target_context.refresh()
        begin, end = self._file(signature)
        for place in self.places if self._enabled else ():
            payload = _payload(place, begin + end)
            if payload is not None:
                with suppress(Exception):  # unpickling what is damaged raises anything
                    found = CompileResult._rebuild(target_context, *loads(payload))
                    _count("read")
                    return found
        _count("compiled")
        announce(self._remark(begin, end), _TOPIC)
        return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep a compiled loop, in place of what cannot be read, or do without."""
        place = self.kept_in() if self._enabled else None
        if place is None or compiled.library.has_dynamic_globals or compiled.lifted:
            _count("lost")
            return
        payload = dumps(compiled._reduce())
        path = place.folder / "".join(self._file(signature))
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)  # of no group, whatever the umask
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(payload).digest() + payload)
            temporary.replace(path)
            remove_other_versions(place)
        except OSError as error:
            _count("lost")
            with suppress(OSError):
                temporary.unlink()
            why = error.strerror or error
            announce(
                f"machine code cannot be kept in {place.folder} ({why}): every process compiles it anew", "keeping"
            )

    def _file(self, signature: Any) -> tuple[str, str]:
        """Return the name of a file in two parts: of loop and signature, and of the processor."""
        triple, processor, features = target()
        begin = f"{self._name}.{hashlib.sha256(str(signature).encode()).hexdigest()[:16]}."
        return begin, f"{processor}-{hashlib.sha256(f'{triple} {features}'.encode()).hexdigest()[:8]}{_SUFFIX}"

    def _remark(self, begin: str, end: str) -> str:
        """Return what is said to someone who waits."""
        if self.kept_in() is None:
            return (
                "compiling the loops of the index, in every process anew: up to 20 s each time, for no folder to keep "
                f"machine code in can be written. Fill one ahead, where that is possible:  {CACHE}=FOLDER ctxdeploy "
                f"warm-up  ; and set {CACHE} here"
            )
        kept = [path for place in self.places if not place.problem for path in place.folder.glob(f"*{_SUFFIX}")]
        of_loop = [path for path in kept if path.name.startswith(begin)]
        own = [path for path in of_loop if path.name == begin + end]
        if own:  # it is there, and was not read
            return (
                f"compiling the loops of the index anew, up to 20 s: the machine code in {own[0].parent} is damaged, "
                "or another user may have written it"
            )
        if not of_loop and any(path.name.endswith(end) for path in kept):
            return _MORE
        other = next(iter(of_loop or kept), None)
        return _FIRST if other is None else self._other_processor(other)

    def _other_processor(self, path: Path) -> str:
        """Return what is said where there is code for another processor."""
        made_for = path.name.removesuffix(_SUFFIX).rpartition(".")[2].rpartition("-")[0]
        there = f"compiling the loops of the index, up to 20 s: {path.parent} holds machine code for {made_for}"
        level = os.environ.get(PROCESSOR, "")
        if level:
            return f"{there}, and {PROCESSOR} asks for {level}. All of it ahead:  {PROCESSOR}={level} ctxdeploy warm-up"
        return (
            f"{there}, and this processor is {target()[1]}. Code for both:  {PROCESSOR}=x86-64-v3 ctxdeploy warm-up  ; "
            f"and set {PROCESSOR} here too"
        )


def _payload(place: Place, name: str) -> bytes | None:
    """Return the bytes of a file that is there, whole, and of nobody else; None of another."""
    if place.problem:
        return None
    try:
        with open_regular(place.folder / name) as file:
            if not place.trusts(os.fstat(file.fileno())):
                return None
            data = file.read()
    except OSError:
        return None
    payload = data[_SHA256:]
    return payload if hashlib.sha256(payload).digest() == data[:_SHA256] else None
