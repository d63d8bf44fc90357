"""``ctxdeploy pairs``."""

from pathlib import Path
from typing import Any

import click
import numpy as np

from ctxdeploy.archive import archive_folder
from ctxdeploy.cli.options import (
    PATH,
    archive_argument,
    at_option,
    configured,
    echo,
    json_option,
    options_of,
    print_bytes,
    print_json,
    quiet_option,
    search_device_option,
)
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.files import check_target
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import counted, printable
from ctxdeploy.object_storage.place import shown_place
from ctxdeploy.pairs import FORMATS, FoundPairs, PairsConfig, check_names, encode_pairs, write_pairs
from ctxdeploy.photo_index import PhotoIndex

# Bridges and photos that are named; --json has all.
_SHOWN = 5


@click.command("pairs")
@archive_argument
@at_option
@click.option("-o", "--output", type=PATH, required=True, metavar="FILE", help="File of the pairs; - for stdout.")
@options_of(PairsConfig)
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
    default="hloc",
    show_default=True,
    help="Who is to read the file.",
)
@click.option(
    "--allow-spaces", is_flag=True, help="Write names with blanks as they are, which hloc and COLMAP misread."
)
@search_device_option
@json_option
@quiet_option
def command(
    archive: Path,
    at: str | None,
    output: Path,
    form: str,
    allow_spaces: bool,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write the pairs of ARCHIVE's photos that are worth matching, for hloc, COLMAP, kapture or MASt3R.

    Each photo is paired with the K others that a search with its archived codes finds first: neither its file nor the
    network is needed. Each pair stands in the file once, and no photo with itself. Of each first photo the best pair
    stands first. The file appears whole, or not at all. With --format csv, inliers and probability
    follow the score where they were asked for.
    """
    to_stdout = str(output) == "-"
    if to_stdout and as_json:
        raise ConfigError("--json and -o - would both write to stdout: give the pairs a file")
    config, shown = configured(PairsConfig), Display(quiet=quiet)
    check_names([], form, allow_spaces=allow_spaces)
    if not to_stdout:
        check_target(output, advice="choose another -o")
    with PhotoIndex.open(archive_folder(archive), at=at, device=device) as index:
        if config.queries is None and config.mapped is None:  # said before a search of an hour
            check_names(sorted(index.names()), form, allow_spaces=allow_spaces)
        found = index.pairs(config, display=shown)
    there = np.unique(np.concatenate([found.first, found.second]))
    check_names((found.names[i] for i in there), form, allow_spaces=allow_spaces)
    if to_stdout:
        for piece in encode_pairs(found, form):
            print_bytes(piece)
    else:
        write_pairs(output, found, form)
    if as_json:
        print_json(
            {"archive": shown_place(archive), "output": str(output), "format": form, **_summary(found, len(there))}
        )
        return
    lines = _lines(found, len(there))
    head = f"{'stdout' if to_stdout else printable(str(output))}: {lines[0]}"
    for line in (head, *lines[1:]):
        shown.say(line) if to_stdout else echo(line)


def _summary(found: FoundPairs, photos: int) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    facts: dict[str, Any] = {"pairs": len(found), "photos": len(found.names), "asked": found.asked, "paired": photos}
    if found.parts is not None and found.alone is not None:
        further = {name: column[found.bridges].tolist() for name, column in found.further.items()}
        bridges = [
            {
                "name": pair.name,
                "other": pair.other,
                "score": pair.score,
                **{name: of[i] for name, of in further.items()},
            }
            for i, pair in enumerate(found.at(found.bridges))
        ]
        facts |= {
            "bridges": bridges,
            "parts": found.parts,
            "alone": found.alone,
            "without_descriptors": found.without_descriptors,
        }
    return facts


def _lines(found: FoundPairs, photos: int) -> list[str]:
    """Return what is said of the pairs."""
    lines = [f"{counted(len(found), 'pair')} of {counted(photos, 'photo')}; {found.asked:,} looked for others"]
    if found.parts is None or found.alone is None:
        return lines
    bridges = list(found.at(found.bridges))
    shown = "; ".join(f"{pair.name} {pair.other} ({pair.score:.5f})" for pair in bridges[:_SHOWN])
    more = "; …" if len(bridges) > _SHOWN else ""
    lines.append(f"{counted(len(bridges), 'bridge')} added{': ' if bridges else ''}{shown}{more}")
    if found.parts > 1:
        lines.append(f"! {found.parts:,} parts are left that nothing joins")
    if found.alone:
        names = ", ".join(found.alone[:_SHOWN]) + (", …" if len(found.alone) > _SHOWN else "")
        lines.append(
            f"! {counted(len(found.alone), 'photo')} in no pair, {found.without_descriptors:,} of them without any "
            f"descriptor: {names}"
        )
    return lines
