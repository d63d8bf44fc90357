"""The main job on the demo's photos with the built-in model: photos to an archive, queries to answers."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxdeploy.core.errors import PhotoError, StorageError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.samples import NAMES
from ctxdeploy.demo.photos import VIEWS, scene_of, write_photos
from ctxdeploy.models import DEFAULT
from ctxdeploy.photo_index import PhotoIndex
from ctxdeploy.query import Answer, QueryConfig
from ctxdeploy.report import write_answers

MARKER = ".ctxdeploy-demo"


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo found.

    Attributes:
        queries: how many.
        first_right: queries whose best result is a view of the same scene.
        right: results of the same scene among the first ``VIEWS``, over all queries.
        wanted: right results there are.
        page: the page of all answers.
        archive: the archive.
        model: name of the model.
    """

    queries: int
    first_right: int
    right: int
    wanted: int
    page: Path
    archive: Path
    model: str

    def metadata(self) -> dict[str, Any]:
        """Return the result as JSON prints it."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in vars(self).items()}


def run_demo(folder: Path, display: Display) -> DemoResult:
    """Make the demo in a folder; photos and archive of an earlier run in it are made anew.

    Raises:
        MissingExtraError: the extras ``cpu`` and ``demo`` are not both installed.
        StorageError: the folder cannot be written, or holds things that do not belong to a demo.
    """
    archive = folder / "photos.ctxindex"
    _claim(folder)
    shutil.rmtree(archive, ignore_errors=True)
    photos_folder, queries = write_photos(folder)
    display.say(
        f"{len(NAMES)} photos of scikit-image, {VIEWS} changed views of each in {photos_folder}; model {DEFAULT}"
    )
    answers: list[Answer] = []
    with PhotoIndex.create(archive) as photos:
        photos.add(photos_folder, display=display)
        with display.progress("querying", len(queries)) as bar:
            for answer in photos.search_many(queries, QueryConfig(top=2 * VIEWS)):
                if isinstance(answer, PhotoError):
                    raise answer
                answers.append(answer)
                bar.advance()
    return _judge(folder, archive, photos_folder, answers)


def _claim(folder: Path) -> None:
    """Make the folder, or make sure that it is a demo's: a user's own photos and archives must not be replaced."""
    marker = folder / MARKER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not marker.exists():
            if any(folder.iterdir()):
                raise StorageError(f"{folder} holds other things: choose a new folder with -o")
            marker.touch()
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror or error}; choose another -o") from error


def _judge(folder: Path, archive: Path, photos: Path, answers: list[Answer]) -> DemoResult:
    first = right = 0
    for answer in answers:
        scene = scene_of(Path(answer.photo.name).name)
        same = [scene_of(hit.name) == scene for hit in answer.hits[:VIEWS]]
        first += int(bool(same) and same[0])
        right += sum(same)
    page = folder / "demo.html"
    lead = (
        f"{DEFAULT}; {first} of {len(answers)} queries have a view of the same photo first. The views were made by "
        "changing viewpoint, light and sharpness and covering a part: far easier than photos that people took."
    )
    write_answers(page, answers, photos, title="ctxdeploy demo", lead=lead)
    return DemoResult(
        queries=len(answers),
        first_right=first,
        right=right,
        wanted=VIEWS * len(answers),
        page=page,
        archive=archive,
        model=DEFAULT,
    )
