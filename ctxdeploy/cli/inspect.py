"""``ctxdeploy inspect``."""

from pathlib import Path
from typing import Any

import click

import ctxdeploy.core.bundle
from ctxdeploy.cli.options import (
    PATH,
    configured,
    echo,
    json_option,
    model_option,
    options_of,
    print_json,
    quiet_option,
)
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import counted, printable
from ctxdeploy.models import find_model
from ctxdeploy.querying.photo import check_photo
from ctxdeploy.runtime.inspection import InspectionConfig

SUFFIX = ".inspection"


@click.command("inspect")
@click.argument("photo", type=PATH)
@model_option
@click.option("-o", "--output", type=PATH, metavar="DIR", help="[default: PHOTO's name with .inspection, here]")
@options_of(InspectionConfig)
@click.option(
    "--edges", type=click.IntRange(1, 1000), default=30, show_default=True, help="Edges that are drawn of each block."
)
@json_option
@quiet_option
def command(photo: Path, model: str | None, output: Path | None, edges: int, as_json: bool, quiet: bool) -> None:
    """Show what a network sees in PHOTO: a page with its attention, smoothing, graph and selected positions.

    The fp32 graph of the bundle is run in ONNX Runtime. Positions are pixels of the original photo after EXIF rotation.
    DIR must be empty, or hold an earlier inspection, which is replaced.
    """
    from ctxdeploy.report import check_inspection, write_inspection
    from ctxdeploy.runtime.inspection import inspect_photo

    config = configured(InspectionConfig)
    check_photo(photo)
    folder = output or Path(photo.name + SUFFIX)
    check_inspection(folder)
    bundle = ctxdeploy.core.bundle.open(find_model(model))
    display = Display(quiet=quiet)
    found = inspect_photo(bundle, photo, config)
    facts = write_inspection(folder, found, bundle, photo, edges)
    if as_json:
        print_json({**facts, "output": str(folder)})
    else:
        _print(photo, facts)
    display.say(f"wrote {folder / 'index.html'}")


def _print(photo: Path, facts: dict[str, Any]) -> None:
    done = facts["preprocessing"]
    sizes = " → ".join("{}×{}".format(*done[key]) for key in ("original_size", "input_size"))
    echo(f"{printable(str(photo))}: {done['format']}, {sizes}, {counted(facts['descriptors'], 'descriptor')}")
    scales = ", ".join(f"{level['selected']} at {level['scale']:g}" for level in facts["scales"])
    echo(f"selected: {scales}")
    chosen = facts["chosen"]
    if chosen is not None:
        where = "{:.1f},{:.1f}".format(*chosen["position"])
        edges = "".join(f", {block['count']} edges" for block in chosen["blocks"])
        echo(f"looked at closely: {where} at scale {chosen['scale']:g}{edges}")
    for line in facts["missing"]:
        echo(f"not shown: {line}")
