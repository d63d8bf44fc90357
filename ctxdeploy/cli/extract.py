"""``ctxdeploy extract``."""

from pathlib import Path

import click

from ctxdeploy.archive import has_model, is_archive, open_model
from ctxdeploy.cli.options import (
    PATH,
    ParsedType,
    check_is_here,
    check_values,
    configured,
    echo,
    json_option,
    model_option,
    names_in,
    options_of,
    print_json,
    quiet_option,
    with_values,
)
from ctxdeploy.cluster.config import SegmentConfig, named, part_of_place
from ctxdeploy.cluster.destination import destination_of
from ctxdeploy.cluster.unit import Receipt, SegmentMaker
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.bundle import open as open_bundle
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.part import Part
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import counted, printable
from ctxdeploy.models import find_model
from ctxdeploy.runtime import BackendConfig, Extractor, ExtractorConfig
from ctxdeploy.runtime.sources import PhotoList, RemoteConfig, Selection, list_photos


class _Command(click.Command):
    """Leaves PLACE alone after an option without a value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, with_values(args, SegmentConfig))
        except click.UsageError as error:
            check_values(error, args, SegmentConfig)
            raise


@click.command("extract", cls=_Command)
@click.argument("place", shell_complete=PATH.shell_complete)
@click.option("-o", "--output", type=PATH, metavar="PARTS", required=True, help="Folder of the segments.")
@click.option(
    "--part",
    type=ParsedType(Part.parse),
    metavar="I/N",
    help="Of N parts the I-th, from 1 on: a run of the sorted names. [default: all photos]",
)
@click.option("--names", type=PATH, metavar="FILE", help="The photos of these names, one a line; - reads stdin.")
@model_option
@click.option("--recursive/--no-recursive", default=True, show_default=True, help="Look into folders below.")
@click.option(
    "--work", type=PATH, metavar="DIR", help="Folder of unfinished segments, such as a local disk's. [default: PARTS]"
)
@options_of(SegmentConfig, Selection, ExtractorConfig, RemoteConfig, BackendConfig)
@json_option
@quiet_option
def command(
    place: str,
    output: Path,
    part: Part | None,
    names: Path | None,
    model: str | None,
    recursive: bool,
    work: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Extract a part of the photos of PLACE into a segment in PARTS, which  ctxdeploy publish  takes into an archive.

    Run it on every machine with another --part; it needs no other machine. A segment is there whole or not at all, and
    its name says what it was made from: where it is there already nothing is done. An interrupted run goes on.

    All segments of an archive need one model, one codebook and one set of settings. Photos that cannot be read are
    listed in the segment; the exit code is 0 then too, and  publish  says 19.
    """
    if part is not None and names is not None:
        raise ConfigError("--part and --names exclude each other: give one of them")
    for flag, folder in (("-o", output), ("--work", work)):
        check_is_here(folder, f"({flag}) is on object storage", "give a folder, and copy the segments with other tools")
    config, shown = configured(SegmentConfig), Display(quiet=quiet, as_json=as_json)
    given = None if names is None else names_in(names, "--names", shown)
    listed = list_photos(place, recursive=recursive, remote=configured(RemoteConfig), selection=configured(Selection))
    photos = _chosen(listed, part, given, names)
    bundle = _model(model, config)
    destination = destination_of(config, bundle)
    extractor = Extractor(bundle, backend=configured(BackendConfig), config=configured(ExtractorConfig))
    about = extractor.description()
    which = "" if part is None else f", part {part.number}/{part.count}"
    shown.say(
        f"{counted(len(photos.photos), 'photo')} of {len(listed.photos)}{which}; "
        f"{about['backend']} {about['precision']} on {about['device']}"
    )
    try:
        receipt = SegmentMaker(output, extractor, destination, config, shown, work).make(photos, part)
    except KeyboardInterrupt:
        echo("ctxdeploy: what was done is kept; run the same command again to continue", err=True)
        raise
    _print(receipt, as_json)


def _chosen(listed: PhotoList, part: Part | None, names: list[str] | None, source: Path | None) -> PhotoList:
    if part is not None:
        return part_of_place(part, listed)
    return listed if names is None else named(listed, names, f"--names {source}")


def _model(model: str | None, config: SegmentConfig) -> Bundle:
    """Return the named model; else that of the archive that the segment is for; else the one that ``index`` takes."""
    given = config.codebook
    if model is None and given is not None and is_archive(given) and has_model(given):
        return open_model(given)
    return open_bundle(find_model(model))


def _print(receipt: Receipt, as_json: bool) -> None:
    if as_json:
        print_json(receipt.metadata())
        return
    done = f"in {receipt.seconds:.1f} s" if receipt.is_new else "was there already"
    echo(
        f"{printable(str(receipt.segment))}: {counted(receipt.images, 'photo')}, {receipt.failed} failed, "
        f"{receipt.bytes / 1e6:.1f} MB, {done}"
    )
