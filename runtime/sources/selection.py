"""Which names of a place are photos, and how much of the place is left out, and why."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.settings import setting
from ctxdeploy.core.text import counted, printable
from ctxdeploy.runtime.decode.formats import extension_hint, photo_extensions

# What systems and programs put among photos: thumbnails, copies, what was deleted. Matched in capitals and small
# letters. Those that begin with a dot (.thumbnails, .Trashes, …) are hidden, and left out as such.
SYSTEM_NAMES = (
    # Synology and QNAP
    *("@eaDir", "#recycle", "#snapshot", "@tmp", "@sharebin", "@Recycle", "@Recently-Snapshot", "@Transcode"),
    *("SYNOFILE_THUMB_*", "SYNOPHOTO_THUMB_*"),
    # Windows
    *("$RECYCLE.BIN", "RECYCLER", "RECYCLED", "System Volume Information"),
    # macOS and its servers, Linux
    *("__MACOSX", "Network Trash Folder", "Temporary Items", "lost+found"),
    # Previews of Lightroom, Apple Photos, iPhoto, Aperture; Nextcloud
    *("*.lrdata", "*.photoslibrary/resources", "*.photolibrary/Thumbnails", "*.aplibrary/Thumbnails"),
    *("*.aplibrary/Previews", "appdata_oc*", "files_trashbin", "files_versions"),
)
_MAX_KIND = 12
_SHOWN = 5
_NO_EXTENSION = "without an extension"


_HIDDEN = re.compile(r"(?:(?<=/)|^)(\.[^/]*)(?:/|\Z)", re.DOTALL)


@cache
def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str] | None:
    """Return what matches a path, from its begin up to and with the first folder that one of the patterns matches."""
    if not patterns:
        return None
    free = "|".join(_expression(pattern) for pattern in patterns if not pattern.startswith("/"))
    tied = "|".join(_expression(pattern[1:]) for pattern in patterns if pattern.startswith("/"))
    either = "|".join([*([f"(?:.*?/)??(?:{free})"] if free else []), *([tied] if tied else [])])
    return re.compile(either, re.DOTALL | re.IGNORECASE)


def _expression(pattern: str) -> str:
    parts = []
    for token in re.findall(r"\*\*/|\*\*|\*|\?|\[[^/\]]+\]|.", pattern.rstrip("/"), re.DOTALL):
        if token in _WILD:
            parts.append(_WILD[token])
        elif len(token) > 1:
            inside = token[1:-1].replace("\\", "\\\\").replace("[", "\\[")
            parts.append(f"[^{inside[1:]}]" if inside[0] in "!^" and inside[1:] else f"[{inside}]")
        else:
            parts.append(re.escape(token))
    return "".join(parts) + ("/" if pattern.endswith("/") else r"(?:/|\Z)")


_WILD = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which photos of a place are taken.

    A pattern is compared with the photo's path in the place, in capitals and small letters: ``*`` and ``?`` stand for
    anything but ``/``, ``**`` for anything, ``[…]`` for one of its characters. It may match at any depth, a folder with
    all that is in it; one that begins with ``/`` matches at the top, one that ends with ``/`` folders alone.

    Attributes:
        include: if there are any, only what matches one of these is taken. What is hidden, or of a system, is taken
            only where a part of a pattern names it: ``@eaDir``, ``.private/*``.
        exclude: what matches one of these is left out.
    """

    include: tuple[str, ...] = setting(
        (), "--include", "Take only photos whose paths match, such as '2024/**'; may be repeated.", metavar="PATTERN"
    )
    exclude: tuple[str, ...] = setting(
        (), "--exclude", "Leave out photos and folders that match, such as 'trash' or '*.png'.", metavar="PATTERN"
    )

    def __post_init__(self) -> None:
        for flag, patterns in (("--include", self.include), ("--exclude", self.exclude)):
            given: Any = patterns
            if isinstance(given, str):
                raise ConfigError(f"{flag} takes several patterns: give a tuple of them, not {given!r}")
            for pattern in patterns:
                if not pattern.strip("/"):
                    raise ConfigError(f"{flag} {pattern!r} names nothing: give a pattern such as 'trash' or '*.png'")
            try:
                _any_of(patterns)
            except re.error as error:
                raise ConfigError(f"{flag} {', '.join(patterns)!r} cannot be understood ({error})") from error


ALL = Selection()


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """What of a place is not among its photos; of a folder that is left out the folder alone is counted.

    Attributes:
        other: files that are not photos, by their extension.
        system: folders and files that systems and programs put there, by name.
        hidden: files and folders whose names begin with a dot.
        excluded: photos, and folders, that ``--include`` or ``--exclude`` leaves out.
    """

    other: Mapping[str, int] = field(default_factory=dict)
    system: Mapping[str, int] = field(default_factory=dict)
    hidden: int = 0
    excluded: int = 0

    def __bool__(self) -> bool:
        return bool(self.other or self.system or self.hidden or self.excluded)

    def metadata(self) -> dict[str, Any]:
        """Return the counts as JSON prints them."""
        return {
            "other": dict(self.other),
            "system": dict(self.system),
            "hidden": self.hidden,
            "excluded": self.excluded,
            "hints": self.hints(),
        }

    def hints(self) -> list[str]:
        """Return what would make photos of some of the files."""
        found = (extension_hint(extension) for extension in self.other)
        return sorted({hint for hint in found if hint is not None})

    def lines(self) -> list[str]:
        """Return what to tell a person, each on one line; nothing where nothing is left out."""
        parts = []
        if self.other:
            count = sum(self.other.values())
            verb = "is not a photo" if count == 1 else "are not photos"
            parts.append(f"{counted(count, 'file')} {verb}: {_kinds(self.other)}")
        if self.system:
            count = sum(self.system.values())
            parts.append(f"{_either(count, '')} of systems and programs left out: {_kinds(self.system)}")
        if self.hidden:
            parts.append(f"{_either(self.hidden, 'hidden ')} left out")
        if self.excluded:
            folders = "folder" if self.excluded == 1 else "folders"
            parts.append(f"{counted(self.excluded, 'photo')} or {folders} left out by --include and --exclude")
        return [*parts, *self.hints()]


NOTHING = LeftOut()


def _either(count: int, which: str) -> str:
    return f"{count:,} {which}{'file or folder' if count == 1 else 'files or folders'}"


def _kinds(counts: Mapping[str, int]) -> str:
    """Return ``2 .CR2, 1 .jxl``, the most frequent first, and how many of other kinds there are."""
    ranked = sorted(counts.items(), key=lambda kind: (-kind[1], kind[0]))
    shown = [f"{count:,} {printable(kind)}" for kind, count in ranked[:_SHOWN]]
    rest = sum(count for _, count in ranked[_SHOWN:])
    return ", ".join([*shown, *([f"{rest:,} of other kinds"] if rest else [])])


class NameFilter:
    """Says which names are photos, and counts what is left out. Names have ``/``; those of folders end with it.

    Args:
        selection: what the user wants.
    """

    def __init__(self, selection: Selection = ALL) -> None:
        self._include, self._exclude = _any_of(selection.include), _any_of(selection.exclude)
        parts = [part for pattern in selection.include for part in pattern.split("/") if part]
        # Patterns such as *.jpg or ** do not ask for thumbnails.
        self._named = _any_of(tuple(part for part in parts if part[0] not in "*?["))
        self._system = _any_of(tuple(name for name in SYSTEM_NAMES if not self._is_named(name.rpartition("/")[2])))
        self._extensions = photo_extensions()
        self._spelling: dict[str, str] = {}
        self._folders: set[str] = set()
        self._counts = {kind: Counter[str]() for kind in ("other", "system", "hidden", "excluded")}

    def enters(self, folder: str) -> bool:
        """Return whether to look into a folder; one that is left out is counted."""
        return not self._leave_out(folder)

    def takes(self, name: str, within: str = "") -> bool:
        """Return whether a file is a photo to take; what is left out is counted, a folder once.

        Args:
            name: of the file.
            within: what goes before it where patterns are compared: the name of a tar or zip file and ``/``.
        """
        if self._leave_out(name, within):
            return False
        if not name.lower().endswith(self._extensions):
            self.other(PurePosixPath(name).suffix)
            return False
        if not self._includes(within + name):
            self._counts["excluded"][""] += 1
            return False
        return True

    def chosen(self, name: str) -> bool:
        """Return whether a photo that a list names is wanted, whatever it is called; one that is not is counted."""
        wanted = self._includes(name) and not (self._exclude and self._exclude.match(name.lstrip("/")))
        self._counts["excluded"][""] += not wanted
        return bool(wanted)

    def wants(self, name: str) -> bool:
        """Return whether a name that was a photo's would be one now; nothing is counted."""
        return self._reason(name) is None and self._includes(name) and name.lower().endswith(self._extensions)

    def other(self, kind: str) -> None:
        """Count a file that is not a photo, by its extension or another word for what it is."""
        if not kind or len(kind) > _MAX_KIND:
            kind = _NO_EXTENSION
        self._counts["other"][self._spelling.setdefault(kind.lower(), kind)] += 1

    def left_out(self) -> LeftOut:
        """Return what was left out so far."""
        counts = self._counts
        return LeftOut(
            other=dict(sorted(counts["other"].items())),
            system=dict(sorted(counts["system"].items())),
            hidden=counts["hidden"].total(),
            excluded=counts["excluded"].total(),
        )

    def _includes(self, name: str) -> bool:
        return self._include is None or self._include.match(name.lstrip("/")) is not None

    def _leave_out(self, name: str, within: str = "") -> bool:
        found = self._reason(name, within)
        if found is None:
            return False
        kind, part = found
        if part not in self._folders:
            if part.endswith("/"):
                self._folders.add(part)
            self._counts[kind][_system_name(part) if kind == "system" else ""] += 1
        return True

    def _reason(self, name: str, within: str = "") -> tuple[str, str] | None:
        """Return why a name, or a folder in it, is left out, and what of it: up to that folder's ``/``."""
        whole = (within + name).lstrip("/")
        if self._exclude is not None and (found := self._exclude.match(whole)):
            return "excluded", found.group()
        if self._system is not None and (found := self._system.match(name)):
            return "system", within + found.group()
        if name.startswith(".") or "/." in name:
            for hidden in _HIDDEN.finditer(name):
                if not self._is_named(hidden[1]):
                    return "hidden", within + name[: hidden.end()]
        return None

    def _is_named(self, part: str) -> bool:
        return self._named is not None and self._named.match(part) is not None


def _system_name(part: str) -> str:
    """Return which of ``SYSTEM_NAMES`` a path ends with."""
    return next((name for name in SYSTEM_NAMES if (found := _any_of((name,))) and found.match(part)), part)


def takes_name(name: str) -> bool:
    """Return whether a file of this name in a folder is taken for a photo, where nobody has said which are."""
    return NameFilter().wants(name)
