"""Photos on which artefacts are compared: real ones, views of them to retrieve, and the shapes that break graphs."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.samples import ViewConfig, make_view, sample_photo
from ctxdeploy.core.scoring import GroundTruth, load_ground_truth
from ctxdeploy.core.text import counted
from ctxdeploy.core.types import Preprocessing
from ctxdeploy.export.parity.parity_run import ParityPhotos

if TYPE_CHECKING:
    from ctxdeploy.runtime import PhotoSource

Image = NDArray[np.uint8]

# Photos of a user's folder that are compared descriptor by descriptor.
MAX_COMPARED = 12
# Photos of a retrieval run, their longest side, and how many of one scene: 0.14 of the work of a photo of 1024 pixels.
MAX_RETRIEVED, RETRIEVAL_SIZE, MAX_OF_SCENE = 48, 384, 4
_COMPARED = ("coffee", "rocket", "stereo_motorcycle", "hubble_deep_field")
_RETRIEVED = ("astronaut", "coffee", "chelsea", "rocket", "stereo_motorcycle", "hubble_deep_field", "coins", "page")
_CALIBRATING = ("astronaut", "chelsea", "retina", "brick", "grass", "gravel", "camera", "coins", "moon", "page")
_VIEWS = 4


def default_photos(image_size: int) -> dict[str, Image]:
    """Return real photos from scikit-image, scaled to ``image_size`` where they are larger.

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    return {name: _scaled(sample_photo(name), image_size) for name in _COMPARED}


def sample_calibration(image_size: int) -> dict[str, Image]:
    """Return photos of scikit-image to fit int8 to: none of those that are compared.

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    return {name: _scaled(sample_photo(name), image_size) for name in _CALIBRATING}


def folder_calibration(
    folder: Path, preprocessing: Preprocessing, max_photos: int, display: Display | None = None
) -> dict[str, Image]:
    """Return up to ``max_photos`` photos of a folder, spread over it, as they enter the network.

    Args:
        folder: with photos.
        preprocessing: how they enter the network.
        max_photos: at most so many.
        display: is told how many of how many are used.

    Raises:
        ConfigError: the folder cannot be listed.
        NoPhotosError: it has no photos.
        PhotoError: a photo cannot be read.
    """
    from ctxdeploy.runtime import find_photos

    found = find_photos(folder)
    chosen = _spread(found, max_photos)
    if display is not None and len(chosen) < len(found):
        display.say(
            f"int8 is fitted to {len(chosen)} of {counted(len(found), 'photo')}: --calibration-photos takes more"
        )
    return decoded(chosen, preprocessing)


def sample_parity_photos(preprocessing: Preprocessing) -> ParityPhotos:
    """Return photos of scikit-image; the retrieval run has four changed views of each of eight.

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    random = np.random.default_rng(0)
    config = ViewConfig(longest=min(RETRIEVAL_SIZE, preprocessing.image_size))
    views = {}
    for name in _RETRIEVED:
        photo = sample_photo(name)
        for number in range(_VIEWS):
            views[f"{name}_{number}"] = np.asarray(make_view(photo, random, config))
    return ParityPhotos(parity=default_photos(preprocessing.image_size), retrieval=views)


def folder_parity_photos(folder: Path, preprocessing: Preprocessing) -> ParityPhotos:
    """Return photos of a folder, spread over it, with the ground truth that lies there (``gnd.json``) if any does.

    Raises:
        ConfigError: the folder cannot be listed, or its ground truth not be read.
        NoPhotosError: it has no photos.
        PhotoError: a photo cannot be read.
    """
    from ctxdeploy.runtime import find_photos

    found = find_photos(folder)
    truth = load_ground_truth(folder)
    small = min(RETRIEVAL_SIZE, preprocessing.image_size)
    # Ground truth of other photos may lie above this folder.
    chosen = ([] if truth is None else _of_scenes(found, truth)) or _spread(found, MAX_RETRIEVED)
    return ParityPhotos(
        parity=decoded(_spread(found, MAX_COMPARED), preprocessing),
        # By the names of the files, as ground truth has them, unless two folders hold the same name.
        retrieval=_by_file(decoded(chosen, Preprocessing(image_size=small, draft=preprocessing.draft))),
        ground_truth=truth,
    )


def decoded(photos: Sequence["PhotoSource"], preprocessing: Preprocessing) -> dict[str, Image]:
    """Return photos by name as they enter the network, decoded by the CPU: artefacts are compared on equal pixels."""
    from ctxdeploy.runtime import decode_photo

    return {photo.name: decode_photo(_path_of(photo), preprocessing.on_cpu()).pixels for photo in photos}


def photos_of(folder: Path, max_photos: int) -> list[Path]:
    """Return up to ``max_photos`` files of a folder, spread over it.

    Raises:
        ConfigError: the folder cannot be listed.
        NoPhotosError: it has no photos.
    """
    from ctxdeploy.runtime import find_photos

    return [_path_of(photo) for photo in _spread(find_photos(folder), max_photos)]


def _path_of(photo: "PhotoSource") -> Path:
    if photo.path is None:
        raise ConfigError(f"{photo.name} is not a file: give a folder of photos with --photos")
    return photo.path


def _spread(photos: Sequence["PhotoSource"], max_photos: int) -> list["PhotoSource"]:
    """Return up to ``max_photos`` photos, evenly spread over the list."""
    positions = np.unique(np.linspace(0, len(photos) - 1, min(max_photos, len(photos))).round().astype(int))
    return [photos[position] for position in positions]


def _of_scenes(photos: Sequence["PhotoSource"], truth: GroundTruth) -> list["PhotoSource"]:
    """Return photos of as many scenes as there is room for, four of each."""
    by_file = {Path(photo.name).name: photo for photo in photos}
    chosen: list[PhotoSource] = []
    for files in truth.scenes.values():
        here = [by_file[name] for name in files if name in by_file][:MAX_OF_SCENE]
        if len(here) > 1 and len(chosen) + len(here) <= MAX_RETRIEVED:
            chosen += here
    return chosen


def _by_file(photos: dict[str, Image]) -> dict[str, Image]:
    short = {Path(name).name: pixels for name, pixels in photos.items()}
    return short if len(short) == len(photos) else photos


def with_odd_shapes(photos: Mapping[str, Image], stride: int, scale: float) -> dict[str, Image]:
    """Add crops of the photos: portrait, panorama, tiny, and a second one of equal size.

    Args:
        photos: at least one photo, H×W×3 uint8.
        stride: of the network, in pixels of the scaled image.
        scale: smallest one of the network; the tiny crop is smaller than one cell at it.
    """
    if not photos:
        raise ConfigError("no photo to compare with: give a folder of photos with --photos")
    largest = max(photos.values(), key=lambda photo: min(photo.shape[:2]))
    height, width = largest.shape[:2]
    tiny = max(1, round(stride / scale * 0.6))
    crops = {
        "portrait": largest[:, width // 4 : width // 4 + max(1, min(height, width) // 2)],
        "panorama": largest[height // 3 : height // 3 + max(1, width // 8)],
        "tiny": largest[height // 2 : height // 2 + tiny, width // 2 : width // 2 + max(1, tiny * 2 // 3)],
        "one pixel": largest[:1, :1],
        # Mirrored, so that a batch of two holds different photos of one size.
        "portrait, mirrored": largest[:, width // 4 : width // 4 + max(1, min(height, width) // 2)][:, ::-1],
    }
    return {**photos, **{name: np.ascontiguousarray(crop) for name, crop in crops.items()}}


def _scaled(photo: Image, image_size: int) -> Image:
    """Scale as every photo is scaled: through a lossless file and the runtime's decoder."""
    from PIL import Image as Pillow

    from ctxdeploy.runtime import decode_photo

    buffer = io.BytesIO()
    Pillow.fromarray(photo).save(buffer, "PNG", compress_level=1)
    return decode_photo(buffer.getvalue(), Preprocessing(image_size=image_size)).pixels
