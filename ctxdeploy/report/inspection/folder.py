"""The folder of an inspection: ``index.html``, ``inspection.json`` and the pictures, written whole or not at all."""

import io
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import ConfigError, StorageError
from ctxdeploy.core.files import TEMPORARY, move, working_folder
from ctxdeploy.core.text import json_ready, printable
from ctxdeploy.core.types import Preprocessing
from ctxdeploy.report.inspection.facts import FORMAT_NAME, facts_of
from ctxdeploy.report.inspection.page import page_of
from ctxdeploy.report.inspection.pictures import draw

if TYPE_CHECKING:
    from ctxdeploy.runtime.inspection import Inspection

PAGE, FACTS = "index.html", "inspection.json"
# Every name that is ever written; nothing else is ever replaced or removed.
_OURS = re.compile(
    r"index\.html|inspection\.json|\.tmp-[0-9a-f]{8}-index\.html"
    r"|(input|whole|attention|selected|bandwidth|confidence|edges|similarity|superfeature)(-[\d.]+)?\.png"
)
# Pixels of the longest side of the whole photo, where a part of it is inspected.
_WHOLE_PIXELS = 1024


def check_inspection(folder: Path) -> None:
    """Raise ``ConfigError`` unless a folder can take an inspection: it is missing, empty, or holds an earlier one."""
    if not os.path.lexists(folder):
        return
    shown = printable(str(folder))
    if not folder.is_dir():
        raise ConfigError(f"{shown} is a file, not a folder: choose another -o")
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 (Path.iterdir raises late)
    except OSError as error:
        raise StorageError(f"{shown} cannot be listed: {error.strerror or error}; choose another -o") from error
    names = [name for name in names if not name.startswith(TEMPORARY)]  # what a killed run left
    others = [name for name in names if not _OURS.fullmatch(name)]
    if names and (others or not _is_inspection(folder / FACTS)):
        named = printable((others or names)[0])
        raise ConfigError(f"{shown} holds {named}, which  ctxdeploy inspect  did not write: choose another -o")


def write_inspection(folder: Path, found: "Inspection", bundle: Bundle, photo: Path, edges: int) -> dict[str, Any]:
    """Draw an inspection, write its page, and return its facts.

    Args:
        folder: as ``check_inspection`` takes it; the files of an earlier inspection in it are replaced.
        found: what was found.
        bundle: that it was found with.
        photo: the file.
        edges: drawn of each block, at most.

    Raises:
        ConfigError: the folder holds something else.
        StorageError: it cannot be written; an earlier inspection in it stays.
    """
    pictures = draw(found, edges, _whole(found, photo))
    facts = facts_of(found, pictures, bundle, photo, edges)
    files: dict[str, bytes] = {}
    for picture in pictures:
        buffer = io.BytesIO()
        # 14.7 MB for seven scales at 1024×768; level 9 takes ten times as long and saves 5 %.
        picture.image.save(buffer, "PNG", compress_level=3)
        files[picture.file] = buffer.getvalue()
    files[FACTS] = (json.dumps(json_ready(facts), indent=2, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")
    files[PAGE] = page_of(facts, pictures).encode("utf-8")
    check_inspection(folder)
    _write(folder, files)
    return facts


def _whole(found: "Inspection", photo: Path) -> Any:
    """Return the whole photo, H×W×3 uint8, where a part of it was inspected."""
    from ctxdeploy.runtime import decode_photo

    if found.preparation.box is None:
        return None
    return decode_photo(photo, Preprocessing(image_size=_WHOLE_PIXELS, draft=True)).pixels


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder of their own beside their places, then move them there, the page last."""
    made = not folder.exists()
    try:
        with working_folder(folder / PAGE, advice="choose another -o") as staging:
            for name, content in files.items():
                (staging / name).write_bytes(content)
            # From here on files are only renamed and removed. The facts come first: they say whose the folder is.
            (folder / PAGE).unlink(missing_ok=True)
            for name in sorted(files, key=lambda name: (name == PAGE, name != FACTS)):
                move(staging / name, folder / name)
            for path in folder.iterdir():
                if path != staging and path.name not in files and _OURS.fullmatch(path.name):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        if made and not (folder / PAGE).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _is_inspection(path: Path) -> bool:
    try:
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(facts, dict) and facts.get("format") == FORMAT_NAME
