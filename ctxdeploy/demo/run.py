"""The main job on the demo's photos: a network to a bundle, photos to an archive, queries to answers."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxdeploy.bundle import Bundle, Extraction
from ctxdeploy.demo.photos import SEED, VIEWS, scene_of, write_photos
from ctxdeploy.errors import StorageError
from ctxdeploy.indexing import IndexingConfig, index_photos
from ctxdeploy.page import write_page
from ctxdeploy.progress import Display
from ctxdeploy.querying import Answer, QueryConfig, ask
from ctxdeploy.samples import NAMES, sample_photo

# Four scales and 640 pixels: the demo's photos are small, and a laptop is to be done in a minute or two.
MARKER = ".ctxdeploy-demo"
SCALES, IMAGE_SIZE, TOP_K = (1.414, 1.0, 0.707, 0.5), 640, 600


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
        bundle: the bundle.
    """

    queries: int
    first_right: int
    right: int
    wanted: int
    page: Path
    archive: Path
    bundle: Path

    def metadata(self) -> dict[str, Any]:
        """Return the result as JSON prints it."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in vars(self).items()}


def run_demo(folder: Path, display: Display) -> DemoResult:
    """Make the demo in a folder; photos, bundle and archive of an earlier run in it are made anew.

    Raises:
        MissingExtraError: the extras ``export``, ``cpu`` and ``demo`` are not all installed.
        StorageError: the folder cannot be written, or holds things that are no demo's.
    """
    from ctxdeploy.index import Index
    from ctxdeploy.runtime import Extractor
    from ctxdeploy.runtime.listing import list_photos

    bundle_path, archive = folder / "untrained.ctxbundle", folder / "photos.ctxindex"
    _claim(folder)
    for old in (bundle_path, archive):
        shutil.rmtree(old, ignore_errors=True)
    photos_folder, queries = write_photos(folder)
    display.say(f"{len(NAMES)} photos of scikit-image, {VIEWS} changed views of each in {photos_folder}")
    bundle = _untrained_bundle(folder, bundle_path, display)
    extractor = Extractor(bundle)
    index_photos(list_photos(str(photos_folder)), archive, extractor, IndexingConfig(), display)
    with Index.open(archive) as index, display.progress("querying", len(queries)) as bar:
        index.prepare()
        answers = []
        for query in queries:
            answers.append(ask(index, extractor, query, QueryConfig(top=2 * VIEWS)))
            bar.advance()
    return _judge(folder, archive, bundle_path, photos_folder, answers)


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


def _untrained_bundle(folder: Path, path: Path, display: Display) -> Bundle:
    from ctxdeploy.extras import require

    require("torch", "export")
    from ctxdeploy.export.checkpoint import save_checkpoint
    from ctxdeploy.export.export import export
    from ctxdeploy.export.networks.config import Architecture, NetworkConfig
    from ctxdeploy.export.untrained import untrained_network

    display.say(
        "an UNTRAINED network (random weights; statistics and whitening fitted to photos): no built-in model yet"
    )
    config = NetworkConfig(family="how", architecture=Architecture.RESNET18, skip_layer=1)
    extraction = Extraction(scales=SCALES, top_k=TOP_K, dim=config.descriptor_dim)
    network = untrained_network(config, extraction, [sample_photo(name) for name in NAMES], seed=SEED)
    checkpoint = folder / "untrained.pth"
    try:
        save_checkpoint(network, checkpoint, image_size=IMAGE_SIZE)
    except (OSError, RuntimeError) as error:  # torch says RuntimeError for a folder that cannot be written
        raise StorageError(f"{checkpoint} cannot be written: {error}") from error
    return export(checkpoint, path, display=display).check()


def _judge(folder: Path, archive: Path, bundle: Path, photos: Path, answers: list[Answer]) -> DemoResult:
    first = right = 0
    for answer in answers:
        scene = scene_of(answer.photo.name)
        same = [scene_of(hit.name) == scene for hit in answer.hits[:VIEWS]]
        first += int(bool(same) and same[0])
        right += sum(same)
    page = folder / "demo.html"
    lead = f"untrained network; {first} of {len(answers)} queries have a view of the same scene first"
    write_page(page, answers, photos, title="ctxdeploy demo", lead=lead)
    return DemoResult(
        queries=len(answers),
        first_right=first,
        right=right,
        wanted=VIEWS * len(answers),
        page=page,
        archive=archive,
        bundle=bundle,
    )
