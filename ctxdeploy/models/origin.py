"""Where a fetched model came from: ``origin.json`` in its folder."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ctxdeploy.core.files import write_json

ORIGIN = "origin.json"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What was fetched.

    Attributes:
        url: that was asked for.
        final_url: that answered, after redirections.
        file: name of the checkpoint.
        bytes: of it.
        sha256: of it, as it arrived.
        known_sha256: whether that is the one in the table of models; if not, nothing was known to compare it with.
        etag: of the answer, if it had one.
        last_modified: of the answer, if it had one.
        fetched: when, in UTC.
        licence: as shown when it was fetched.
    """

    url: str
    final_url: str
    file: str
    bytes: int
    sha256: str
    known_sha256: bool
    etag: str | None
    last_modified: str | None
    fetched: str
    licence: str


def write_origin(folder: Path, origin: Origin) -> None:
    """Write ``origin.json`` into a folder that is being made."""
    write_json(folder / ORIGIN, asdict(origin))


def read_origin(folder: Path) -> Origin | None:
    """Return where a model came from; None if it does not say, or not in a form that is known."""
    try:
        return Origin(**json.loads((folder / ORIGIN).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
