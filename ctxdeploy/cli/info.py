"""``ctxdeploy info``."""

from pathlib import Path
from typing import Any

import click

from ctxdeploy.archive import is_archive, is_bundle
from ctxdeploy.cli.options import ANY_FOLDER, at_option, json_option, print_json
from ctxdeploy.core import bundle
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.text import printable
from ctxdeploy.models import find_bundle
from ctxdeploy.photo_index import PhotoIndex


@click.command("info")
@click.argument("path", type=ANY_FOLDER, metavar="BUNDLE|ARCHIVE")
@at_option
@click.option("--failures", is_flag=True, help="Only the photos that could not be read, one JSON object a line.")
@json_option
def command(path: Path, at: str | None, failures: bool, as_json: bool) -> None:
    """Say what a BUNDLE or an ARCHIVE holds, and which photos of an archive could not be read."""
    if failures:
        with PhotoIndex.open(path, at=at) as index:
            for failure in index.failures():
                print_json(failure)
        return
    facts = describe(path, at)
    if as_json:
        print_json(facts)
        return
    _print(facts)


def describe(path: Path, at: str | None = None) -> dict[str, Any]:
    """Return the content of a bundle or an archive, perhaps as it was at another state, as JSON takes it."""
    path = path if is_archive(path) else find_bundle(path)
    if is_archive(path):
        with PhotoIndex.open(path, at=at) as index:
            return {**index.info(), "failed_photos": index.failures()}
    if is_bundle(path):
        if at is not None:
            raise ConfigError(f"--at {at}: {path} is a bundle, which has one state: leave out --at")
        return {"kind": "bundle", "path": str(path), **bundle.open(path, check_hashes=False).metadata()}
    raise not_either(path)


def not_either(path: Path) -> ConfigError:
    """Return the error for a path that is neither a bundle nor an archive."""
    what = "is neither a bundle nor an archive" if path.exists() else "does not exist"
    return ConfigError(f"{printable(str(path))} {what}: name a folder made by  ctxdeploy export  or  index")


def _print(facts: dict[str, Any], indent: int = 0) -> None:
    for key, value in facts.items():
        label = " " * indent + key.replace("_", " ")
        if isinstance(value, dict):
            click.echo(f"{label}:")
            _print(value, indent + 2)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            click.echo(f"{label}: {len(value)}")
            for item in value:
                simple = ((k, v) for k, v in item.items() if not isinstance(v, dict | list))
                click.echo(" " * (indent + 2) + ", ".join(f"{k} {_text(v)}" for k, v in simple))
                nested = {k: v for k, v in item.items() if isinstance(v, dict)}
                _print(nested, indent + 4)
        else:
            click.echo(f"{label}: {_text(value)}")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value) or "none"
    return "none" if value is None else printable(str(value))
