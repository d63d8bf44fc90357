"""Kernels to PTX, ahead of time and without a GPU."""

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from ctxdeploy.core.errors import BackendError
from ctxdeploy.core.extras import require

EXTRA = "kernels"
# Triton gives each kernel two more parameters, for scratch memory that this one does not use. TensorRT passes none.
_UNUSED = re.compile(r",\s*\.param \.u64 \.ptr \.global \.align 1 (\w+_param_\d+)(?=[,\s]*(?:\.param|\)))")
_TYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """What one program computes, and with how many threads.

    Attributes:
        rows: positions.
        columns: positions that it looks at together.
        channels: of the result.
        warps: of 32 threads.
        stages: tiles that are read ahead.
    """

    rows: int
    columns: int
    channels: int
    warps: int
    stages: int


# All of their memory is less than 48 KB: for more a kernel must be told before its launch, and TensorRT's pages do not
# say that it does that.
LOW = Tiles(rows=64, columns=32, channels=128, warps=4, stages=2)
FULL = Tiles(rows=32, columns=32, channels=64, warps=4, stages=1)
SHARED_LIMIT = 48 << 10


@dataclass(frozen=True, kw_only=True)
class CompiledKernel:
    """A kernel for one compute capability.

    Attributes:
        name: of its entry.
        ptx: its code.
        threads: of a program.
        shared: bytes of shared memory of a program.
        tiles: what a program computes.
    """

    name: str
    ptx: str
    threads: int
    shared: int
    tiles: Tiles

    @property
    def sha256(self) -> str:
        """Return the hex digest of the code."""
        return hashlib.sha256(self.ptx.encode()).hexdigest()


def compile_attention(channels: int, dim: int, dtype: str, capability: tuple[int, int]) -> CompiledKernel:
    """Compile the kernel of graph convolution with edges of ``attention``.

    Args:
        channels: C.
        dim: D of the queries and keys.
        dtype: of queries, keys and values: ``float16``, ``bfloat16`` or ``float32``.
        capability: compute capability of the GPU, such as (9, 0).

    Raises:
        MissingExtraError: Triton is not installed.
        BackendError: the kernel does not fit; the message says what of it.
    """
    triton = require("triton", EXTRA)
    compiler, target = require("triton.compiler", EXTRA), require("triton.backends.compiler", EXTRA)
    from ctxdeploy.export.operators.attention import graph_attention

    low = _TYPES[dtype]
    tiles = FULL if low == "fp32" else LOW
    constants = attention_constants(channels, dim, tiles)
    signature = {
        "x": "*fp32",
        "queries": f"*{low}",
        "keys": f"*{low}",
        "values": f"*{low}",
        "temperature": "*fp32",
        "positions": "i32",
        "y": "*fp32",
        **dict.fromkeys(constants, "constexpr"),
    }
    source = compiler.ASTSource(fn=graph_attention, signature=signature, constexprs=constants)
    options = {"num_warps": tiles.warps, "num_stages": tiles.stages}
    gpu = target.GPUTarget("cuda", capability[0] * 10 + capability[1], 32)
    made = triton.compile(source, target=gpu, options=options)
    if made.metadata.shared > SHARED_LIMIT:
        raise BackendError(f"the kernel takes {made.metadata.shared} bytes of shared memory, more than {SHARED_LIMIT}")
    return CompiledKernel(
        name=str(made.metadata.name),
        ptx=without_scratch(made.asm["ptx"], len(signature) - len(constants)),
        threads=tiles.warps * 32,
        shared=int(made.metadata.shared),
        tiles=tiles,
    )


def attention_constants(channels: int, dim: int, tiles: Tiles) -> dict[str, Any]:
    """Return what is built into the kernel, by the name of its argument."""
    from ctxdeploy.export.operators.rewriting import SHRINK

    return {
        "channels": channels,
        "dim": dim,
        "padded_dim": max(16, 1 << (dim - 1).bit_length()),
        "shrink": SHRINK,
        "row_tile": tiles.rows,
        "column_tile": tiles.columns,
        "channel_tile": tiles.channels,
    }


def without_scratch(ptx: str, parameters: int) -> str:
    """Return code whose entry takes so many parameters: those behind them go, none of which may be read.

    Raises:
        BackendError: the code reads one of them.
    """
    head, opened, rest = ptx.partition(".entry")
    names, closed, body = rest.partition(")")
    given = names.split(",")
    surplus = [re.findall(r"\w+_param_\d+", one)[-1] for one in given[parameters:]]
    used = [name for name in surplus if re.search(rf"\b{name}\b", body)]
    if used or len(given) < parameters:
        raise BackendError(f"Triton compiled a kernel that takes {len(given)} parameters, and {parameters} are passed")
    return f"{head}{opened}{','.join(given[:parameters])}\n{closed}{body}"
