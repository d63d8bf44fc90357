"""Photos, some of which cannot be read, one machine's archive of them, and segments of it in three parts."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ctxdeploy import PhotoIndex
from ctxdeploy.core.errors import SomePhotosFailedError
from ctxdeploy.core.samples import ViewConfig, make_view, sample_photo
from ctxdeploy.index import Index

SCENES = ("astronaut", "coffee", "rocket", "coins")


def content(archive: Path) -> dict[str, str]:
    """Return the hash of every file that archives of the same photos, in the same order, have in common."""
    files = [*archive.glob("shards/*"), *archive.glob("names/*"), archive / "codebook.safetensors"]
    return {str(path.relative_to(archive)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
