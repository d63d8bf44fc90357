"""What TensorRT is told of our kernels (``tensorrt.plugin``): shapes, types, and the code, which goes into the engine.

Full TensorRT alone has this interface, and its own page calls it experimental. Nothing of it is needed where the engine
runs. It has never run on a GPU: ``benchmarks/h200.sh`` is what will tell.
"""

from functools import cache
from types import GenericAlias
from typing import Any

from ctxdeploy.core.extras import require
from ctxdeploy.export.operators.compiling import CompiledKernel, compile_attention
from ctxdeploy.export.operators.rewriting import NAMESPACE, NODE

_ID = f"{NAMESPACE}::{NODE}"
# Types of x, queries, keys, values, temperature and y.
_FORMS = tuple(f"FP32, {low}, {low}, {low}, FP32, FP32" for low in ("FP16", "BF16", "FP32"))


@cache
def register_kernels(capability: tuple[int, int], extra: str) -> dict[str, str]:
    """Tell TensorRT of our kernels, once in a process.

    Args:
        capability: compute capability of the GPU that they are compiled for.
        extra: of ctxdeploy that installs TensorRT, for the message.

    Returns:
        A dictionary to which each kernel is added that TensorRT asks for: its name, and the sha256 of its code.
    """
    trt, trtp = require("tensorrt", extra), require("tensorrt.plugin", extra)
    compiled: dict[str, str] = {}

    def describe(x: Any, queries: Any, keys: Any, values: Any, temperature: Any) -> Any:
        return x.like()

    def forms(x: Any, queries: Any, keys: Any, values: Any, temperature: Any, outputs: Any) -> Any:
        return [trtp.AutoTuneCombination(types, "LINEAR") for types in _FORMS]

    def kernel(x: Any, queries: Any, keys: Any, values: Any, temperature: Any, outputs: Any, tactic: Any) -> Any:
        made = _compiled(trt, x, queries, capability)
        compiled[made.name] = made.sha256
        return made.name.encode(), made.ptx.encode(), _launch(trtp, x, made), _sizes(trtp, x)

    # TensorRT reads the annotations, and takes those of its own classes alone.
    describe.__annotations__ = dict.fromkeys((*describe.__annotations__,), trtp.TensorDesc)
    forms.__annotations__ = {}
    result = GenericAlias(tuple, (bytes, bytes, trtp.KernelLaunchParams, trtp.SymIntExprs))
    kernel.__annotations__ = {"return": result}
    trtp.register(_ID)(describe)
    trtp.autotune(_ID)(forms)
    trtp.aot_impl(_ID)(kernel)
    return compiled


def _compiled(trt: Any, x: Any, queries: Any, capability: tuple[int, int]) -> CompiledKernel:
    names = {trt.float16: "float16", trt.bfloat16: "bfloat16", trt.float32: "float32"}
    channels, dim = (int(tensor.shape_expr[2].constant_value()) for tensor in (x, queries))
    return compile_attention(channels, dim, names[queries.dtype], capability)


def _launch(trtp: Any, x: Any, made: CompiledKernel) -> Any:
    batch, positions, channels = (x.shape_expr[axis] for axis in range(3))
    found = trtp.KernelLaunchParams()
    found.grid_x = trtp.cdiv(positions, made.tiles.rows)
    found.grid_y = -(-int(channels.constant_value()) // made.tiles.channels)
    found.grid_z = batch
    found.block_x, found.shared_mem = made.threads, made.shared
    return found


def _sizes(trtp: Any, x: Any) -> Any:
    """Return the whole numbers that stand between the tensors and the result: N."""
    found = trtp.SymIntExprs(1)
    found[0] = trtp.SymInt32(x.shape_expr[1])
    return found
