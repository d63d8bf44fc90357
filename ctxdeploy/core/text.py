"""Text for people, and names of photos as text."""

import os

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
        ValueError: it is no system's: lone surrogates that stand for no byte.
    """
    return name if name.isascii() else os.fsdecode(name.encode("utf-8", "surrogateescape"))
