"""``ctxdeploy gc``."""

import click

from ctxdeploy.cli.options import echo, json_option, print_json
from ctxdeploy.core.text import counted, printable
from ctxdeploy.object_storage.garbage import DEFAULT_GRACE, collect
from ctxdeploy.object_storage.stores import open_objects

_DAY = 86400.0


@click.command("gc")
@click.argument("url")
@click.option(
    "--grace-days",
    type=float,
    default=DEFAULT_GRACE / _DAY,
    show_default=True,
    metavar="DAYS",
    help="Keep what was in force, or was sent, in the last days; at least 1.",
)
@json_option
def command(url: str, grace_days: float, as_json: bool) -> None:
    """Remove files at URL on object storage that no state of the archive there needs any more.

    Readers and publishers may be at work: what they may need is younger than --grace-days. Snapshots keep their files.
    Archives of this machine are collected by  ctxdeploy compact.
    """
    objects = open_objects(url)
    collected = collect(objects, grace_days * _DAY)
    if as_json:
        print_json({"url": objects.url, **collected.metadata()})
        return
    removed = f"{counted(collected.files, 'file')} and {counted(collected.states, 'former state')} removed"
    given_up = f", {counted(collected.uploads, 'unfinished upload')} given up" if collected.uploads else ""
    echo(f"{printable(objects.url)}: {removed} ({collected.bytes / 1e6:.1f} MB){given_up}; {collected.kept} files kept")
