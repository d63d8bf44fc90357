"""``ctxdeploy push``."""

from pathlib import Path

import click

from ctxdeploy.cli.options import archive_argument, echo, json_option, print_json, quiet_option
from ctxdeploy.core.progress import Display
from ctxdeploy.object_storage.fetch import described
from ctxdeploy.object_storage.push import push
from ctxdeploy.object_storage.stores import open_objects


@click.command("push")
@archive_argument
@click.argument("url")
@click.option("--replace", is_flag=True, help="Put ARCHIVE in the place of what is there, wherever that came from.")
@click.option("--check", is_flag=True, help="Send all files anew: one of them may be damaged there.")
@json_option
@quiet_option
def command(archive: Path, url: str, replace: bool, check: bool, as_json: bool, quiet: bool) -> None:
    """Publish ARCHIVE at URL on object storage (s3://bucket/photos.ctxindex), where others read it.

    Files that are not there yet are sent and checked; then the new state takes the place of the one before, as a whole.
    An interrupted run changes nothing there; the same command goes on. What another machine has published meanwhile is
    never overwritten unless  --replace  says so.
    """
    shown = Display(quiet=quiet, as_json=as_json)
    receipt = push(archive, open_objects(url), shown, replace=replace, check=check)
    if as_json:
        print_json({"archive": str(archive), **receipt.metadata()})
    else:
        echo(described(receipt))
