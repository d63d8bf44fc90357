"""``ctxdeploy bench``: extract, search, end-to-end, compare."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ctxdeploy.bench import (
    CompanionConfig,
    EndToEndMeasurement,
    ExtractMeasurement,
    SearchMeasurement,
    WindowConfig,
)
from ctxdeploy.cli.options import (
    ARCHIVE,
    PATH,
    configured,
    echo,
    json_option,
    model_option,
    options_of,
    print_json,
    quiet_option,
)
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.extras import require
from ctxdeploy.core.progress import Display
from ctxdeploy.models import find_model
from ctxdeploy.runtime import BackendConfig

if TYPE_CHECKING:
    from ctxdeploy.bench import BundleEngine, Question

_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group("bench")
def command() -> None:
    """Measure how fast it is on this machine, and what limits it.

    Every result is a JSON file: the same command goes on where it was interrupted, and  bench compare  says whether two
    of them differ.
    """


def _run_options(default: str) -> Callable[[_Command], _Command]:
    """Add the options that every measurement has."""

    def add(command: _Command) -> _Command:
        options = (
            click.option("-o", "--output", type=PATH, default=Path(default), show_default=True, help="File to write."),
            options_of(WindowConfig, CompanionConfig),
            click.option("--against", multiple=True, metavar="KEY=VALUE,…", help="Another configuration, in turns."),
            click.option("--restart", is_flag=True, help="Forget what the file holds."),
            click.option("--plots", type=PATH, metavar="DIR", help="Draw PNG and SVG into this folder."),
            click.option("--work", type=PATH, metavar="DIR", help="For temporary files [default: the system's]."),
            json_option,
            quiet_option,
        )
        for option in reversed(options):
            command = option(command)
        return command

    return add


@command.command("extract")
@click.argument("photos", type=PATH, required=False)
@model_option
@options_of(ExtractMeasurement, BackendConfig)
@_run_options("bench-extract.json")
def extract(
    photos: Path | None,
    model: str | None,
    output: Path,
    against: tuple[str, ...],
    restart: bool,
    plots: Path | None,
    work: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Time PHOTOS (a folder; sample photos by default) through the network, and its stages.

    --against backend=openvino,precision=bf16 measures another configuration in turns, which finds the smallest
    differences; its keys are backend, precision, device, threads, model and python (an interpreter with another
    ctxdeploy).
    """
    from ctxdeploy.bench import extraction_question, photo_files

    display, measurement, windows = Display(quiet=quiet), configured(ExtractMeasurement), configured(WindowConfig)
    engine = _engine(model)
    with _folder(work) as place:
        files = photo_files(photos, measurement.count, place)
        question = extraction_question(engine, files, measurement, _companions(against), display)
        _measure(question, output, windows, restart, plots, as_json, display)


@command.command("search")
@click.argument("archive", type=ARCHIVE, required=False)
@options_of(SearchMeasurement)
@_run_options("bench-search.json")
def search(
    archive: Path | None,
    output: Path,
    against: tuple[str, ...],
    restart: bool,
    plots: Path | None,
    work: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Time queries of ARCHIVE, from descriptors to hits; without one, of a synthetic archive.

    Queries are drawn from the archive's own words. The keys of --against are threads, archive and python.
    """
    from ctxdeploy.bench import search_question, synthetic_archive

    display, measurement, windows = Display(quiet=quiet), configured(SearchMeasurement), configured(WindowConfig)
    if archive is not None and measurement.sizes is not None:
        raise ConfigError("--sizes are of a synthetic archive: leave out ARCHIVE, or --sizes")
    with _folder(work) as place:
        snapshots = None
        if archive is None:
            archive, snapshots = synthetic_archive(measurement, place, display)
        question = search_question(archive, measurement, _companions(against), snapshots, display)
        _measure(question, output, windows, restart, plots, as_json, display)


@command.command("end-to-end")
@click.argument("photos", type=PATH, required=False)
@model_option
@options_of(EndToEndMeasurement, BackendConfig)
@_run_options("bench-end-to-end.json")
def end_to_end(
    photos: Path | None,
    model: str | None,
    output: Path,
    against: tuple[str, ...],
    restart: bool,
    plots: Path | None,
    work: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Time PHOTOS to an archive as  ctxdeploy index  makes it, every stage by itself, and queries with them.

    The codebook is made before, from the same photos. The keys of --against are those of  bench extract.
    """
    from ctxdeploy.bench import end_to_end_question, photo_files, prepare

    display, measurement, windows = Display(quiet=quiet), configured(EndToEndMeasurement), configured(WindowConfig)
    engine = _engine(model)
    with _folder(work) as place:
        files = photo_files(photos, measurement.count, place)
        made = prepare(engine, files, measurement.words, place, display)
        question = end_to_end_question(engine, files, made, measurement, _companions(against), display)
        _measure(question, output, windows, restart, plots, as_json, display)


@command.command("compare")
@click.argument("first", metavar="A.json", type=PATH)
@click.argument("second", metavar="[B.json]", type=PATH, required=False)
@click.option("--case", metavar="LABEL", help="Of A [default: what was measured].")
@click.option("--with", "other", metavar="LABEL", help="Of B [default: as A; without B its --against].")
@click.option(
    "--least", type=float, metavar="SHARE", help="Ignore smaller differences [default: 0.01; two files: 0.02]."
)
@json_option
def compare(
    first: Path, second: Path | None, case: str | None, other: str | None, least: float | None, as_json: bool
) -> None:
    """Say whether B is faster or slower than A, with an interval, and which difference could have been found.

    Without B.json two cases of A.json are compared that took turns: the strongest comparison there is.
    """
    from ctxdeploy.bench import Record, compare_files, comparison_text

    if least is not None and not 0 <= least < 1:
        raise ConfigError(f"--least {least:g} is outside 0..1: 0.05 is 5 %")
    records = Record.read(first), None if second is None else Record.read(second)
    found = compare_files(*records, case=case, other=other, min_difference=least)
    if as_json:
        print_json(found.metadata())
        return
    echo(*comparison_text(found).split("\n"))


def _measure(
    question: "Question",
    output: Path,
    windows: WindowConfig,
    restart: bool,
    plots: Path | None,
    as_json: bool,
    display: Display,
) -> None:
    """Measure, write the file and its summary, draw, print."""
    from ctxdeploy.bench import draw, markdown, measure

    if plots is not None:
        require("matplotlib", "bench")  # said before hours of measuring
    record = measure(question, output, windows, display, restart=restart)
    display.say(f"wrote {output}")
    if plots is not None:
        for path in draw(record, plots):
            display.say(f"wrote {path}")
    if as_json:
        print_json({"file": str(output), "key": record.content["key"], **record.content["results"]})
        return
    echo(*markdown(record).removesuffix("\n").split("\n"))


def _engine(model: str | None) -> "BundleEngine":
    from ctxdeploy.bench import BundleEngine
    from ctxdeploy.core import bundle

    opened, given = bundle.open(find_model(model)), configured(BackendConfig)
    engine = BundleEngine(
        bundle=opened, backend=given.name, precision=given.precision, device=given.device, threads=given.threads
    )
    return engine.resolved()


def _companions(against: tuple[str, ...]) -> CompanionConfig:
    return replace(configured(CompanionConfig), against=against)


@contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    """Yield a new folder below ``work``, or a temporary one; it is removed at the end."""
    if work is not None:
        try:
            work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--work {work} cannot be made: {error.strerror or error}") from error
    with tempfile.TemporaryDirectory(dir=work, prefix="ctxdeploy-bench-") as folder:
        yield Path(folder)
