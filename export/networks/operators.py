"""Emission of our own operators while a network is exported to ONNX.

Within ``exporting()``, a module with an operator of its own puts one node of the domain ``ctx`` into the graph instead
of its computation; ``ctxdeploy.export.graph.graph`` then gives the node its body of standard operators.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

DOMAIN = "ctx"

_exporting: ContextVar[bool] = ContextVar("exporting", default=False)


@contextmanager
def exporting() -> Iterator[None]:
    """Make the modules emit their operators in this block."""
    token = _exporting.set(True)
    try:
        yield
    finally:
        _exporting.reset(token)


def is_exporting() -> bool:
    """Return whether operators are to be emitted."""
    return _exporting.get()


def emit_operator(name: str, inputs: Sequence[Tensor], attributes: Mapping[str, int | str], *, like: Tensor) -> Tensor:
    """Put the node ``ctx::name`` into the graph being traced; its output has the shape and dtype of ``like``."""
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{name}", inputs, dict(attributes), dtype=like.dtype, shape=like.shape, version=1
    )


def emit_operators(
    name: str, inputs: Sequence[Tensor], attributes: Mapping[str, int | str], shapes: Sequence[Sequence[int]]
) -> Sequence[Tensor]:
    """Put a node of several outputs into the graph being traced; they have the dtype of the first input."""
    outputs: Sequence[Tensor] = torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::{name}", inputs, dict(attributes), dtypes=[inputs[0].dtype] * len(shapes), shapes=shapes, version=1
    )
    return outputs
