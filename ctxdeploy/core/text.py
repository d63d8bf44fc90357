"""Text for people, for programs that read JSON, and names of photos as text."""

import base64
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from ctxdeploy.core.urls import redacted


def printable(text: str) -> str:
    r"""Return a text on one line that any terminal takes, and whose URLs have lost their secrets.

    Bytes of a file name that are not UTF-8, line ends and other control characters become escapes such as ``\x1b``: a
    name cannot break a line of output, nor colour it.
    """
    text = redacted(text)
    if text.isprintable():
        return text
    escaped = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in escaped)


def printed_names(printed: Iterable[str], names: Iterable[str]) -> dict[str, str]:
    """Return by each text the one name that ``printable`` prints so; texts of no name or of several are left out."""
    wanted = {text for text in printed if "\\" in text}
    found = dict[str, list[str]]()
    for name in names if wanted else ():
        if not name.isprintable() and (text := printable(name)) in wanted:
            found.setdefault(text, []).append(name)
    return {text: same[0] for text, same in found.items() if len(same) == 1}


def json_text(value: Any) -> str:
    r"""Return JSON in ASCII that every parser reads, on one line; ``ValueError`` for NaN and infinity.

    A name whose bytes are not UTF-8 stands there with escapes such as ``caf\udce9.jpg`` (a backslash of its own is
    then doubled), and beside it, under its key with ``_bytes``, are its bytes in base64. Of a list of names there is a
    list of these, with null for every name that is as it stands.
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return text if "\\ud" not in text else json.dumps(json_ready(value), ensure_ascii=True, allow_nan=False)


def json_ready(value: Any) -> Any:
    """Return what ``json_text`` writes of a value."""
    if isinstance(value, Mapping):
        ready: dict[Any, Any] = {}
        for key, inner in value.items():
            name = _readable(key) if isinstance(key, str) else key
            ready[name] = json_ready(inner)
            kept = _undecoded(inner)
            if kept is not None:
                ready[f"{name}_bytes"] = kept
        return ready
    if isinstance(value, list | tuple):
        return [json_ready(inner) for inner in value]
    return _readable(value) if isinstance(value, str) else value


def _readable(text: str) -> str:
    if _is_unicode(text):
        return text
    return "".join(c if _is_unicode(c) else f"\\u{ord(c):04x}" for c in text.replace("\\", "\\\\"))


def _undecoded(value: Any) -> Any:
    """Return in base64 the bytes of a text that are not UTF-8, or a list of them; None if there are none."""
    if isinstance(value, list | tuple):
        found = [_undecoded(inner) for inner in value]
        return None if all(kept is None for kept in found) else found
    if not isinstance(value, str) or _is_unicode(value):
        return None
    try:
        return base64.b64encode(value.encode("utf-8", "surrogateescape")).decode("ascii")
    except UnicodeEncodeError:  # half a pair of UTF-16: no bytes
        return None


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in text)


def short(text: str, most: int = 60) -> str:
    """Return a foreign text in quotes, on one line and cut to ``most`` characters."""
    return repr(text if len(text) <= most else f"{text[:most]}…")


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: ``1 photo``, ``2,000 photos``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def photo_name(path: str) -> str:
    """Return a path of this system as photos are named: the same in every locale.

    The bytes of the path as UTF-8; those that are not UTF-8 are surrogates, as ``os.fsdecode`` has them where file
    names are UTF-8. Elsewhere (``LC_ALL=C``) it has other surrogates, or other letters.
    """
    if path.isascii():
        return path
    try:
        return os.fsencode(path).decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # no path of this system; whoever looks for it does not find it
        return path


def name_bytes(name: str) -> bytes:
    """Return bytes that stand for a name, the same in every locale; for one that no file can have too."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogatepass")


def native_path(name: str) -> str:
    """Return the path of this system that ``photo_name`` made a name of.

    Raises:
        ValueError: it has lone surrogates that do not stand for a byte, so no system has such a path.
    """
    return name if name.isascii() else os.fsdecode(name.encode("utf-8", "surrogateescape"))
