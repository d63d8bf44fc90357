"""`index --boxes`: regions of photos in an archive."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctxdeploy.core import bundle
from ctxdeploy.core.samples import sample_photo
from ctxdeploy.core.types import Box
from ctxdeploy.index import Index
from ctxdeploy.models import find_bundle
from ctxdeploy.runtime import BackendConfig, Extractor


def _box(*edges: float) -> Box:
    return Box(x0=edges[0], y0=edges[1], x1=edges[2], y1=edges[3])


@pytest.mark.slow
def test_an_archive_of_regions_has_the_descriptors_of_every_box(call, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(("coffee", "astronaut", "rocket")):
        Image.fromarray(sample_photo(name)[:160, :200]).save(folder / f"{number}.png")
    boxes = tmp_path / "boxes.txt"
    boxes.write_text("0 0 100 160 0.png\n50 20 200 150 0.png\n10 10 90 90 1.png\n0 0 9 9 gone.png\n")
    archive = tmp_path / "a"
    given = ("index", folder, "-o", archive, "--model", "ctx-small", "--backend", "onnxruntime")
    result = call(*given, "--boxes", boxes)
    assert result.code == 0, result.err
    assert "--boxes names 1 photo that are not among these, such as gone.png" in result.err
    extractor = Extractor(bundle.open(find_bundle("ctx-small")), backend=BackendConfig(name="onnxruntime"))
    parts = {"0.png": (None, _box(0, 0, 100, 160), _box(50, 20, 200, 150)), "1.png": (None, _box(10, 10, 90, 90))}
    with Index.open(archive) as index:
        assert index.config.aggregation == "regional" and len(index) == 3
        for name, regions in (*parts.items(), ("2.png", (None,))):
            vectors = [extractor.extract_one(folder / name, region).vectors for region in regions]
            expected = index.aggregate(np.concatenate(vectors))
            (stored,) = index.aggregated([name])
            assert np.array_equal(stored.words, expected.words)
            assert np.mean(stored.codes == expected.codes) > 0.98  # a batch of other company may round a sign
    asked = call("query", folder / "1.png", "--index", archive, "--json")
    assert asked.code == 0, asked.err
    again = call(*given)
    assert again.code == 2 and "was made with --boxes: give the boxes of the photos again" in again.err
    assert call(*given, "--boxes", boxes).code == 0
    other = call("index", folder, "-o", tmp_path / "plain", "--model", "ctx-small", "--quiet")
    assert other.code == 0, other.err
    refused = call("index", folder, "-o", tmp_path / "plain", "--boxes", boxes)
    assert refused.code == 2 and "was made without --boxes: leave it out, or choose another -o" in refused.err
