"""``ctxdeploy bench``: extract, search, end-to-end, compare."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ctxdeploy.archive import find_model
from ctxdeploy.cli.options import PATH, configured, json_option, model_option, options_of, print_json, quiet_option
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.extras import require
from ctxdeploy.core.progress import Display
from ctxdeploy.runtime import BackendConfig

if TYPE_CHECKING:
    from ctxdeploy.bench.questions import Engine, Extras
    from ctxdeploy.bench.running import Question

_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group("bench")
def command() -> None:
    """Measure how fast it is on this machine, and what limits it.

    Every result is a JSON file: the same command goes on where it was interrupted, and  bench compare  says whether two
    of them differ.
    """


class NumbersType(click.ParamType[tuple[int, ...]]):
    """Whole numbers of at least 1, with commas between them."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the numbers; ``ConfigError`` for anything else."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",") if part.strip()]
        if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
            flag = param.opts[0] if param is not None else "the numbers"
            raise ConfigError(f"{flag} {value!r} is not a list of whole numbers such as 1,4,16")
        return tuple(int(part) for part in parts)


_NUMBERS = NumbersType()


def _run_options(default: str) -> Callable[[_Command], _Command]:
    """Add the options that every measurement has."""

    def add(command: _Command) -> _Command:
        options = (
            click.option("-o", "--output", type=PATH, default=Path(default), show_default=True, help="File to write."),
            click.option("--windows", type=int, default=18, show_default=True, help="In all; more go on with a file."),
            click.option(
                "--block", type=int, default=3, show_default=True, help="Windows until processes are renewed."
            ),
            click.option("--restart", is_flag=True, help="Forget what the file holds."),
            click.option("--peer/--no-peer", default=True, help="Measure PyTorch or asmk besides, where installed."),
            click.option("--against", multiple=True, metavar="KEY=VALUE,…", help="Another configuration, in turns."),
            click.option("--plots", type=PATH, metavar="DIR", help="Draw PNG and SVG into this folder."),
            click.option("--work", type=PATH, metavar="DIR", help="For what is made on the way [default: temporary]."),
            json_option,
            quiet_option,
        )
        for option in reversed(options):
            command = option(command)
        return command

    return add


@command.command("extract")
@click.argument("photos", type=PATH, required=False)
@click.option("--count", type=int, default=6, show_default=True, help="Photos, spread over the folder.")
@click.option("--batch-sizes", type=_NUMBERS, default="1,4", show_default=True, metavar="N,N", help="Of the network.")
@click.option(
    "--thread-counts", type=_NUMBERS, default="1", show_default=True, metavar="N,N", help="Besides --threads."
)
@click.option("--checkpoint", type=PATH, help="Of the model, for PyTorch [default: random weights].")
@model_option
@options_of(BackendConfig)
@_run_options("bench-extract.json")
def extract(
    photos: Path | None,
    count: int,
    batch_sizes: tuple[int, ...],
    thread_counts: tuple[int, ...],
    checkpoint: Path | None,
    model: str | None,
    output: Path,
    windows: int,
    block: int,
    restart: bool,
    peer: bool,
    against: tuple[str, ...],
    plots: Path | None,
    work: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Time PHOTOS (a folder; sample photos by default) through the network, and its stages.

    --against backend=openvino,precision=bf16 measures another configuration in turns, which finds the smallest
    differences; its keys are backend, precision, threads, model and python (an interpreter with another ctxdeploy).
    """
    from ctxdeploy.bench.photos import photo_files
    from ctxdeploy.bench.questions import extraction_question

    display, extras = Display(quiet=quiet), _extras(against, peer, checkpoint)
    engine = _engine(model)
    with _folder(work) as place:
        files = photo_files(photos, count, place)
        question = extraction_question(engine, files, batch_sizes, thread_counts, extras, display)
        _measure(question, output, windows, block, restart, plots, as_json, display)


@command.command("search")
@click.argument("archive", type=PATH, required=False)
@click.option("--photos", type=int, default=65_536, show_default=True, help="Of a synthetic archive.")
@click.option("--descriptors", type=int, default=1000, show_default=True, help="Of a photo and of a query.")
@click.option("--words", type=int, default=65_536, show_default=True, help="Of a synthetic archive.")
@click.option("--sizes", type=_NUMBERS, metavar="N,N", help="Smaller archives besides [default: three].")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything that is drawn.")
@click.option("--queries", type=int, default=30, show_default=True, help="Timed in every window.")
@click.option("--batch-sizes", type=_NUMBERS, metavar="N,N", help="Of queries [default: 16, or all of fewer].")
@click.option(
    "--thread-counts", type=_NUMBERS, default="1", show_default=True, metavar="N,N", help="Besides --threads."
)
@click.option("--threads", type=int, help="Of a query [default: all].")
@_run_options("bench-search.json")
def search(
    archive: Path | None,
    photos: int,
    descriptors: int,
    words: int,
    sizes: tuple[int, ...] | None,
    seed: int,
    queries: int,
    batch_sizes: tuple[int, ...] | None,
    thread_counts: tuple[int, ...],
    threads: int | None,
    output: Path,
    windows: int,
    block: int,
    restart: bool,
    peer: bool,
    against: tuple[str, ...],
    plots: Path | None,
    work: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Time queries of ARCHIVE, from descriptors to hits; without one, of a synthetic archive.

    Queries are drawn from the archive's own words. The keys of --against are threads, archive and python.
    """
    from ctxdeploy.bench.search_question import SearchSettings, search_question
    from ctxdeploy.bench.synthetic import build_archive
    from ctxdeploy.index.threads import checked_threads

    display, count = Display(quiet=quiet), checked_threads(threads)
    with _folder(work) as place:
        made, names = None, list[str]()
        if archive is None:
            wanted = sizes if sizes is not None else tuple(photos // part for part in (64, 16, 4) if photos // part)
            made = {"photos": photos, "descriptors": descriptors, "words": words, "seed": seed}
            archive = Path(tempfile.mkdtemp(dir=place, prefix="synthetic-")) / "archive"
            rising = sorted({size for size in wanted if size < photos} | {photos})
            names = build_archive(archive, rising, descriptors, words, seed, display)[:-1]
        elif sizes is not None:
            raise ConfigError("--sizes are of a synthetic archive: leave out ARCHIVE, or --sizes")
        settings = SearchSettings(
            archive=archive,
            threads=count,
            sizes=names,
            queries=queries,
            descriptors=descriptors,
            batches=(min(16, queries),) if batch_sizes is None else batch_sizes,
            thread_counts=thread_counts,
            seed=seed,
            made=made,
            against=against,
            peer=peer,
        )
        _measure(search_question(settings, display), output, windows, block, restart, plots, as_json, display)


@command.command("end-to-end")
@click.argument("photos", type=PATH, required=False)
@click.option("--count", type=int, default=12, show_default=True, help="Photos, spread over the folder.")
@click.option("--words", type=int, help="Of the codebook [default: fits the photos].")
@click.option("--checkpoint", type=PATH, help="Of the model, for PyTorch [default: random weights].")
@model_option
@options_of(BackendConfig)
@_run_options("bench-end-to-end.json")
def end_to_end(
    photos: Path | None,
    count: int,
    words: int | None,
    checkpoint: Path | None,
    model: str | None,
    output: Path,
    windows: int,
    block: int,
    restart: bool,
    peer: bool,
    against: tuple[str, ...],
    plots: Path | None,
    work: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Time PHOTOS to an archive as  ctxdeploy index  makes it, every stage by itself, and queries with them.

    The codebook is made before, from the same photos. The keys of --against are those of  bench extract.
    """
    from ctxdeploy.bench.photos import photo_files
    from ctxdeploy.bench.preparing import prepare
    from ctxdeploy.bench.questions import end_to_end_question
    from ctxdeploy.index.threads import checked_threads

    display, extras = Display(quiet=quiet), _extras(against, peer, checkpoint)
    engine = _engine(model)
    with _folder(work) as place:
        files = photo_files(photos, count, place)
        made = prepare(engine, files, words, place, display)
        question = end_to_end_question(engine, files, made, checked_threads(engine.threads), extras, display)
        _measure(question, output, windows, block, restart, plots, as_json, display)


@command.command("compare")
@click.argument("first", metavar="A.json", type=PATH)
@click.argument("second", metavar="[B.json]", type=PATH, required=False)
@click.option("--case", metavar="LABEL", help="Of A [default: what was measured].")
@click.option("--with", "other", metavar="LABEL", help="Of B [default: as A; without B its --against].")
@click.option("--least", type=float, metavar="SHARE", help="Smaller differences are none [default: 0.01; files 0.02].")
@json_option
def compare(
    first: Path, second: Path | None, case: str | None, other: str | None, least: float | None, as_json: bool
) -> None:
    """Say whether B is faster or slower than A, with an interval, and which difference could have been found.

    Without B.json two cases of A.json are compared that took turns: the strongest comparison there is.
    """
    from ctxdeploy.bench.comparing import compare_files
    from ctxdeploy.bench.record import Record
    from ctxdeploy.bench.summary import comparison_text

    if least is not None and not 0 <= least < 1:
        raise ConfigError(f"--least {least:g} is outside 0..1: 0.05 is 5 %")
    records = Record.read(first), None if second is None else Record.read(second)
    found = compare_files(*records, case=case, other=other, least=least)
    if as_json:
        print_json(found.metadata())
        return
    click.echo(comparison_text(found))


def _measure(
    question: "Question",
    output: Path,
    windows: int,
    block: int,
    restart: bool,
    plots: Path | None,
    as_json: bool,
    display: Display,
) -> None:
    """Measure, write the file and its summary, draw, print."""
    from ctxdeploy.bench.results import results_of
    from ctxdeploy.bench.running import RunConfig, measure
    from ctxdeploy.bench.summary import markdown

    if plots is not None:
        require("matplotlib", "bench")  # said before hours of measuring
    config = RunConfig(windows=windows, block=block)
    record = measure(question, output, config, display, restart=restart)
    record.content["results"] = results_of(record)
    record.write()
    display.say(f"wrote {output}")
    if plots is not None:
        from ctxdeploy.bench.plots import draw

        for path in draw(record, plots):
            display.say(f"wrote {path}")
    if as_json:
        print_json({"file": str(output), "key": record.content["key"], **record.content["results"]})
        return
    click.echo(markdown(record), nl=False)


def _engine(model: str | None) -> "Engine":
    from ctxdeploy.bench.questions import Engine
    from ctxdeploy.core import bundle

    opened = bundle.open(find_model(model))
    given = configured(BackendConfig)
    return Engine(bundle=opened, backend=given.name, precision=given.precision, threads=given.threads).resolved()


def _extras(against: tuple[str, ...], peer: bool, checkpoint: Path | None) -> "Extras":
    from ctxdeploy.bench.questions import Extras

    return Extras(against=against, peer=peer, checkpoint=checkpoint)


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
