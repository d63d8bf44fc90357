"""``ctxdeploy remove``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ctxdeploy.archive import photo_folder
from ctxdeploy.cli.options import PATH, echo, json_option, names_in, print_json, quiet_option, written_archive_argument
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import counted, native_path, photo_name, printable, printed_names

if TYPE_CHECKING:
    from ctxdeploy.index import Index

# Unknown names that are shown; JSON has all.
NAMED_UNKNOWN = 5


@click.command("remove")
@written_archive_argument
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--from", "source", type=PATH, metavar="FILE", help="Names from a file, one a line; - reads stdin.")
@json_option
@quiet_option
def command(archive: Path, names: tuple[str, ...], source: Path | None, as_json: bool, quiet: bool) -> None:
    """Remove photos from ARCHIVE by the names that queries print. The photos' files stay.

    Names that are not in the archive are reported; if none is in it, the exit code is 2.
    """
    from ctxdeploy.index import Index

    if not names and source is None:
        raise ConfigError("no photos to remove: give their names, or --from FILE")
    given = map(photo_name, names)
    wanted = list(
        dict.fromkeys([*given, *(names_in(source, "--from", Display(quiet=quiet)) if source is not None else [])])
    )
    with Index.open(archive, writable=True) as index:
        unknown = _unknown(index, wanted)
        if printed := printed_names(unknown, index.names() if unknown else ()):
            wanted = [printed.get(name, name) for name in wanted]
            unknown = [name for name in unknown if name not in printed]
        removed = index.remove(wanted)
        index.commit()
        left = len(index)
    if as_json:
        print_json({"archive": str(archive), "removed": removed, "images": left, "unknown": unknown})
    elif removed or not wanted:
        echo(f"{printable(str(archive))}: {counted(removed, 'photo')} removed, {left} left")
    if unknown:
        shown = ", ".join(map(printable, unknown[:NAMED_UNKNOWN])) + (", …" if len(unknown) > NAMED_UNKNOWN else "")
        if not removed:
            raise ConfigError(f"not in {archive}: {shown} (names are as  ctxdeploy query  prints them)")
        echo(f"ctxdeploy: not in the archive: {shown}", err=True)
    _remark(archive, wanted, unknown, Display(quiet=quiet))


def _unknown(index: "Index", names: list[str]) -> list[str]:
    try:
        return [name for name in names if name not in index]
    except UnicodeError as error:
        raise ConfigError(f"a name cannot be that of a photo: {error}") from error


def _remark(archive: Path, names: list[str], unknown: list[str], shown: Display) -> None:
    """Say if photos would come back by themselves."""
    folder = photo_folder(archive)
    absent = set(unknown)
    if folder is None or not folder.is_dir():
        return
    there = sum(os.path.lexists(folder / native_path(name)) for name in names if name not in absent)
    if there:
        shown.say(f"{counted(there, 'file')} still in {folder}: the next  ctxdeploy index  adds what is there again")
