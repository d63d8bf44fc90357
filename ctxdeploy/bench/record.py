"""The file of a measurement: its configuration, every window as it was measured, and what follows from them.

It is written anew after each window (a new file, then renamed), so that an interrupted run loses one window, and the
same command goes on. A file of another configuration is refused: windows of two are never mixed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.files import make_folder, settings_sha256, write_text

FORMAT, FORMAT_VERSION = "ctxdeploy-bench", 1
_PARTS: Mapping[str, type] = {"kind": str, "key": str, "configuration": dict, "sessions": list, "windows": list}


class Record:
    """A measurement in a JSON file.

    Attributes:
        path: the file.
        content: the whole of it.
    """

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path, self.content = path, content
        self._seen = _state(path)

    @classmethod
    def begin(cls, path: Path, kind: str, configuration: Mapping[str, Any], *, restart: bool) -> Self:
        """Return the record to go on with: that of the file if its configuration is the same, else a new one.

        Args:
            path: the file, there or not.
            kind: ``extract``, ``search`` or ``end-to-end``.
            configuration: what decides the figures.
            restart: forget what the file holds.

        Raises:
            ConfigError: the file is of another configuration (the first differences are named), or no record.
        """
        key = settings_sha256({"kind": kind, **configuration})
        if path.exists() and not restart:
            record = cls.read(path)
            if record.content["key"] != key:
                before = {"kind": record.kind, **record.content["configuration"]}
                found = differences(before, {"kind": kind, **json.loads(json.dumps(configuration))})
                raise ConfigError(
                    f"{path} was measured with another configuration ({'; '.join(found[:3])}): give another -o, or "
                    "--restart to measure anew"
                )
            return record
        empty: dict[str, Any] = {"sessions": [], "windows": [], "results": {}}
        return cls(path, {**_head(kind), "key": key, "configuration": dict(configuration), **empty})

    @classmethod
    def read(cls, path: Path) -> Self:
        """Open a file of ``bench``; ``ConfigError`` if it is not one, or damaged."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(f"{path} does not exist: make it with  ctxdeploy bench extract -o {path}") from error
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{path} cannot be read as a result of bench: {error}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ConfigError(f"{path} is not a result of  ctxdeploy bench")
        if content.get("format_version") != FORMAT_VERSION:
            raise ConfigError(
                f"{path} has format {content.get('format_version')}, this ctxdeploy reads {FORMAT_VERSION}"
            )
        wrong = [name for name, kind in _PARTS.items() if not isinstance(content.get(name), kind)]
        if wrong or content["key"] != settings_sha256({"kind": content["kind"], **content["configuration"]}):
            what = f"{wrong[0]} is missing" if wrong else "its key is not that of its configuration"
            raise ConfigError(f"{path} is damaged ({what}): remove it and measure again")
        _check_windows(path, content)
        return cls(path, content)

    @property
    def kind(self) -> str:
        """``extract``, ``search`` or ``end-to-end``."""
        return str(self.content["kind"])

    @property
    def windows(self) -> list[dict[str, Any]]:
        """What was measured, in order."""
        found: list[dict[str, Any]] = self.content["windows"]
        return found

    def begin_session(self, facts: Mapping[str, Any]) -> None:
        """Note that a run of the command begins."""
        self.content["sessions"].append(dict(facts))

    def append(self, window: Mapping[str, Any]) -> None:
        """Keep a window; durable when this returns."""
        self.windows.append(dict(window))
        self.write()

    def write(self) -> None:
        """Write the file.

        Raises:
            ConfigError: another process has written it since: both would lose windows.
            StorageError: it cannot be written; the one that was there stays.
        """
        if _state(self.path) != self._seen:
            raise ConfigError(
                f"{self.path} was changed by another process meanwhile: wait until that ends and run the same command "
                "again, or give another -o"
            )
        make_folder(self.path.parent, advice="choose another -o")
        write_text(self.path, _lines(self.content), advice="choose another -o")
        self._seen = _state(self.path)


def differences(before: Any, after: Any, name: str = "") -> list[str]:
    """Return one line for each entry in which two configurations differ, by its dotted name."""
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for key in dict.fromkeys((*before, *after)):
            found += differences(before.get(key), after.get(key), f"{name}.{key}" if name else str(key))
        return found
    if before == after:
        return []
    return [f"{name}: {_short(before)} there, {_short(after)} here"]


def _check_windows(path: Path, content: dict[str, Any]) -> None:
    """Raise ``ConfigError`` unless every window has every case with the same number of positive times."""
    lengths: dict[str, int] = {}
    try:
        for window in content["windows"]:
            int(window["block"])
            for label in content["configuration"]["cases"]:
                seconds = window["cases"][label]["seconds"]
                if not all(0 < float(value) < float("inf") for value in seconds):
                    raise ValueError(f"{label} has times that are none")
                if lengths.setdefault(label, len(seconds)) != len(seconds) or not seconds:
                    raise ValueError(f"{label} has windows of different length")
    except (KeyError, TypeError, ValueError) as error:
        what = f"a window lacks {error}" if isinstance(error, KeyError) else error
        raise ConfigError(f"{path} is damaged ({what}): remove it and measure again") from error


def _lines(content: Mapping[str, Any]) -> str:
    """Return JSON for people: an indented head, and a line for each window."""
    rest = {name: value for name, value in content.items() if name != "windows"}
    head = json.dumps(rest, indent=1, allow_nan=False).removesuffix("\n}")
    windows = ",\n".join(json.dumps(window, allow_nan=False) for window in content["windows"])
    return f'{head},\n "windows": [\n{windows}\n ]\n}}\n'


def _head(kind: str) -> dict[str, Any]:
    return {"format": FORMAT, "format_version": FORMAT_VERSION, "kind": kind}


def _state(path: Path) -> tuple[int, int, int] | None:
    """Return what tells a file from the one that takes its place; None without one."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else f"{text[:57]}..."
