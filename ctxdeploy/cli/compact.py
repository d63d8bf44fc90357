"""``ctxdeploy compact``."""

from pathlib import Path

import click

from ctxdeploy.cli.options import echo, json_option, print_json, quiet_option, written_archive_argument
from ctxdeploy.core.files import folder_bytes
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import printable


@click.command("compact")
@written_archive_argument
@click.option("--purge", is_flag=True, help="Leave nothing of any removed photo, not only where it is worth it.")
@click.option(
    "--by-name", is_flag=True, help="Write all anew, photos by name: archives of the same photos become the same bytes."
)
@json_option
@quiet_option
def command(archive: Path, purge: bool, by_name: bool, as_json: bool, quiet: bool) -> None:
    """Merge the small shards of ARCHIVE, drop the descriptors of removed photos, and remove files of former states.

    Snapshots and states that are being read keep their files.
    """
    from ctxdeploy.index import Index

    shown = Display(quiet=quiet)
    before = folder_bytes(archive)
    with Index.open(archive, writable=True) as index:
        shards = index.info()["shards"]
        with shown.steps("compacting") as step:
            merged = index.compact(purge=purge, by_name=by_name, progress=step)
        removed = index.collect_garbage()
        shards_after, after = index.info()["shards"], folder_bytes(archive)
        kept = [snapshot.name for snapshot in index.snapshots()]
    if as_json:
        print_json(
            {
                "archive": str(archive),
                "merged": merged,
                "shards": {"before": shards, "after": shards_after},
                "files_removed": len(removed),
                "bytes": {"before": before, "after": after},
            }
        )
    else:
        echo(f"{printable(str(archive))}: {shards} to {shards_after} shards, {before:,} to {after:,} bytes")
    if kept:
        shown.say(f"what the snapshots {', '.join(kept)} need is still there, removed photos too")
