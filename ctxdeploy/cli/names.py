"""``ctxdeploy names``."""

from pathlib import Path

import click

from ctxdeploy.archive import archive_folder
from ctxdeploy.cli.options import archive_argument, at_option, echo, json_option, print_json
from ctxdeploy.core.text import printable
from ctxdeploy.object_storage.place import shown_place
from ctxdeploy.photo_index import PhotoIndex


@click.command("names")
@archive_argument
@at_option
@json_option
def command(archive: Path, at: str | None, as_json: bool) -> None:
    r"""Print the names of all photos of ARCHIVE, one a line.

    A line end or a byte that is not UTF-8 is printed as an escape such as \n or \udcff; --json has the bytes of such
    a name too.
    """
    with PhotoIndex.open(archive_folder(archive), at=at) as index:
        names = sorted(index.names())
    if as_json:
        print_json({"archive": shown_place(archive), "names": names})
        return
    for name in names:
        echo(printable(name))
