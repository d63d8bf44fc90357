"""Text for people."""

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
