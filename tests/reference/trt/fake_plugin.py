"""A stand-in for ``tensorrt.plugin`` where there is no GPU: it takes what the real decorators take, and keeps it.

The real ones read signatures: tensors of ``register`` must be annotated as ``TensorDesc``, what ``autotune`` and
``aot_impl`` name must be the same and in the same order, and ``aot_impl`` must say that it returns two strings, how to
launch, and whole numbers. Anything else is a ``ValueError`` there, and here.
"""

import inspect
import typing
from types import ModuleType


class ShapeExpr:
    """A size: a number, or the name of one that is not known yet."""

    def __init__(self, value=None):
        self.value = value

    @property
    def is_constant(self):
        return isinstance(self.value, int)

    def constant_value(self):
        if not self.is_constant:
            raise RuntimeError("not a constant")
        return self.value


class TensorDesc:
    def __init__(self, shape_expr=None, dtype=None, format=None, scale=None):  # noqa: A002
        self.shape_expr, self.dtype = shape_expr, dtype

    def like(self):
        return TensorDesc(self.shape_expr, self.dtype)


class SymInt32:
    def __init__(self, value=None):
        self.value = value.value if isinstance(value, ShapeExpr) else value


class SymExprs:
    pass


class SymIntExprs(SymExprs):
    def __init__(self, length):
        self.values = [None] * length

    def __setitem__(self, index, value):
        if not isinstance(value, SymInt32):
            raise TypeError("not a symbolic number")
        self.values[index] = value

    def __iter__(self):
        return iter(self.values)


class KernelLaunchParams:
    def __init__(self, grid_x=1, grid_y=1, grid_z=1, block_x=1, block_y=1, block_z=1, shared_mem=0):
        self.grid_x, self.grid_y, self.grid_z = grid_x, grid_y, grid_z
        self.block_x, self.block_y, self.block_z, self.shared_mem = block_x, block_y, block_z, shared_mem


class AutoTuneCombination:
    def __init__(self, io_types=None, layouts=None, tactics=None):
        self.io_types = [kind.strip() for kind in io_types.split(",")]
        self.layouts = layouts


def cdiv(first, second):
    return ShapeExpr((first.value, second))


def make():
    """Return the module, and what is registered with it: functions by kind, of each plug-in."""
    module, kept = ModuleType("tensorrt.plugin"), {}
    for kind in (ShapeExpr, TensorDesc, SymInt32, SymExprs, SymIntExprs, KernelLaunchParams, AutoTuneCombination):
        setattr(module, kind.__name__, kind)

    def register(plugin_id, lazy_register=False):
        def keep(function):
            if plugin_id in kept:
                raise ValueError(f"{plugin_id} is registered already")
            signature = inspect.signature(function)
            found = [parameter.annotation for parameter in signature.parameters.values()]
            if any(annotation is not TensorDesc for annotation in (*found, signature.return_annotation)):
                raise ValueError(f"{signature}: every argument and the result must be a TensorDesc")
            kept[plugin_id] = {"register": function, "names": list(signature.parameters)}
            return function

        return keep

    def taking(kind, *more):
        def decorator(plugin_id):
            def keep(function):
                signature = inspect.signature(function)
                if list(signature.parameters) != [*kept[plugin_id]["names"], *more]:
                    raise ValueError(f"{signature} does not fit {kept[plugin_id]['names']} and {more}")
                if any(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values()):
                    raise ValueError(f"{signature}: annotations are of other classes")
                if kind == "aot_impl":
                    check_result(signature.return_annotation)
                kept[plugin_id][kind] = function
                return function

            return keep

        return decorator

    module.register, module.cdiv = register, cdiv
    module.autotune, module.aot_impl = taking("autotune", "outputs"), taking("aot_impl", "outputs", "tactic")
    return module, kept


def check_result(annotation):
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) is not tuple or len(parts) != 4:
        raise ValueError(f"{annotation}: a tuple of four is returned")
    if parts[0] not in (str, bytes) or parts[1] not in (str, bytes):
        raise ValueError(f"{annotation}: name and code are str or bytes")
    if not issubclass(parts[2], KernelLaunchParams) or not issubclass(parts[3], SymExprs):
        raise ValueError(f"{annotation}: launch and whole numbers are of the package's classes")
