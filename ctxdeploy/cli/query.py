"""``ctxdeploy query``."""

import shlex
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
    options_of,
    print_json,
    quiet_option,
)
from ctxdeploy.core.errors import ConfigError, PhotoError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.text import counted, printable
from ctxdeploy.photo_index import PhotoIndex
from ctxdeploy.query import Answer, QueryConfig
from ctxdeploy.runtime import BackendConfig


@click.command("query")
@click.argument("photos", type=PATH, nargs=-1, required=True)
@click.option(
    "--index",
    "index_path",
    metavar="ARCHIVE",
    shell_complete=ARCHIVE.shell_complete,
    help="[default: CTXDEPLOY_INDEX, or the only *.ctxindex here]",
)
@at_option
@options_of(QueryConfig)
@click.option("--html", "page", type=PATH, metavar="FILE", help="Write a page with the photos found.")
@model_option
@options_of(BackendConfig)
@json_option
@quiet_option
def command(
    photos: tuple[Path, ...],
    index_path: str | None,
    at: str | None,
    page: Path | None,
    model: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Find the photos of an archive that show the same as PHOTOS.

    Before each name stands its score. It orders the answers of one query, and is neither a share nor a probability: the
    queried photo itself has about 0.07 to 0.3, other photos of the same have less, often a hundredth.

    With --json, one object is printed for each query. A query that cannot be read is reported, the others are answered,
    and the exit code is 14.
    """
    if page is not None and page.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--html {page} does not end in .html: is a file name missing behind --html?")
    config, archive = configured(QueryConfig), find_archive(index_path)
    answers, failures, shown = [], list[PhotoError](), Display(quiet=quiet)
    with PhotoIndex.open(archive, at=at, model=model, backend=configured(BackendConfig)) as index:
        if not len(index):
            shown.say(f"{archive} holds no photos so far: add some with  ctxdeploy index DIR -o {archive}")
        about: dict[str, Any] = {}
        for answer in index.search_many(photos, config):
            if isinstance(answer, PhotoError):
                failures.append(answer)
                if len(photos) > 1:
                    echo(printable(f"ctxdeploy: error: {answer}"), err=True)
                continue
            about = about or {"archive": str(archive), "extraction": index.extraction()}
            _print(answer, as_json, about)
            answers.append(answer)
        folder = index.folder
    if page is not None:
        from ctxdeploy.report import write_answers

        write_answers(page, answers, folder, title=archive.name)
        shown.say(f"wrote {page}")
        missing = _without_picture(archive, folder, {hit.name for answer in answers for hit in answer.hits})
        if missing:
            shown.say(missing)
    if failures:
        several = PhotoError(f"{len(failures)} of {len(photos)} queries could not be read")
        raise failures[0] if len(photos) == 1 else several


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
    command = shlex.join(("ctxdeploy", "index", "FOLDER", "-o", str(archive), "--moved"))
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
    box = f" [{answer.box}]" if answer.box is not None else ""
    echo(
        f"{printable(answer.photo.name)}{box}: {counted(len(answer.hits), 'result')} for "
        f"{counted(len(answer.descriptors), 'descriptor')} "
        f"(extract {answer.extract_seconds:.2f} s, search {answer.search_seconds * 1000:.1f} ms; "
        f"{about['extraction']['backend']} {about['extraction']['precision']})"
    )
    for rank, hit in enumerate(answer.hits, 1):
        echo(f"{rank:4d}  {hit.score:8.5f}  {printable(hit.name)}")
