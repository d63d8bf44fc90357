"""Doors: a package's ``__init__`` that names what is public, and imports each name when it is first used."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def door(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package (PEP 562).

    Args:
        package: its ``__name__``.
        homes: the module of each public name, below the package, or from ``ctxdeploy.`` on. A name whose home is the
            name itself, such as ``{"bundle": "ctxdeploy.core.bundle"}``, is that module.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name] if homes[name].startswith("ctxdeploy.") else f"{package}.{homes[name]}"
        module = import_module(home)
        return getattr(module, name, module) if home.endswith(f".{name}") else getattr(module, name)

    return get, lambda: sorted(homes)
