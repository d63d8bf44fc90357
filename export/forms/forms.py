"""The one table of the published forms."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctxdeploy.export.forms import cirtorch, dirtorch
from ctxdeploy.export.forms.form import Published, Whitening


def published(path: Path, content: Mapping[Any, Any], whitening: Whitening) -> Published | None:
    """Return the network of a checkpoint's content; None if it is in none of the forms.

    Raises:
        CheckpointError: it is in one of them, but not of a network that is known here.
    """
    if cirtorch.claims(content):
        return cirtorch.load(path, content, whitening)
    if dirtorch.claims(content):
        return dirtorch.load(path, content, whitening)
    return None
