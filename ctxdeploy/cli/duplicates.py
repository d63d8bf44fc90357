"""``ctxdeploy duplicates``."""

import sys
from pathlib import Path

import click

from ctxdeploy.archive import archive_folder, open_state
from ctxdeploy.cli.options import (
    archive_argument,
    at_option,
    configured,
    echo,
    json_option,
    options_of,
    print_bytes,
    print_json,
    quiet_option,
)
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import counted, name_bytes, printable
from ctxdeploy.object_storage.place import shown_place
from ctxdeploy.pairs import DuplicatesConfig, find_duplicates


@click.command("duplicates")
@archive_argument
@at_option
@options_of(DuplicatesConfig)
@click.option("--redundant", is_flag=True, help="Print only the names that are not to be kept, for  remove --from -")
@json_option
@quiet_option
def command(archive: Path, at: str | None, redundant: bool, as_json: bool, quiet: bool) -> None:
    """Find the photos of ARCHIVE that are in it more than once: recompressed, resized a little, cut at an edge.

    Neither the files nor the network are needed. Before each name stands its score with the nearest of its group; the
    first of a group, the largest file, is the one to keep.

    \b
    ctxdeploy duplicates ARCHIVE --redundant | ctxdeploy remove ARCHIVE --from -
    """
    if redundant and as_json:
        raise ConfigError("--redundant prints names, --json the groups: give one of them")
    config, shown = configured(DuplicatesConfig), Display(quiet=quiet)
    with open_state(archive_folder(archive), at) as index:
        groups = find_duplicates(index, config, shown)
        photos = len(index)
    rest = [one.name for group in groups for one in group[1:]]
    if as_json:
        facts = [[{"name": one.name, "score": one.score, "size": one.size} for one in group] for group in groups]
        print_json(
            {
                "archive": shown_place(archive),
                "min_score": config.least_score,
                "photos": photos,
                "groups": facts,
                "redundant": rest,
            }
        )
        return
    found = f"{counted(len(groups), 'group')}, {counted(len(rest), 'photo')} besides those to keep, of {photos:,}"
    if redundant:
        shown.say(found)
        _print_names(rest)
        return
    for group in groups:
        echo(f"{counted(len(group), 'photo')}", f"  keep      {printable(group[0].name)}")
        echo(*(f"  {one.score:.5f}   {printable(one.name)}" for one in group[1:]))
    echo(f"{printable(shown_place(archive))}: {found}")


def _print_names(names: list[str]) -> None:
    """Print names as  remove --from  reads them: in their own bytes, or for people on a terminal."""
    broken = next((name for name in names if "\n" in name), None)
    if broken is not None:
        raise ConfigError(f"{printable(broken)!r} has a line end: a list has one name a line; use --json")
    if sys.stdout is not None and sys.stdout.isatty():
        for name in names:
            echo(name)
        return
    print_bytes(*(name_bytes(name) + b"\n" for name in names))
