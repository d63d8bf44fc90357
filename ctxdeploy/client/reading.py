"""JSON of a service to frozen dataclasses. What a newer service says more is passed over; what is not as it should be,
is an error. A name whose bytes are not UTF-8 has them beside it, in base64 under its key with ``_bytes``."""

import base64
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

_Read = TypeVar("_Read")


def read_json(body: bytes) -> Any:
    """Return what a body says; ``ValueError`` if it is not JSON."""
    try:
        return json.loads(body)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read(kind: type[_Read], value: Any) -> _Read:
    """Return an object of a dataclass from a JSON object; ``ValueError`` says what does not fit."""
    made: _Read = _read(kind, value, kind.__name__)
    return made


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _read(kind: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        (inner,) = (one for one in typing.get_args(kind) if one is not type(None))
        return _read(inner, value, where)
    if origin is tuple:
        return _row(typing.get_args(kind), value, where)
    if origin is Mapping:
        inner = typing.get_args(kind)[1]
        entries = _checked(value, dict, where).items()
        return {key: _read(inner, entry, f"{where}.{key}") for key, entry in entries if entry is not None}
    if is_dataclass(kind):
        return _object(kind, _checked(value, dict, where), where)
    if kind is float:
        return float(_checked(value, (int, float), where))
    return _checked(value, kind, where)


def _object(kind: Any, value: dict[str, Any], where: str) -> Any:
    hints, given = _hints(kind), {}
    for one in fields(kind):
        # Null where there is always something is as good as nothing.
        optional = one.default is not MISSING or one.default_factory is not MISSING
        key = one.metadata.get("key", one.name)
        if value.get(key) is None and (optional or key not in value):
            if not optional:
                raise ValueError(f"{where} has no {key}")
            continue
        told = _exact(value[key], value.get(f"{key}_bytes"))
        given[one.name] = _read(hints[one.name], told, f"{where}.{key}")
    return kind(**given)


def _exact(value: Any, kept: Any) -> Any:
    """Return a name, or a list of them, with the bytes that do not fit into JSON as surrogates."""
    if isinstance(value, list) and isinstance(kept, list) and len(kept) == len(value):
        return [_exact(one, inner) for one, inner in zip(value, kept, strict=True)]
    if isinstance(value, str) and isinstance(kept, str):
        return base64.b64decode(kept, validate=True).decode("utf-8", "surrogateescape")
    return value


def _row(inner: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    row = _checked(value, list, where)
    if len(inner) == 2 and inner[1] is Ellipsis:
        return tuple(_read(inner[0], one, f"{where}[{i}]") for i, one in enumerate(row))
    if len(row) != len(inner):
        raise ValueError(f"{where} has {len(row)} entries instead of {len(inner)}")
    return tuple(_read(one, part, f"{where}[{i}]") for i, (one, part) in enumerate(zip(inner, row, strict=True)))


def _checked(value: Any, kind: Any, where: str) -> Any:
    # True is an int of Python and no number of JSON.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{where} is a {type(value).__name__}")
    return value
