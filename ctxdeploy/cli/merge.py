"""``ctxdeploy merge``."""

from dataclasses import asdict
from pathlib import Path

import click

from ctxdeploy.archive import check_precision, extraction_of, has_model, open_model
from ctxdeploy.cli.options import ARCHIVE, echo, json_option, print_json, quiet_option, written_archive_argument
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import counted, printable


@click.command("merge")
@written_archive_argument
@click.argument("others", type=ARCHIVE, metavar="OTHER...", nargs=-1, required=True)
@click.option(
    "--conflicts",
    type=click.Choice(["error", "keep", "replace"]),
    default="error",
    show_default=True,
    help="Names that are in both: merge nothing, keep ARCHIVE's photo, or take OTHER's.",
)
@json_option
@quiet_option
def command(archive: Path, others: tuple[Path, ...], conflicts: str, as_json: bool, quiet: bool) -> None:
    """Take the photos of every OTHER archive into ARCHIVE: all of them, or none. The others stay as they are.

    They must have been made with one model and one codebook (ctxdeploy index --codebook). Where the photos' files lie
    in no folder that ARCHIVE is indexed from, ctxdeploy index --sync takes the photos out again.
    """
    from ctxdeploy.index import Index

    for other in others if has_model(archive) else ():
        precision = (extraction_of(other) or {}).get("precision")
        if precision is None:
            continue
        model = open_model(archive, check_hashes=False)
        remark = check_precision(archive, model, precision, other=f" of {printable(str(other))}")
        if remark is not None:
            Display(quiet=quiet).say(remark)
    with Index.open(archive, writable=True) as index:
        with Display(quiet=quiet).progress("merging", len(others), "archives") as bar:
            merged = []
            for other in others:
                merged.append(index.merge(other, conflicts=conflicts))
                bar.advance()
        index.commit()
        total = len(index)
    if as_json:
        facts = [{"path": str(other), **asdict(one)} for other, one in zip(others, merged, strict=True)]
        print_json({"archive": str(archive), "images": total, "merged": facts})
        return
    for other, one in zip(others, merged, strict=True):
        echo(f"{printable(str(other))}: {one.added} photos added, {one.replaced} replaced, {one.kept} kept")
    echo(f"{printable(str(archive))}: {counted(total, 'photo')}")
