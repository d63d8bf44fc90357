"""``ctxdeploy unlock``."""

from pathlib import Path

import click

from ctxdeploy.archive import is_archive
from ctxdeploy.cli.options import archive_argument, echo, json_option, print_json
from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.core.text import printable


@click.command("unlock")
@archive_argument
@json_option
def command(archive: Path, as_json: bool) -> None:
    """Take ARCHIVE from a process of another machine that will not write it any more, without waiting for its silence.

    What that process had committed stays. If it lives, it commits nothing any more, and ends with exit code 28. A
    process of this machine that writes the archive keeps it (exit code 15): stop it.
    """
    from ctxdeploy.index import break_lease

    if not is_archive(archive):
        raise ArchiveError(f"{archive} is not an archive: name a folder made by  ctxdeploy index")
    found = break_lease(archive)
    if as_json:
        print_json({"archive": str(archive), "writer": None if found is None else found[0].metadata(found[1])})
    elif found is None:
        echo(f"{printable(str(archive))}: nobody writes it")
    else:
        echo(f"{printable(str(archive))}: taken from process {printable(found[0].told(found[1]))}")
