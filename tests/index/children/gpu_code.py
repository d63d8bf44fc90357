"""Print what numba-cuda compiles of the loops for a GPU of compute capability 9.0; needs NVVM, and no GPU.

Of each loop: how many fused products it has, its bytes of local memory, and what ``ptxas`` says where it is there.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

CAPABILITY = (9, 0)


def signatures() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Return the loops and the types that ``GpuPostings`` calls them with."""
    from numba import types

    from ctxdeploy.index.gpu.kernels import kernels
    from ctxdeploy.index.gpu.tiling import Tiling

    def flat(kind: Any) -> Any:
        return types.Array(kind, 1, "C")

    def rows(kind: Any) -> Any:
        return types.Array(kind, 2, "C")

    loops = kernels(Tiling(), int(sys.argv[1]))
    number, real, small = types.int64, types.float64, types.float32
    postings = rows(types.uint64), flat(types.uint16), flat(types.uint32)
    asked = flat(number), flat(types.uint64), flat(types.int32), flat(small), *[number] * 6
    combined = flat(small), number, flat(real), flat(number), flat(real), *[number] * 3, types.boolean, flat(real)
    splitting = flat(types.uint16), flat(types.uint32), number, number, number, number, flat(types.uint32), number
    taken = flat(number), number, number, flat(number), number, flat(number), number, number
    return {
        "score": (loops.score, (*postings, rows(number), number, *asked, flat(small), number)),
        "split_lists": (loops.split_lists, splitting),
        "combine": (loops.combine, combined),
        "add": (loops.add, (flat(number), flat(real), number, flat(real))),
        "count": (loops.count, (flat(number), number, flat(types.int32))),
        "cut": (loops.cut, (flat(types.int32), number, flat(number), flat(number))),
        "collect": (loops.collect, taken),
    }


def described(ptx: str) -> dict[str, Any]:
    """Return what stands in the code of a loop."""
    facts: dict[str, Any] = {
        "fused32": ptx.count("fma.rn.f32"),
        "fused64": ptx.count("fma.rn.f64"),
        "products32": ptx.count("mul.rn.f32"),
        "products64": ptx.count("mul.rn.f64"),
        "local": sum(map(int, re.findall(r"\.local .*?\[(\d+)\]", ptx))),
    }
    # That of the package that NVVM comes with, for another may be too old for the code.
    ptxas = next(map(str, Path(sys.prefix).rglob("nvidia/*/bin/ptxas")), None) or shutil.which("ptxas")
    if ptxas is not None:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "loop.ptx"
            source.write_text(ptx)
            command = [ptxas, "-v", "-arch=sm_90", str(source), "-o", str(source.with_suffix(".cubin"))]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            used = re.search(r"Used (\d+) registers", done.stderr)
            facts["registers"] = int(used[1]) if used else None
            facts["said"] = done.stderr.splitlines()[-3:]
    return facts


def main() -> None:
    try:
        from numba import cuda
        from numba.cuda import dispatcher
        from numba.cuda.cudadrv.nvvm import NVVM

        NVVM()
        # It compiles functions that loops call for the current GPU, without a way to name one.
        dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=CAPABILITY)
    except Exception as error:
        print(json.dumps({"missing": f"{type(error).__name__}: {error}"[:300]}))
        return
    found = {}
    for name, (loop, arguments) in signatures().items():
        ptx, _ = cuda.compile_ptx(loop.py_func, arguments, cc=CAPABILITY)
        found[name] = described(ptx)
        if len(sys.argv) > 2:
            (Path(sys.argv[2]) / f"{name}.ptx").write_text(ptx)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
