"""Kernels of our own for GPUs, where counting says that they may pay (docs/gpu.md); the functions in the graph remain.

- ``attention``: the kernel, in Triton; ``compiling``: ahead of time, without a GPU;
- ``plugin``: what TensorRT is told of it; ``rewriting``: the graph that asks for it.

Needs the extra ``kernels`` where an engine is built, and nothing where it runs: the code lies in the engine.
"""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.export.operators.plugin import register_kernels
    from ctxdeploy.export.operators.rewriting import KERNELS, with_kernels

__all__ = ["KERNELS", "register_kernels", "with_kernels"]

_HOMES = {"KERNELS": "rewriting", "register_kernels": "plugin", "with_kernels": "rewriting"}

__getattr__, __dir__ = door(__name__, _HOMES)
