"""``ctxdeploy snapshot``."""

from dataclasses import asdict
from pathlib import Path

import click

from ctxdeploy.cli.options import echo, json_option, print_json, quiet_option, written_archive_argument
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import printable


@click.command("snapshot")
@written_archive_argument
@click.argument("name", required=False)
@click.option("--remove", metavar="NAME", help="Forget a snapshot.")
@json_option
@quiet_option
def command(archive: Path, name: str | None, remove: str | None, as_json: bool, quiet: bool) -> None:
    """Keep the state of ARCHIVE as NAME, or list its snapshots. They are made also while another process writes.

    ctxdeploy query --at NAME  answers from a snapshot, whatever happens to the archive later.
    """
    from ctxdeploy.index import Index

    if name is not None and remove is not None:
        raise ConfigError(f"a snapshot to make ({name}) and --remove {remove} exclude each other")
    shown = Display(quiet=quiet)
    with Index.open(archive) as index:
        if remove is not None:
            index.remove_snapshot(remove)
            shown.say("what only it needed goes with the next  ctxdeploy compact  or  ctxdeploy index --gc")
        made = [index.snapshot(name)] if name is not None else []
        snapshots = index.snapshots()
    if as_json:
        print_json({"archive": str(archive), "snapshots": [asdict(snapshot) for snapshot in snapshots]})
        return
    for snapshot in made or snapshots:
        echo(f"{snapshot.name}  manifest {snapshot.manifest}  {snapshot.created}")
    if not snapshots and remove is None:
        shown.say(f"{printable(str(archive))} has no snapshots")
