"""``ctxdeploy repair``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ctxdeploy.archive import archive_problems, forget_damaged_origin, photo_place
from ctxdeploy.cli.options import echo, json_option, print_json, quiet_option, written_archive_argument
from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import counted, printable

if TYPE_CHECKING:
    from ctxdeploy.index import Repaired

# Lost photos that are named; the list has all.
NAMED_LOST = 5


@click.command("repair")
@written_archive_argument
@json_option
@quiet_option
def command(archive: Path, as_json: bool, quiet: bool) -> None:
    """Check every byte of ARCHIVE, drop what is damaged, and say which photos went with it.

    The exit code is 0 if the archive is sound now, and 15 if something is left that only its owner can mend.
    """
    from ctxdeploy.index import Index

    shown = Display(quiet=quiet)
    shown.say(f"reading every byte of {archive}")
    repaired = Index.repair(archive)
    damaged_origin = forget_damaged_origin(archive)
    problems = [*repaired.problems, *([damaged_origin] if damaged_origin is not None else [])]
    left = archive_problems(archive)
    if as_json:
        print_json({"archive": str(archive), **repaired.metadata(), "problems": problems, "left": left})
    else:
        _print(archive, repaired, problems, sound=not left)
    if left:
        for problem in left:
            echo(printable(problem), err=True)
        raise ArchiveError(f"{archive}: {counted(len(left), 'problem')} left: {_advice(archive, left)}")


def _print(archive: Path, repaired: "Repaired", problems: list[str], *, sound: bool) -> None:
    for problem in problems:
        echo(f"was damaged: {printable(problem)}")
    if repaired.returned:
        echo(f"{counted(repaired.back, 'removed photo')} came back, among {_some(repaired.returned)}")
    lost = len(repaired.lost) + repaired.unnamed
    if repaired.lost:
        echo(f"lost: {_some(repaired.lost)}; all are listed in {printable(str(repaired.list))}")
    if repaired.unnamed:
        echo(f"lost: {counted(repaired.unnamed, 'photo')} whose names are damaged too")
    if lost:
        folder = photo_place(archive)
        where = "DIR" if folder is None else printable(str(folder))
        echo(f"to index them again:  ctxdeploy index {where} -o {printable(str(archive))}")
    if problems or sound:
        state = f"repaired, {counted(lost, 'photo')} lost" if problems else "sound"
        echo(f"{printable(str(archive))}: {state}")


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(map(printable, names[:NAMED_LOST])) + (", …" if len(names) > NAMED_LOST else "")


def _advice(archive: Path, left: list[str]) -> str:
    """Return what mends the first of the problems that a repair leaves: those of snapshots and of the model."""
    path = printable(str(archive))
    if left[0].startswith("snapshot "):
        name = left[0].removeprefix("snapshot ").partition(":")[0]
        return f"give the snapshot up with  ctxdeploy snapshot {path} --remove {name}"
    return f"put the model back with  ctxdeploy index DIR -o {path} --model BUNDLE"
