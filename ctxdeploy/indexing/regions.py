"""Regions of photos: boxes that their user gives, and descriptors of a photo and its boxes put together (R-ASMK)."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.reading import TooManyBytesError, read_regular
from ctxdeploy.core.text import printable
from ctxdeploy.core.types import Box, LocalDescriptors

if TYPE_CHECKING:
    from ctxdeploy.core.types import PhotoDescriptors
    from ctxdeploy.runtime import PhotoFailure, PhotoSource

MAX_BYTES, MAX_BOXES = 1 << 30, 100
Boxes = Mapping[str, tuple[Box, ...]]


def read_boxes(file: Path) -> dict[str, tuple[Box, ...]]:
    """Return the boxes of photos by their names, as a file lists them.

    A line is a JSON object, ``{"photo": NAME, "boxes": [[x0, y0, x1, y1], …]}``, or ``x0 y0 x1 y1 NAME``, a box a line.
    Boxes are in pixels of the photo as it is seen. Empty lines and lines that begin with ``#`` say nothing.

    Raises:
        ConfigError: the file cannot be read, or a line is of neither form; the message has its number.
    """
    shown = f"--boxes {printable(str(file))}"
    try:
        text = read_regular(file, MAX_BYTES).decode("utf-8-sig")
    except TooManyBytesError as error:
        raise ConfigError(f"{shown} is larger than {MAX_BYTES >> 20} MiB: split it, and index in parts") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{shown} cannot be read as text: {getattr(error, 'strerror', None) or error}") from error
    found: dict[str, tuple[Box, ...]] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            name, boxes = _object(line) if line.lstrip().startswith("{") else _plain(line)
        except (ConfigError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise ConfigError(
                f'{shown}, line {number}: {printable(str(error))[:200]}; give {{"photo": NAME, "boxes": [[x0, y0, x1, '
                "y1], …]}, or  x0 y0 x1 y1 NAME"
            ) from error
        found[name] = (*found.get(name, ()), *boxes)
        if len(found[name]) > MAX_BOXES:
            raise ConfigError(
                f"{shown}, line {number}: {printable(name)!r} has more than {MAX_BOXES} boxes: leave some out"
            )
    return found


def _object(line: str) -> tuple[str, tuple[Box, ...]]:
    facts = json.loads(line)
    name, boxes = facts["photo"], facts["boxes"]
    if not isinstance(name, str) or not isinstance(boxes, list):
        raise ConfigError("photo is not a name, or boxes is not a list")
    return name, tuple(_box(box) for box in boxes)


def _box(edges: Any) -> Box:
    if not isinstance(edges, list) or len(edges) != 4 or not all(type(edge) in (int, float) for edge in edges):
        raise ConfigError(f"box {edges!r} is not four numbers")
    return Box(x0=edges[0], y0=edges[1], x1=edges[2], y1=edges[3])


def _plain(line: str) -> tuple[str, tuple[Box, ...]]:
    *edges, name = line.rstrip("\r").split(maxsplit=4)
    if len(edges) != 4:
        raise ConfigError("the line is neither JSON nor four numbers and a name")
    return name, (_box([float(edge) for edge in edges]),)


@dataclass
class _Waiting:
    """Regions of one photo of which not all have come.

    Attributes:
        parts: what came, by the number of the region; 0 is the whole photo.
        count: of regions.
    """

    parts: "dict[int, PhotoDescriptors | PhotoFailure]"
    count: int


class Regions:
    """Photos on their way through an extractor, each as the whole and its boxes, and the results put together again.

    Args:
        boxes: of photos, by their names; a photo without any is one region.
    """

    def __init__(self, boxes: Boxes) -> None:
        self._boxes = boxes
        self._owners: dict[str, tuple[str, int]] = {}
        self._waiting: dict[str, _Waiting] = {}

    def spread(self, photos: "Iterable[PhotoSource]") -> "Iterator[PhotoSource]":
        """Yield each photo, and after it each of its boxes under a name of its own."""
        from ctxdeploy.runtime import PhotoSource

        for photo in photos:
            boxes = self._boxes.get(photo.name, ())
            if boxes:
                self._waiting[photo.name] = _Waiting({}, len(boxes) + 1)
            yield photo
            for number, box in enumerate(boxes, 1):
                name = f"{photo.name}#region {number}"
                self._owners[name] = (photo.name, number)
                yield PhotoSource(name=name, path=photo.path, data=photo.data, reader=photo.reader, box=box)

    def join(self, results: "Iterable[PhotoDescriptors | PhotoFailure]") -> "Iterator[PhotoDescriptors | PhotoFailure]":
        """Yield a photo when its last region has come: all descriptors, region after region; or why one failed.

        The size, the global descriptor and the file's state are those of the whole photo.
        """
        for result in results:
            owner, number = self._owners.pop(result.name, (result.name, 0))
            waiting = self._waiting.get(owner)
            if waiting is None:
                yield result
                continue
            waiting.parts[number] = result
            if len(waiting.parts) == waiting.count:
                del self._waiting[owner]
                yield _joined([waiting.parts[region] for region in range(waiting.count)], self._boxes[owner])


def _joined(
    parts: "list[PhotoDescriptors | PhotoFailure]", boxes: tuple[Box, ...]
) -> "PhotoDescriptors | PhotoFailure":
    from ctxdeploy.runtime import PhotoFailure

    first = parts[0]
    if isinstance(first, PhotoFailure):
        return first
    found = []
    for part, box in zip(parts, (None, *boxes), strict=True):
        if isinstance(part, PhotoFailure):
            reason = part.reason if str(box) in part.reason else f"box {box}: {part.reason}"
            return replace(part, name=first.name, reason=reason, file=first.file)
        found.append(part.descriptors)
    arrays = ("vectors", "attention", "positions", "scales")
    joined = LocalDescriptors(**{name: np.concatenate([getattr(part, name) for part in found]) for name in arrays})
    return replace(first.with_global(), descriptors=joined)
