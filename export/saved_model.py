"""What the graph of a SavedModel says of its network: strides of convolutions, and how the pyramid is sampled.

``saved_model.pb`` is a protocol buffer (``saved_model.proto``, ``graph.proto``) of a few megabytes: weights lie
elsewhere.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ctxdeploy.core.errors import CheckpointError
from ctxdeploy.core.protobuf import fields, varints
from ctxdeploy.core.reading import TooManyBytesError, read_regular

SAVED_MODEL = "saved_model.pb"
_MAX_BYTES = 256 << 20
# Slim's names of the 3×3 convolutions of a block's units, wherever in the graph.
_UNIT = re.compile(r"(?:^|/)block([1-4])/unit_(\d+)/bottleneck_v1/conv2/(?:Conv2D|convolution)$")
_RESIZE = "ResizeBilinear"


@dataclass(frozen=True, kw_only=True)
class GraphFacts:
    """What a graph says.

    Attributes:
        strides: of the last unit of each block that is there, by the block's number.
        half_pixel: whether images are resized at the centres of pixels; None where none is.
        leaves_out: whether a pooling of 1×1 leaves out every other position, as behind the third block of DELF's Keras
            code.
    """

    strides: dict[int, int]
    half_pixel: bool | None
    leaves_out: bool = False


def graph_facts(path: Path) -> GraphFacts:
    """Read the graph of a ``saved_model.pb``.

    Raises:
        CheckpointError: it cannot be read or is damaged, or its copies of a convolution have different strides.
    """
    try:
        data = read_regular(path, _MAX_BYTES)
    except TooManyBytesError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        return _facts(path, memoryview(data))
    except (ValueError, IndexError, OverflowError) as error:
        raise CheckpointError(f"{path} is not a SavedModel, or is damaged: {error}; copy it again") from error


def _facts(path: Path, data: memoryview) -> GraphFacts:
    strides: dict[tuple[int, int], int] = {}
    ways: set[bool] = set()
    leaves_out = False
    for node in _nodes(data):
        name, operator, attributes = _node(node)
        if operator == _RESIZE:
            ways.add(any(value == 1 for number, value in _attribute(attributes, b"half_pixel_centers") if number == 5))
        if operator == "MaxPool" and _numbers(attributes, b"ksize") == [1, 1, 1, 1]:
            leaves_out |= _stride(attributes) == 2
        unit = _UNIT.search(name)
        if unit is not None and operator == "Conv2D":
            key, stride = (int(unit[1]), int(unit[2])), _stride(attributes)
            if strides.setdefault(key, stride) != stride:
                raise CheckpointError(f"{path} has {name} with two strides, {strides[key]} and {stride}")
    if len(ways) > 1:
        raise CheckpointError(f"{path} resizes images in two ways, at the centres and at the corners of pixels")
    last = {block: max(unit for other, unit in strides if other == block) for block, _ in strides}
    return GraphFacts(
        strides={block: strides[block, unit] for block, unit in sorted(last.items())},
        half_pixel=next(iter(ways), None),
        leaves_out=leaves_out,
    )


def _messages(data: memoryview, number: int) -> Iterator[memoryview]:
    for found, value in fields(data):
        if found == number and not isinstance(value, int):
            yield value


def _nodes(data: memoryview) -> Iterator[memoryview]:
    """Yield the nodes of the graph and of the functions that it calls."""
    for meta in _messages(data, 2):
        for graph in _messages(meta, 2):
            yield from _messages(graph, 1)
            for library in _messages(graph, 2):
                for function in _messages(library, 1):
                    yield from _messages(function, 3)


def _node(data: memoryview) -> tuple[str, str, dict[bytes, memoryview]]:
    name, operator, attributes = "", "", {}
    for number, value in fields(data):
        if isinstance(value, int):
            continue
        if number == 1:
            name = bytes(value[:4096]).decode("utf-8", "replace")
        elif number == 2:
            operator = bytes(value[:256]).decode("utf-8", "replace")
        elif number == 5:
            entry = dict(fields(value))
            key, content = entry.get(1), entry.get(2)
            if not isinstance(key, int | None) and not isinstance(content, int | None):
                attributes[bytes(key[:256])] = content
    return name, operator, attributes


def _attribute(attributes: dict[bytes, memoryview], name: bytes) -> Iterator[tuple[int, int | memoryview]]:
    return fields(attributes.get(name, memoryview(b"")))


def _stride(attributes: dict[bytes, memoryview]) -> int:
    """Return the second of a convolution's strides: batch, rows, columns, channels."""
    numbers = _numbers(attributes, b"strides")
    if len(numbers) != 4 or numbers[1] != numbers[2] or numbers[1] not in (1, 2):
        raise ValueError(f"strides {numbers[:8]} of a convolution")
    return numbers[1]


def _numbers(attributes: dict[bytes, memoryview], name: bytes) -> list[int]:
    """Return the whole numbers of an attribute that is a list of them."""
    numbers: list[int] = []
    for number, value in _attribute(attributes, name):
        if number == 1 and not isinstance(value, int):
            for part, packed in fields(value):
                if part == 3:
                    numbers += [packed] if isinstance(packed, int) else list(varints(packed))
    return numbers
