"""The forms in which authors publish networks with a global descriptor: one file for each program that writes them."""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.export.forms.form import Published, Whitening
    from ctxdeploy.export.forms.forms import published

__all__ = ["Published", "Whitening", "published"]

_HOMES = {"Published": "form", "Whitening": "form", "published": "forms"}

__getattr__, __dir__ = door(__name__, _HOMES)
