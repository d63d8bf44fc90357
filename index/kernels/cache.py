"""Machine code on disk, which is only ever a matter of speed: without it, or with what is left of it, loops compile.

numba keeps one index file and some data files a loop, reads them back with pickle, and lets whatever that raises end
the caller: a file cut by a full disk ended every later run. Here such a file is made again, and one that cannot be
written is done without.
"""

import hashlib
from typing import Any

from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.serialize import dumps, loads

from ctxdeploy.core.progress import announce

_COMPILES = "compiling the loops of the index for this processor, once after an installation: up to 20 s"


class _CheckedCode(CompileResultCacheImpl):
    """What is kept, with its sha256: code with a flipped bit would run."""

    def get_filename_base(self, fullname: str, abiflags: str) -> str:
        # Other names than numba's own, so that neither reads what the other wrote for the same loop.
        return f"{super().get_filename_base(fullname, abiflags)}-sha256"

    def reduce(self, compiled: Any) -> tuple[bytes, bytes]:
        data = dumps(super().reduce(compiled))
        return hashlib.sha256(data).digest(), data

    def rebuild(self, target_context: Any, kept: tuple[bytes, bytes]) -> Any:
        digest, data = kept
        if hashlib.sha256(data).digest() != digest:
            raise ValueError("the machine code is damaged")
        return super().rebuild(target_context, loads(data))


class MachineCode(FunctionCache):
    """The files of one loop; no damage to them, and no lack of room, is an error.

    Raises:
        Exception: there is no folder to keep files in, or the source cannot be read.
    """

    _impl_class = _CheckedCode

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Return the compiled loop, or None where it must be compiled."""
        try:
            found = super().load_overload(signature, target_context)
        except Exception:  # unpickling what is damaged raises anything
            found = None
        if found is None:
            announce(_COMPILES)
        return found

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep a compiled loop, in place of what cannot be read, or do without."""
        try:
            super().save_overload(signature, compiled)
        except Exception:  # the index is damaged, which is read first; or there is no room
            try:
                self.flush()
                super().save_overload(signature, compiled)
            except Exception:
                return
