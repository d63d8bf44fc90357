"""``ctxdeploy query``."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ctxdeploy.archive import find_archive
from ctxdeploy.cli.options import (
    ARCHIVE,
    PATH,
    at_option,
    configured,
    echo,
    json_option,
    model_option,
    names_in,
    options_of,
    print_json,
    quiet_option,
    search_device_option,
)
from ctxdeploy.core.device import CPU
from ctxdeploy.core.errors import ConfigError, CtxdeployError, PhotoError
from ctxdeploy.core.files import check_target
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import counted, printable, printed_names
from ctxdeploy.index import Hit, VerificationConfig
from ctxdeploy.object_storage.config import CacheConfig
from ctxdeploy.object_storage.place import shown_place
from ctxdeploy.photo_index import PhotoIndex
from ctxdeploy.query import GLOBAL, Answer, QueryConfig, is_certain
from ctxdeploy.querying.photo import IndexedPhoto, Photo
from ctxdeploy.querying.places import list_queries
from ctxdeploy.runtime import BackendConfig
from ctxdeploy.runtime.sources import RemoteConfig, Selection


@click.command("query")
@click.argument("photos", nargs=-1, shell_complete=PATH.shell_complete)
@click.option(
    "--indexed",
    multiple=True,
    metavar="NAME",
    help="Ask with this photo of the archive, from what is stored; may be repeated.",
)
@click.option(
    "--index",
    "index_path",
    metavar="ARCHIVE|URL",
    shell_complete=ARCHIVE.shell_complete,
    help="[default: CTXDEPLOY_INDEX, or the only *.ctxindex here]",
)
@at_option
@options_of(QueryConfig)
@click.option(
    "--among", type=PATH, metavar="FILE", help="Find only photos whose names are in FILE, one a line; - reads stdin."
)
@click.option("--recursive/--no-recursive", default=True, show_default=True, help="Look into folders below.")
@options_of(Selection, RemoteConfig)
@click.option("--html", "page", type=PATH, metavar="FILE", help="Write a page with the photos found.")
@model_option
@options_of(BackendConfig, CacheConfig)
@search_device_option
@json_option
@quiet_option
def command(
    photos: tuple[str, ...],
    indexed: tuple[str, ...],
    index_path: str | None,
    at: str | None,
    among: Path | None,
    recursive: bool,
    page: Path | None,
    model: str | None,
    device: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find the photos of an archive that show the same as PHOTOS.

    Each of PHOTOS is a photo, the URL of one, - for standard input, or a place of photos as  ctxdeploy index  takes
    them: a folder, a list (.txt, .csv, .jsonl), a tar or zip file, or a URL (s3://…).

    Before each name stand its own score for the query (the queried photo itself has about 0.07 to 0.3, other photos of
    the same have less, often a hundredth), and the probability that it shows the same. What is certain is found; the
    rest are the nearest that there are, and may show something else. With --expand 0 and --verify 0 the scores alone
    order the answers; otherwise the hits that ask too and the geometry do so as well. With --rank global the scores are
    inner products of global vectors, of which no probability is known.

    With --json, one object is printed for each query. A query that cannot be read is reported, the others are answered,
    and the exit code is 14.
    """
    if page is not None and page.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--html {page} does not end in .html: is a file name missing behind --html?")
    if not photos and not indexed:
        raise ConfigError("there is nothing to ask with: name photos, or a photo of the archive with --indexed")
    config, shown = configured(QueryConfig), Display(quiet=quiet)
    archive = find_archive(index_path, cache=configured(CacheConfig))
    name = shown_place(archive)
    _check_verifying(config)
    config = replace(config, among=_names_to_find(among, photos, shown))
    if page is not None:
        check_target(page, advice="choose another --html")
    asked = list_queries(photos, recursive=recursive, remote=configured(RemoteConfig), selection=configured(Selection))
    queries: list[Photo | IndexedPhoto] = [*asked.photos, *(IndexedPhoto(name=name) for name in indexed)]
    failed = _Failures(count=len(queries) + len(asked.failures))
    answers: list[Answer] = []
    with PhotoIndex.open(archive, at=at, device=device, model=model, backend=configured(BackendConfig)) as index:
        if not len(index):
            shown.say(f"{name} holds no photos so far: add some with  ctxdeploy index DIR -o {name}")
        for failure in asked.failures:
            failed.add(failure)
        config = replace(config, among=_as_named(config.among, index))
        said: set[str] = set()
        for answer in index.search_many(queries, config):
            if isinstance(answer, PhotoError):
                failed.add(answer)
                continue
            _remark(answer, said, shown)
            about = {"archive": name, "extraction": _extraction(answer, index)}
            _print(answer, as_json, {**about, "searched_on": _searched_on(index)})
            if page is not None:
                answers.append(answer)
        folder = index.folder
    if page is not None:
        from ctxdeploy.report import write_answers

        write_answers(page, answers, folder, title=archive.name)
        shown.say(f"wrote {page}")
        missing = _without_picture(archive, folder, {hit.name for answer in answers for hit in answer.hits})
        if missing:
            shown.say(missing)
    failed.check()


def _remark(answer: Answer, said: set[str], shown: Display) -> None:
    """Say what may not be expected: of the archive once, of the answer each time."""
    for note in answer.notes:
        if note not in said:
            shown.say(note)
    said.update(answer.notes)
    for remark in answer.remarks:
        shown.say(f"{answer.photo.name}: {remark}")


def _names_to_find(source: Path | None, photos: tuple[str, ...], shown: Display) -> tuple[str, ...]:
    """Return the names that ``--among`` gives; none without it."""
    if source is None:
        return ()
    if str(source) == "-" and "-" in photos:
        raise ConfigError("standard input (-) holds a photo or names for --among: give one of them as a file")
    names = tuple(names_in(source, "--among", shown))
    if not names:
        raise ConfigError(f"--among {source} holds no names: give at least one, or leave it out")
    return names


def _as_named(names: tuple[str, ...], index: PhotoIndex) -> tuple[str, ...]:
    """Return names as the archive has them, for those that are as ``printable`` prints them."""
    printed = printed_names(names, index.names() if any("\\" in name for name in names) else ())
    return tuple(printed.get(name, name) for name in names)


def _check_verifying(config: QueryConfig) -> None:
    """Refuse settings of a verification that is not asked for."""
    given = {
        "--verify-from": config.verify_from != QueryConfig.verify_from,
        "--verify-by": config.verification.matches != VerificationConfig.matches,
        "--verify-model": config.verification.model != VerificationConfig.model,
    }
    flag = next((flag for flag, is_given in given.items() if is_given), None)
    if flag is not None and config.compared == 0:
        raise ConfigError(
            f"{flag} needs --verify N: give how many of the first results are compared, such as --verify 10"
        )


class _Failures:
    """The queries that were not answered, each said at once if there are several queries.

    Args:
        count: of all queries.
    """

    def __init__(self, count: int) -> None:
        self._count, self._failures = count, list[CtxdeployError]()

    def add(self, failure: CtxdeployError) -> None:
        self._failures.append(failure)
        if self._count > 1:
            echo(printable(f"ctxdeploy: error: {failure}"), err=True)

    def check(self) -> None:
        """Raise what the command ends with, if there are any."""
        if self._count == 1 and self._failures:
            raise self._failures[0]
        if self._failures:
            raise PhotoError(f"{len(self._failures)} of {self._count} queries could not be read")


def _extraction(answer: Answer, index: PhotoIndex) -> dict[str, Any] | None:
    """Return what ran the network for an answer; None if nothing did."""
    return None if answer.is_indexed else index.extraction()


def _searched_on(index: PhotoIndex) -> str:
    """Return where postings are searched: ``cpu``, or such as ``cuda:0``."""
    with index.reading() as state:
        return state.device


def _without_picture(archive: Path, folder: Path | None, names: set[str]) -> str | None:
    """Return what is said of photos that a page can show by their names alone; None if there are none."""
    from ctxdeploy.report import picture_of

    if not names:
        return None
    if folder is None:
        return "the photos of this archive are not files in a folder: the page shows only their names"
    gone = [name for name in names if (picture := picture_of(folder, name)) is None or not _is_there(picture)]
    if not gone:
        return None
    command = shlex.join(("ctxdeploy", "index", "FOLDER", "-o", shown_place(archive), "--moved"))
    return (
        f"{len(gone)} of {counted(len(names), 'photo')} could not be found in {folder}: the page shows their names "
        f"alone; if they were moved, say where they are with  {command}"
    )


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _print(answer: Answer, as_json: bool, about: dict[str, Any]) -> None:
    if as_json:
        print_json({**answer.metadata(), **about})
        return
    echo(_headline(answer, about["extraction"], about["searched_on"]))
    lines = [(hit.probability is None, is_certain(hit), _line(rank, hit)) for rank, hit in enumerate(answer.hits, 1)]
    found = [line for unjudged, certain, line in lines if certain or unjudged]
    nearest = [line for unjudged, certain, line in lines if not certain and not unjudged]
    if not answer.hits and answer.best_probability is not None:
        best = _percent(answer.best_probability)
        echo(f"nothing is as likely as --min-probability asks; the best that there is has {best}")
    if answer.found:
        echo("found:")
    elif answer.rank == GLOBAL and answer.hits:
        echo("by global vectors, how sure is not known; the nearest:")
    for line in found:
        echo(line)
    if nearest:
        echo("beyond that nothing is certain; the nearest:" if answer.found else "nothing certain; the nearest:")
    for line in nearest:
        echo(line)


def _line(rank: int, hit: Hit) -> str:
    sure = "" if hit.probability is None else f"  {_percent(hit.probability):>4}"
    line = f"{rank:4d}  {hit.score:8.5f}{sure}  {printable(hit.name)}"
    if hit.verification is None:
        return line
    box = hit.verification.box
    place = "" if box is None else f" in {box.x0:.0f},{box.y0:.0f},{box.x1:.0f},{box.y1:.0f}"
    return f"{line}  ({counted(hit.verification.inliers, 'inlier')}{place})"


def _percent(probability: float) -> str:
    """Return a probability that is never said to be more than it is."""
    return f"{int(100 * probability)} %"


def _headline(answer: Answer, extraction: dict[str, Any] | None, device: str) -> str:
    name = printable(answer.photo.name) + (f" [{answer.box}]" if answer.box is not None else "")
    if answer.turn:
        name += f", turned by {answer.turn}°" if answer.found else f", most like these when turned by {answer.turn}°"
    found, search = counted(len(answer.hits), "result"), f"search {answer.search_seconds * 1000:.1f} ms"
    search += "" if device == CPU else f" on {device}"
    if answer.descriptors is None or extraction is None:
        return f"{name}: {found} from {answer.asked_with} ({search})"
    extract = f"extract {answer.extract_seconds:.2f} s"
    engine = f"{extraction['backend']} {extraction['precision']}"
    return f"{name}: {found} for {answer.asked_with} ({extract}, {search}; {engine})"
