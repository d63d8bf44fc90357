"""``ctxdeploy publish``."""

from pathlib import Path

import click

from ctxdeploy.cli.options import PATH, archive_argument, echo, json_option, model_option, print_json, quiet_option
from ctxdeploy.cluster.publish import PublishReceipt, publish
from ctxdeploy.cluster.segment import FoundSegments, find_segments
from ctxdeploy.core.errors import ConfigError, SomePhotosFailedError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import counted, printable
from ctxdeploy.models import find_bundle
from ctxdeploy.object_storage.fetch import working_archive

# Missing parts that are named.
_NAMED = 8


@click.command("publish")
@archive_argument
@click.argument("parts", type=PATH, nargs=-1, metavar="PARTS...", required=True)
@model_option
@click.option("--moved", is_flag=True, help="The photos are the archive's, at another path.")
@json_option
@quiet_option
def command(archive: Path, parts: tuple[Path, ...], model: str | None, moved: bool, as_json: bool, quiet: bool) -> None:
    """Take the segments of  ctxdeploy extract  into ARCHIVE, new or not: all of them in one commit, or none.

    PARTS are segments, or folders that hold some. Their files are linked or copied; nothing is computed. A photo that
    is there in the same state of its file stays; else the one whose file was changed last is kept. Publishing again
    what is there changes nothing. The segments stay, and may be deleted afterwards.

    ARCHIVE may be a URL (s3://…): then the archive here is published there afterwards (ctxdeploy push).
    """
    shown = Display(quiet=quiet, as_json=as_json)
    found = find_segments(parts)
    if not found.segments:
        raise ConfigError(f"{printable(str(parts[0]))} holds unfinished segments alone: run  ctxdeploy extract  again")
    _remark(found, shown)
    bundle = None if model is None else find_bundle(model)
    with working_archive(archive, shown) as local:
        receipt = publish(local, found.segments, shown, model=bundle, moved=moved)
        _print(local, receipt, as_json)
        failed = receipt.totals["failed"]
        if failed and receipt.changed:
            raise SomePhotosFailedError(
                f"{failed} photos of the segments could not be read; see  ctxdeploy info {printable(str(local))} "
                "--failures"
            )


def _remark(found: FoundSegments, shown: Display) -> None:
    """Say what is not there."""
    if found.missing:
        names = ", ".join(f"{part.number}/{part.count}" for part in found.missing[:_NAMED])
        more = ", …" if len(found.missing) > _NAMED else ""
        shown.say(f"no segment of {counted(len(found.missing), 'part')}: {names}{more}")
    for work in found.unfinished:
        shown.say(f"{work} is not finished: run its  ctxdeploy extract  again, or delete it")


def _print(archive: Path, receipt: PublishReceipt, as_json: bool) -> None:
    if as_json:
        print_json({"archive": str(archive), **receipt.metadata()})
        return
    totals = receipt.totals
    kinds = ("replaced", "unchanged", "older")
    facts = [
        f"{counted(totals['added'], 'photo')} added",
        *(f"{totals[kind]} {kind}" for kind in kinds if totals[kind]),
    ]
    facts.append(f"{totals['failed']} failed")
    done = "" if receipt.changed else "; all was there already"
    number = counted(len(receipt.segments), "segment")
    echo(f"{printable(str(archive))}: {number}, {', '.join(facts)}; {counted(receipt.images, 'photo')}{done}")
