"""Boxes of photos: their file, and the way of regions through an extractor."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.types import Box, GlobalDescriptor, LocalDescriptors, PhotoDescriptors
from ctxdeploy.indexing.regions import MAX_BOXES, Regions, read_boxes
from ctxdeploy.runtime import PhotoFailure, PhotoSource


def _box(*edges: float) -> Box:
    return Box(x0=edges[0], y0=edges[1], x1=edges[2], y1=edges[3])


def test_both_forms_of_lines_are_read(tmp_path: Path) -> None:
    file = tmp_path / "boxes"
    file.write_text(
        '# x0 y0 x1 y1 NAME\n\n0 0 10.5 20 a b.jpg\r\n{"photo": "c.jpg", "boxes": [[1, 2, 3, 4], [5, 6, 7, 8]]}\n'
        '5 5 9 9 a b.jpg\n{"photo": "none.jpg", "boxes": []}\n',
        encoding="utf-8",
    )
    assert read_boxes(file) == {
        "a b.jpg": (_box(0, 0, 10.5, 20), _box(5, 5, 9, 9)),
        "c.jpg": (_box(1, 2, 3, 4), _box(5, 6, 7, 8)),
        "none.jpg": (),
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 2 3 a.jpg", "line 2: the line is neither JSON nor four numbers and a name"),
        ("1 2 3 x a.jpg", "line 2: could not convert"),
        ("5 5 1 1 a.jpg", "line 2: box .* is empty"),
        ("0 0 inf 1 a.jpg", "line 2: .*finite"),
        ('{"photo": "a.jpg"}', "line 2: 'boxes'"),
        ('{"photo": 3, "boxes": []}', "line 2: photo is not a name"),
        ('{"photo": "a", "boxes": [[1, 2, 3]]}', "line 2: .* is not four numbers"),
        ('{"photo": "a", "boxes": [[0, 0, true, 1]]}', "line 2: .* is not four numbers"),
        ("{" * 5000, "line 2: "),
        ('{"photo": "a", "boxes": ' + str([[0, 0, 1, 1]] * (MAX_BOXES + 1)) + "}", "has more than 100 boxes"),
    ],
)
def test_mistakes_are_told_by_their_line(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "boxes"
    file.write_text(f"0 0 1 1 ok.jpg\n{line}\n")
    with pytest.raises(ConfigError, match=message):
        read_boxes(file)
    with pytest.raises(ConfigError, match=r"--boxes .* cannot be read as text: No such file"):
        read_boxes(tmp_path / "missing")


def _found(name: str, value: float) -> PhotoDescriptors:
    vectors = np.full((2, 4), value, np.float32)
    return PhotoDescriptors(name=name, descriptors=LocalDescriptors(vectors=vectors), size=(9, 9))


def test_regions_come_together_whatever_order_they_come_in() -> None:
    boxes = {"a": (_box(0, 0, 5, 5), _box(1, 1, 4, 4)), "none": (), "bad": (_box(0, 0, 99, 99),)}
    regions = Regions(boxes)
    photos = [PhotoSource(name=name, data=b"x") for name in ("a", "none", "bad", "other")]
    sent = list(regions.spread(photos))
    assert [(part.name.partition("#")[0], part.box) for part in sent] == [
        ("a", None), ("a", boxes["a"][0]), ("a", boxes["a"][1]), ("none", None), ("bad", None),
        ("bad", boxes["bad"][0]), ("other", None),
    ]  # fmt: skip
    assert len({part.name for part in sent}) == len(sent)
    results: list[Any] = [_found(part.name, float(number)) for number, part in enumerate(sent)]
    results[5] = PhotoFailure(name=sent[5].name, reason="it does not lie in the photo", stage="decode", file=None)
    came = list(regions.join(results[number] for number in (2, 3, 5, 0, 4, 6, 1)))
    assert [result.name for result in came] == ["none", "bad", "other", "a"]
    whole = came[3]
    assert isinstance(whole, PhotoDescriptors)
    assert whole.descriptors.vectors[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert whole.global_descriptor is not None and np.array_equal(
        whole.global_descriptor.vector, GlobalDescriptor.pooled(results[0].descriptors).vector
    )
    failed = came[1]
    assert isinstance(failed, PhotoFailure)
    assert failed.reason == "box 0,0,99,99: it does not lie in the photo"
