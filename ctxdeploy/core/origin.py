"""Where ctxdeploy was installed from, and so what installs an extra of it.

A name that an index does not have, or has of somebody else, installs nothing of ours.
"""

import json
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

# What an index would know it by.
PACKAGE = "ctxdeploy"


def install_line(extra: str) -> str:
    """Return the command that installs an extra of this very ctxdeploy: of its checkout, wheel, repository or index."""
    from importlib import metadata  # 40 ms, which only a message needs

    try:
        text = metadata.distribution(PACKAGE).read_text("direct_url.json")
        return _line(extra, json.loads(text) if text else None)
    except (metadata.PackageNotFoundError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return _in_checkout(extra)


def _line(extra: str, origin: Any) -> str:
    """Return the command for an origin as pip keeps it (PEP 610); for one of an index it is None."""
    if origin is None:
        return f"pip install {shlex.quote(f'{PACKAGE}[{extra}]')}"
    url = origin["url"]
    if "vcs_info" in origin:
        facts = origin["vcs_info"]
        url = f"{facts['vcs']}+{url}@{facts['commit_id']}"
    elif url.startswith("file:"):
        return _from_path(extra, Path(unquote(urlsplit(url).path)), origin.get("dir_info", {}).get("editable", False))
    return f"pip install {shlex.quote(f'{PACKAGE}[{extra}] @ {url}')}"


def _from_path(extra: str, path: Path, editable: bool) -> str:
    if not (path.is_file() or (path / "pyproject.toml").is_file()):  # it was moved away
        return _in_checkout(extra)
    shown = "." if path == Path.cwd() else str(path)
    return f"pip install {'-e ' if editable else ''}{shlex.quote(f'{shown}[{extra}]')}"


def _in_checkout(extra: str) -> str:
    return f"pip install {shlex.quote(f'.[{extra}]')}  in a checkout of ctxdeploy"
