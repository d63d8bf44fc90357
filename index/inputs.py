"""What people give to an archive: arrays of descriptors, and photos."""

import operator
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.types import LARGEST, FileState, GlobalDescriptor, LocalDescriptors, PhotoDescriptors
from ctxdeploy.index.config import IndexConfig
from ctxdeploy.index.storage.names import encode_name
from ctxdeploy.index.storage.positions import check_positions


def as_vectors(source: Any, dim: int | None, what: str) -> NDArray[np.float32]:
    """Return n×D float32 descriptors, C-contiguous, from an array or anything with an attribute ``vectors``.

    Args:
        source: the descriptors; none at all (length 0, any second size) is valid.
        dim: the D that is needed, or None for any.
        what: for the error text, such as "query".

    Raises:
        ConfigError: not two-dimensional, another D, not finite, or beyond 1e15.
    """
    try:
        array = np.asarray(getattr(source, "vectors", source))
    except (ValueError, TypeError, RuntimeError) as error:  # rows of several lengths, a tensor on another device
        raise ConfigError(f"{what}: the descriptors are not an array: {error}") from error
    if array.ndim > 0 and len(array) == 0:
        return np.empty((0, dim or (array.shape[1] if array.ndim == 2 else 0)), np.float32)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise ConfigError(
            f"{what}: descriptors of shape {array.shape} and type {array.dtype}, but n×D numbers are needed"
        )
    if dim is not None and array.shape[1] != dim:
        raise ConfigError(f"{what}: descriptors have dimension {array.shape[1]}, but the codebook has {dim}")
    vectors = np.ascontiguousarray(array, dtype=np.float32)
    sound = np.abs(vectors) <= LARGEST  # False for NaN
    if not sound.all():
        row = int(np.flatnonzero(~sound.all(axis=1))[0])
        raise ConfigError(f"{what}: descriptor {row} holds NaN, infinity or a number beyond {LARGEST:g}")
    return vectors


def make_photo(
    name: str,
    vectors: Any,
    dim: int,
    *,
    positions: Any = None,
    scales: Any = None,
    size: tuple[int, int] | None = None,
    file: FileState | None = None,
) -> PhotoDescriptors:
    """Return a photo whose descriptors an archive of dimension ``dim`` can take.

    Args:
        name: any text.
        vectors: as ``as_vectors`` takes them; n = 0 is indexed and never found.
        dim: D; 0 where no local descriptors are kept, whatever is given.
        positions: n×2, x and y; by default the attribute of ``vectors``, if there is one.
        scales: n; as ``positions``, or 1.
        size: (width, height) of the photo in pixels; None if it is not known.
        file: state of the photo's file, for ``Index.known``.

    Raises:
        ConfigError: something of it does not fit.
    """
    check_file(name, file)
    pixels = _checked_size(size, name)
    array = as_vectors(vectors, dim, name) if dim else np.empty((0, 0), np.float32)
    places = _numbers(getattr(vectors, "positions", None) if positions is None else positions, name)
    extents = _numbers(getattr(vectors, "scales", None) if scales is None else scales, name)
    if len(array) == 0:
        return PhotoDescriptors(name=name, descriptors=LocalDescriptors(vectors=array), size=pixels, file=file)
    shapes = ((len(array), 2) if places is None else places.shape, (len(array),) if extents is None else extents.shape)
    if shapes != ((len(array), 2), (len(array),)):
        raise ConfigError(
            f"{name!r}: {len(array)} descriptors, but positions of shape {shapes[0]} and scales of {shapes[1]}"
        )
    descriptors = LocalDescriptors(vectors=array, positions=places, scales=extents)
    return PhotoDescriptors(name=name, descriptors=descriptors, size=pixels, file=file)


def with_global(photo: PhotoDescriptors, given: Any, config: IndexConfig) -> PhotoDescriptors:
    """Return a photo with its global descriptor as an archive keeps it: none where it keeps none.

    Args:
        photo: the rest of it.
        given: a ``GlobalDescriptor`` or D' numbers; None for none.
        config: of the archive.

    Raises:
        ConfigError: it is missing where the archive keeps global vectors, given where it keeps none, or of another
            dimension, not finite, or neither of length 1 nor all 0.
    """
    if given is None:
        if config.keeps_global:
            raise ConfigError(
                f"{photo.name!r} has no global descriptor, but the archive keeps one of each photo "
                f"({config.global_vectors}, {config.global_dim} numbers): give global_descriptor"
            )
        return replace(photo, global_descriptor=None)
    if not config.keeps_global:
        raise ConfigError(
            f"{photo.name!r} has a global descriptor, but the archive keeps none: leave it out, or make an archive "
            "that keeps them (--global)"
        )
    vectors = as_global(getattr(given, "vector", given), config, repr(photo.name))
    length = float(np.linalg.norm(vectors[0].astype(np.float64)))
    if length != 0 and not 0.99 <= length <= 1.01:
        raise ConfigError(f"{photo.name!r}: its global descriptor has length {length:.4g}: scale it to length 1")
    return replace(photo, global_descriptor=GlobalDescriptor(vector=vectors[0]))


def as_global(source: Any, config: IndexConfig, what: str) -> NDArray[np.float32]:
    """Return Q×D' float32 global vectors, C-contiguous; one alone may be given as D' numbers.

    Raises:
        ConfigError: another D', not finite, or beyond 1e15.
    """
    try:
        array = np.asarray(source)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(f"{what}: the global vectors are not an array: {error}") from error
    array = array[None] if array.ndim == 1 and len(array) else array
    if array.ndim == 2 and array.shape[1] != config.global_dim:
        raise ConfigError(
            f"{what}: a global vector has dimension {array.shape[1]}, but those of the archive have {config.global_dim}"
        )
    return as_vectors(array, config.global_dim, what)


def as_names(names: Any) -> list[str]:
    """Return one name, or several, as a list; ``ConfigError`` for what is neither."""
    if isinstance(names, str):
        return [names]
    try:
        given = list(names)
    except TypeError as error:
        raise ConfigError(f"{names!r} is neither a name nor several names: give texts") from error
    for name in given:
        if not isinstance(name, str):
            raise ConfigError(f"the name {name!r} is not a text")
    return given


Item = PhotoDescriptors | tuple[str, Any]


def as_photos(
    items: Iterable[Item], dim: int, config: IndexConfig, *, refused: Callable[[Item, ConfigError], None] | None
) -> list[PhotoDescriptors]:
    """Return photos as ``as_photo`` does.

    Args:
        items: what an extractor gives, or pairs of name and vectors.
        dim: D; 0 for an archive without a codebook, which leaves local descriptors out.
        config: of the archive.
        refused: called with what the archive cannot take, and why; None to raise that.
    """
    photos = []
    for item in items:
        try:
            photo = as_photo(item, dim)
            photo = with_global(photo, item.global_descriptor if isinstance(item, PhotoDescriptors) else None, config)
            if config.keeps("positions"):
                check_positions(photo.descriptors, photo.name)
        except ConfigError as error:
            if refused is None:
                raise
            refused(item, error)
        else:
            photos.append(photo)
    return photos


def as_photo(item: Item, dim: int) -> PhotoDescriptors:
    """Return a photo as ``make_photo`` does, from what an extractor gives or a pair of name and vectors, without its
    global descriptor."""
    if isinstance(item, PhotoDescriptors):
        return make_photo(item.name, item.descriptors, dim, size=item.size, file=item.file)
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise ConfigError(f"{item!r} is neither PhotoDescriptors nor a pair of name and vectors"[:300])
    return make_photo(item[0], item[1], dim)


def check_file(name: str, file: FileState | None) -> None:
    """Raise ``ConfigError`` unless an archive can hold the name, and the state of the file."""
    encode_name(name)
    for value in () if file is None else (file.size, file.mtime_ns):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not -1 <= value < 1 << 63:
            raise ConfigError(f"size or mtime_ns {value!r} of {name!r} is not a whole number in -1..2^63")


def _checked_size(size: Any, name: str) -> tuple[int, int] | None:
    if size is None:
        return None
    try:
        width, height = (operator.index(side) for side in size)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name!r}: its size {size!r} is not a pair (width, height) of whole numbers") from error
    if not (1 <= width < 1 << 32 and 1 <= height < 1 << 32):
        raise ConfigError(f"{name!r}: its size {width}×{height} has a side outside 1..2^32-1")
    return width, height


def _numbers(values: Any, name: str) -> Any:
    if values is None:
        return None
    try:
        with np.errstate(over="ignore"):
            return np.asarray(values, np.float32)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(f"{name!r}: positions or scales are not an array: {error}") from error
