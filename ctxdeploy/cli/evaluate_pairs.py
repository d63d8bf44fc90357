"""``ctxdeploy eval-pairs``."""

from pathlib import Path

import click

from ctxdeploy.cli.options import PATH, echo, json_option, print_json
from ctxdeploy.core.text import counted, printable
from ctxdeploy.evaluation import MIN_POINTS, PairsFigures, judge_pairs, read_model
from ctxdeploy.pairs import read_pairs

_TOPS = (1, 2, 5, 10, 20, 50)


@click.command("eval-pairs")
@click.argument("model", type=PATH)
@click.argument("files", type=PATH, nargs=-1, required=True, metavar="PAIRS...")
@click.option(
    "--min-points",
    type=click.IntRange(min=1),
    default=MIN_POINTS,
    show_default=True,
    help="3-D points that a pair shares at least.",
)
@json_option
def command(model: Path, files: tuple[Path, ...], min_points: int, as_json: bool) -> None:
    """Say how many of the pairs that a COLMAP model sees are in PAIRS, and how many of PAIRS are useless.

    MODEL is the folder of a sparse model, such as sparse/0, in COLMAP's binary form. Two photos are covisible if they
    share 15 points: as many inliers as COLMAP itself asks of a pair. PAIRS are files of  ctxdeploy pairs  in any
    format, or of hloc, COLMAP or kapture. Of files with scores (kapture, csv) each photo's k best are judged as well.
    """
    seen = read_model(model)
    results = [(file, judge_pairs(seen, read_pairs(file), min_points=min_points, tops=_TOPS)) for file in files]
    if as_json:
        found = [{"file": str(file), "figures": [one.metadata() for one in figures]} for file, figures in results]
        print_json({"model": str(model), "photos": len(seen.names), "min_points": min_points, "files": found})
        return
    covisible = results[0][1][-1].covisible
    echo(
        f"{printable(str(model))}: {counted(len(seen.names), 'photo')}, {counted(covisible, 'covisible pair')} "
        f"({min_points} points or more)"
    )
    for file, figures in results:
        foreign = figures[-1].foreign
        besides = f"; {counted(foreign, 'pair')} with photos that are not in the model" if foreign else ""
        echo(f"{printable(str(file))}{besides}", f"{'best':>6s}{'pairs':>10s}{'recall':>9s}{'useless':>9s}")
        echo(*map(_row, figures))


def _row(figures: PairsFigures) -> str:
    top = "all" if figures.top is None else str(figures.top)
    return f"{top:>6s}{figures.pairs:10d}{_share(figures.recall):>9s}{_share(figures.useless):>9s}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
