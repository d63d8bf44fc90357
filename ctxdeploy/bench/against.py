"""Another configuration that takes turns with the main one: ``backend=openvino,precision=bf16``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctxdeploy.core.errors import ConfigError

_NUMBERS, _PATHS = ("threads",), ("model", "archive", "python")


def parse_against(text: str, allowed: Sequence[str]) -> dict[str, Any]:
    """Return the settings that differ; ``ConfigError`` for anything else than ``key=value`` with those keys."""
    found: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        key, value = key.strip(), value.strip()
        if not equals or not value or key not in allowed:
            raise ConfigError(f"--against {text!r}: {part!r} is not one of {', '.join(f'{a}=…' for a in allowed)}")
        if key in found:
            raise ConfigError(f"--against {text!r}: {key} is given twice")
        found[key] = _number(key, value, text) if key in _NUMBERS else value
    return found


def _number(key: str, value: str, text: str) -> int:
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise ConfigError(f"--against {text!r}: {key} is not a whole number of at least 1")
    return int(value)


def label_of_against(changes: Mapping[str, Any]) -> str:
    """Return the label of the case: what differs, by the last part of a path."""
    shown = {key: Path(value).name if key in _PATHS else value for key, value in changes.items()}
    return "against " + ", ".join(f"{key} {value}" for key, value in shown.items())
