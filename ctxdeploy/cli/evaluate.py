"""``ctxdeploy eval``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ctxdeploy.archive import SUFFIX, has_model, is_archive, open_model, photo_folder
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
from ctxdeploy.core.errors import ConfigError, SomePhotosFailedError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import counted, printable
from ctxdeploy.evaluation import KINDS, EvaluationConfig, ObservedExtractor, evaluate, open_set
from ctxdeploy.evaluation.comparison import published_figures
from ctxdeploy.evaluation.published import PUBLISHED, PublishedRow
from ctxdeploy.models import find_model
from ctxdeploy.runtime import BackendConfig, ExtractorConfig

if TYPE_CHECKING:
    from ctxdeploy.evaluation import DataSet, Evaluation, Figures


@click.command("eval")
@click.argument("place", type=PATH)
@click.option("--set", "kind", type=click.Choice(list(KINDS)), help="What PLACE is [default: told from its files].")
@click.option(
    "-o",
    "--output",
    type=PATH,
    metavar="ARCHIVE",
    help="Archive of the photos [default: <PLACE>-<model>.ctxindex, here]",
)
@model_option
@click.option("--html", "page", type=PATH, metavar="FILE", help="Write a page of the worst queries.")
@click.option("--worst", type=click.IntRange(min=1), default=20, show_default=True, help="Queries of that page.")
@options_of(EvaluationConfig, ExtractorConfig, BackendConfig)
@json_option
@quiet_option
def command(
    place: Path,
    kind: str | None,
    output: Path | None,
    model: str | None,
    page: Path | None,
    worst: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Say how good a model is on the data set in PLACE: mAP and mP@1, 5, 10, in percent.

    PLACE holds Revisited Oxford or Paris (gnd_roxford5k.pkl, jpg/), Oxford or Paris with their text files, minibench,
    any photos with gnd.json, or photos named as in INRIA Holidays. Its photos are indexed and its queries asked as a
    user would, with the default settings; but for --expand, which is 0 here, as published figures are.
    Run it again to continue after an interruption, or to score again. With --framework all three ways to search are
    compared, beside what was published; --row evaluates one published row, with its model.
    """
    if page is not None and (page.suffix.lower() not in (".html", ".htm") or not page.parent.is_dir()):
        raise ConfigError(f"--html {page} must end in .html, and its folder exist")
    config = configured(EvaluationConfig)
    engine, extraction = configured(BackendConfig), configured(ExtractorConfig)
    shown = Display(quiet=quiet, as_json=as_json)
    dataset = open_set(place, kind)
    archive, extractor = _extractor(dataset, output, model or _model_of(config), engine, extraction)
    about = extractor.description()
    shown.say(
        f"{dataset.name} ({dataset.kind}): {counted(len(dataset.database), 'photo')}, {len(dataset.queries)} queries; "
        f"{about['backend']} {about['precision']} on {about['device']}; archive {archive}"
    )
    try:
        result = evaluate(dataset, archive, extractor, config, shown)
    except KeyboardInterrupt:
        echo("ctxdeploy: what was done is kept; run the same command again to continue", err=True)
        raise
    if as_json:
        print_json(result.metadata(worst))
    else:
        _print(result)
    if page is not None:
        from ctxdeploy.report import write_failures

        others = config.distractors
        write_failures(page, result, None if others is None else photo_folder(others), worst)
        shown.say(f"wrote {page}")
    if result.unreadable:
        names = ", ".join(map(printable, result.unreadable[:3]))
        raise SomePhotosFailedError(
            f"{len(result.unreadable)} of {len(dataset.database)} photos could not be read ({names}); see  "
            f"ctxdeploy info {printable(str(archive))} --failures"
        )


def _model_of(config: EvaluationConfig) -> str | None:
    """Return the model of the published row that is asked for; None where another choice decides."""
    row = config.frameworks.published
    if row is None:
        return None
    if row.model is None:
        raise ConfigError(f"--row {row.name!r}: {row.caution or 'its model cannot be had'}; give one with --model")
    return row.model


def _extractor(
    dataset: "DataSet", output: Path | None, model: str | None, engine: BackendConfig, config: ExtractorConfig
) -> tuple[Path, ObservedExtractor]:
    """Return the archive, and the model: the given one, else the archive's own, else the one that ``index`` takes."""
    from ctxdeploy.core import bundle as bundles

    if output is not None and model is None and is_archive(output) and has_model(output):
        return output, ObservedExtractor(open_model(output), backend=engine, config=config)
    path = find_model(model)
    extractor = ObservedExtractor(bundles.open(path), backend=engine, config=config)
    precision = "" if engine.precision == "fp32" else f"-{engine.precision}"
    return output or Path(f"{dataset.name}-{path.stem}{precision}{SUFFIX}"), extractor


def _print(result: "Evaluation") -> None:
    dataset = result.dataset
    besides = "" if result.distractors is None else f" and {counted(result.distractors, 'distractor')}"
    known, words = result.codebook, ""
    if known is not None:
        words = f"; codebook of {known.words:,} words, {known.source}, trained on {known.trained_on}"
    echo(
        f"{printable(dataset.name)} ({dataset.kind}): {counted(len(dataset.database), 'photo')}{besides}, "
        f"{len(dataset.queries)} queries{words}"
    )
    if result.is_table:
        _print_table(result)
        return
    depths = list(next(iter(result.figures.values())).precision)
    echo(f"{'':20s}{'mAP':>8s}" + "".join(f"{f'mP@{depth}':>8s}" for depth in depths) + f"{'queries':>9s}")
    _print_figures("", result.figures)
    if result.global_figures is not None:
        _print_figures("global ", result.global_figures)
    for warning in result.warnings:
        echo(f"! {warning}")


def _print_table(result: "Evaluation") -> None:
    """Print the table of frameworks: mAP by task, without and with distractors, beside what was published."""
    tasks = list(result.figures)
    more = [f"{task} +D" for task in tasks] if result.distractors is not None else []
    echo(f"{'mAP':44s}{'GiB at 1M':>10s}{'s a query':>10s}" + "".join(f"{task:>11s}" for task in (*tasks, *more)))
    for row in result.rows:
        found = [row.figures, *([row.distracted] if more else [])]
        values = [None if one is None else one.get(task) for one in found for task in tasks]
        echo(
            f"{printable(f'{row.method.label} ({result.model})'):44s}{row.memory:10.2f}{row.seconds:10.4f}"
            + "".join(f"{'–' if one is None else f'{100 * one.mean_average_precision:.2f}':>11s}" for one in values)
        )
        if row.published is not None:
            _print_published(row.published, result.dataset)
    others = [row for row in PUBLISHED if row.deck and published_figures(row, result.dataset) is not None]
    if others and len(result.rows) > 1:
        echo("published, as their sources print it:")
        for other in others:
            _print_published(other, result.dataset)
    for warning in result.warnings:
        echo(f"! {warning}")


def _print_published(row: PublishedRow, dataset: "DataSet") -> None:
    found = published_figures(row, dataset)
    if found is None:
        return
    alone, million = ("/".join("–" if value is None else f"{value:.1f}" for value in one) for one in found)
    r1m = "" if found[1].medium is None else f", with R1M {million}"
    memory = "" if row.memory_gb is None else f", {row.memory_gb:g} GiB at 1M"
    caution = "" if row.caution is None else f" ({row.caution})"
    echo(f"  {row.framework}: {row.name}: medium/hard {alone}{r1m}{memory}; {row.source}{caution}")


def _print_figures(prefix: str, figures: "dict[str, Figures]") -> None:
    for task, found in figures.items():
        values = [found.mean_average_precision, *found.precision.values()]
        scenes = f" of {found.groups} scenes" if found.groups else ""
        without = f" ({found.without_positives} without answers)" if found.without_positives else ""
        echo(
            f"{printable(prefix + task):20s}"
            + "".join(f"{100 * value:8.2f}" for value in values)
            + f"{found.queries:9d}{scenes}{without}"
        )
