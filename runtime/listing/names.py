"""Names of photos that are no files of a folder."""

import os
from pathlib import Path


def clean_name(path: str) -> str:
    """Return a path with ``/`` between its parts and without empty parts and ``.``; an absolute one stays absolute."""
    if os.sep != "/":
        path = path.replace(os.sep, "/")
    parts = "/".join(part for part in path.split("/") if part not in ("", "."))
    return f"/{parts}" if path.startswith("/") else parts


def is_hidden(name: str) -> bool:
    """Return whether a part of a name begins with a dot."""
    return name.startswith(".") or "/." in name


def absolute(path: Path) -> str:
    """Return a file's absolute path; links of its folder are resolved, the file itself may be a link to the latest."""
    return str(path.parent.resolve() / path.name)
