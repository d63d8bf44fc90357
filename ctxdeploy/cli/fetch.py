"""``ctxdeploy fetch``."""

from pathlib import Path

import click

from ctxdeploy.cli.options import ARCHIVE, echo, json_option, print_json, quiet_option
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import printable
from ctxdeploy.object_storage.fetch import fetch, update
from ctxdeploy.object_storage.published import CURRENT
from ctxdeploy.object_storage.stores import open_objects


@click.command("fetch")
@click.argument("url")
@click.argument("archive", type=ARCHIVE, required=False)
@json_option
@quiet_option
def command(url: str, archive: Path | None, as_json: bool, quiet: bool) -> None:
    """Make ARCHIVE here from the one at URL on object storage, or take in what was published there since.

    Without ARCHIVE it is called as the last part of URL, in this folder. It can be written, and published again with
    ctxdeploy push. To search, nothing has to be fetched:  ctxdeploy query --index URL  keeps what it needs by itself.
    """
    shown, objects = Display(quiet=quiet, as_json=as_json), open_objects(url)
    folder = archive or Path(objects.url.rpartition("/")[2])
    changed = True
    if (folder / CURRENT).exists():
        changed = update(objects, folder, shown)
    else:
        fetch(objects, folder, shown)
    if as_json:
        print_json({"archive": str(folder), "url": objects.url, "changed": changed})
    else:
        said = "fetched" if changed else "nothing newer is there"
        echo(f"{printable(str(folder))}: {said} ({printable(objects.url)})")
