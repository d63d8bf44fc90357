"""Pages for people: data drawn by Jinja2 templates that share one base, one stylesheet and their macros.

Whatever is printed is escaped, and characters that hide or turn the text around them are shown as escapes. A page runs
no script and loads nothing: its Content-Security-Policy says so.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import ctxdeploy
from ctxdeploy.core.files import write_text

# Control characters, marks and overrides of the direction of text, separators of lines, and halves of surrogate pairs.
_UNPRINTED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a table: its text, a smaller line under it, and its CSS classes (``bad``, ``good``, ``text``…)."""

    text: str
    note: str = ""
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table: its head with a smaller line under it, its cells, and the style of its line in the plots."""

    head: str
    cells: Sequence[Cell | str]
    note: str = ""
    style: Any = None


@cache
def environment() -> Environment:
    """Return the environment that draws the templates of ``ctxdeploy/report/templates``."""
    made = Environment(
        loader=PackageLoader("ctxdeploy.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=displayed,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["version"] = ctxdeploy.__version__
    made.filters |= {"number": number, "percentage": percentage, "size": size, "words": words}
    return made


def write_page(path: Path, template: str, page: object, *, option: str) -> None:
    """Draw a page and write it durably: whole, or not at all.

    Args:
        path: the file.
        template: name of its template.
        page: what the template calls ``page``.
        option: of the command line, that chose the file.

    Raises:
        StorageError: the file cannot be written.
    """
    write_text(path, render(template, page), advice=f"choose another {option}")


def render(template: str, page: object) -> str:
    """Return a page as HTML."""
    return environment().get_template(template).render(page=page)


def displayed(value: object) -> object:
    r"""Return what a page prints of a value.

    Halves of surrogate pairs (bytes of a file name that are not UTF-8) become replacement characters; control
    characters and marks of direction become escapes such as ``\x1b``.
    """
    if isinstance(value, Markup):
        return value
    return _UNPRINTED.sub(_escape, str(value))


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    return "\ufffd" if "\ud800" <= character <= "\udfff" else character.encode("unicode_escape").decode()


def number(value: float, percent: bool = False) -> str:
    """Return a number with three digits, or a share in percent."""
    return f"{100 * value:.3g} %" if percent else f"{value:.3g}"


def percentage(share: float) -> str:
    """Return a share as a length in CSS."""
    return f"{100 * share:.3f}%"


def size(sides: Sequence[int]) -> str:
    """Return a (width, height) in pixels or cells."""
    return f"{sides[0]:,}×{sides[1]:,}"


def words(key: object) -> str:
    """Return a key of JSON in words."""
    return str(key).replace("_", " ")
