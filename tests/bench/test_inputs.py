"""What is measured on: synthetic archives, and photos by their bytes."""

from pathlib import Path

import numpy as np
import pytest

from ctxdeploy.bench.inputs import SKEW, build_archive, draw_queries, photos_hash
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.progress import Display
from ctxdeploy.index import Index


def test_synthetic_archives_have_the_word_statistics_of_photos(tmp_path: Path) -> None:
    display = Display(quiet=True)
    names = build_archive(tmp_path / "a", [300, 2000], 200, 2048, 3, display)
    with Index.open(tmp_path / "a") as index, Index.open(tmp_path / "a", at=names[0]) as small:
        assert (len(small), len(index), names) == (300, 2000, ["photos-300", "photos-2000"])
        info = index.info()
        assert 75 < info["words_per_image"] < 81  # 0.405 of 200, some drawn twice
        shards = index.state.shards
        counts = sum(np.diff(shard.word_offsets).astype(float) for shard in shards)
        assert abs(len(counts) * (counts**2).sum() / counts.sum() ** 2 - SKEW) < 0.5
        bits = np.unpackbits(np.ascontiguousarray(shards[1].codes).view(np.uint8)).mean()
        assert abs(bits - 0.5) < 0.01  # never zeros
        queries = draw_queries(index, 3, 200, 1)
        assert [query.shape for query in queries] == [(200, 128)] * 3
        assert all(len(index.search(query, 5)) == 5 for query in queries)
        again = draw_queries(index, 3, 200, 1)
        assert all(np.array_equal(a, b) for a, b in zip(queries, again, strict=True))
    with pytest.raises(ConfigError, match="--words"):
        build_archive(tmp_path / "b", [5], 200, 70_000, 3, display)


def test_other_photos_are_another_configuration(tmp_path: Path) -> None:
    photos = [tmp_path / name for name in ("a.jpg", "b.jpg")]
    for path in photos:
        path.write_bytes(path.name.encode())
    assert photos_hash(photos) == photos_hash(photos)
    assert len({photos_hash(photos), photos_hash(photos[:1]), photos_hash(photos[::-1])}) == 3
