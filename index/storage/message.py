"""Arrays with facts in one text of bytes, laid out as our files are: what processes send each other."""

import json
from collections.abc import Mapping
from typing import Any

from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.core.files import piece_bytes
from ctxdeploy.index.storage import format as file_format

# Of the facts; arrays hold what may be long.
MAX_FACTS = 1 << 16


def write_message(name: str, version: int, facts: Mapping[str, Any], arrays: file_format.Arrays) -> bytes:
    """Return a message; the same facts and arrays give the same bytes.

    Args:
        name: of the kind of messages.
        version: of it.
        facts: that fit into JSON, up to 64 kB.
        arrays: little-endian, of the dtypes of our files.
    """
    text = json.dumps(facts, allow_nan=False, sort_keys=True)
    if len(text) > MAX_FACTS:
        raise ValueError(f"{len(text)} bytes of facts are above {MAX_FACTS}")
    metadata = {"format": name, "format_version": str(version), "facts": text}
    return b"".join(piece_bytes(piece) for piece in file_format.encode(arrays, metadata))


def read_message(data: bytes, name: str, version: int, where: str) -> tuple[dict[str, Any], file_format.Arrays]:
    """Return facts and arrays of a message, every offset checked; the arrays are views of it, and read-only.

    Args:
        data: of any origin.
        name: of the kind of messages that is wanted,
        version: and of its version.
        where: the message in errors.

    Raises:
        ArchiveError: it is none; the text says what is wrong.
    """
    arrays, metadata = file_format.decode(data, where)
    file_format.check_version(metadata, name, (version,), where)
    text = metadata.get("facts", "")
    if len(text) > MAX_FACTS:
        raise ArchiveError(f"{where} is damaged: {len(text)} bytes of facts are above {MAX_FACTS}")
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{where} is damaged: its facts are not valid JSON") from error
    if not isinstance(facts, dict):
        raise ArchiveError(f"{where} is damaged: its facts are not an object")
    return facts, arrays
