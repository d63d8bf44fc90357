"""The one table of the published forms."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctxdeploy.export.forms import cirtorch, dirtorch
from ctxdeploy.export.forms.form import Published, Whitening

_FORMS = (cirtorch, dirtorch)


def published(path: Path, content: Mapping[Any, Any], whitening: Whitening) -> Published | None:
    """Return the network of a checkpoint's content; None if it is in none of the forms.

    Raises:
        CheckpointError: it is in one of them, but not of a network that is known here.
    """
    for form in _FORMS:
        if form.claims(content):
            return form.load(path, content, whitening)
    return None
