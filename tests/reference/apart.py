"""A device that is none: its tensors lie apart from those of the CPU, and the CPU computes with them.

PyTorch sees tensors of the device ``meta``; each holds one of the CPU. As on a GPU, an operator refuses tensors of two
devices, and numpy does not see into one of it. So code that makes a tensor on the wrong device, or forgets to move one,
fails here without a GPU, and what it computes is what the CPU computes, bit for bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

DEVICE = torch.device("meta")
# Operators that go from one device to another.
_COPIES = ("aten::copy_", "aten::_to_copy")


class ApartTensor(torch.Tensor):
    """A tensor of the device; ``held`` is the one of the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "ApartTensor":
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=DEVICE, requires_grad=False
        )

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]
        return f"apart {self.held!r}"


class _Operators(TorchDispatchMode):
    """What operators do, those that make tensors among them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:  # in inference mode these come here before they are taken to pieces
                return func.decompose(*args, **(kwargs or {}))
        return _compute(func, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """``torch.tensor``, which is no operator: of the device ``meta`` it would forget the numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and kwargs.get("device") is not None and torch.device(kwargs["device"]) == DEVICE:
            return func(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)
        return func(*args, **kwargs)


@contextmanager
def Apart() -> Iterator[None]:  # noqa: N802 (a mode, as PyTorch's own)
    """Have the device while the block runs."""
    with _Operators(), _Literals():
        yield


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    apart = [tensor for tensor in tensors if isinstance(tensor, ApartTensor)]
    name = func._schema.name
    at_home = [tensor for tensor in tensors if not isinstance(tensor, ApartTensor) and tensor.dim()]
    if apart and at_home and name not in _COPIES:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found {DEVICE} and cpu")
    asked = kwargs.get("device")
    there = bool(apart) if asked is None else torch.device(asked) == DEVICE
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    held_args, held_kwargs = tree_map_only(ApartTensor, lambda tensor: tensor.held, (args, kwargs))
    found = func(*held_args, **held_kwargs)
    given = [value.held if isinstance(value, ApartTensor) else None for value in tensors]

    def back(value: Any) -> Any:
        """Return what an operator gives: of what it wrote into, the tensor that was passed in."""
        for tensor, held in zip(tensors, given, strict=True):
            if value is held or value is tensor:
                return tensor
        return ApartTensor(value) if there else value

    return tree_map_only(torch.Tensor, back, found)
