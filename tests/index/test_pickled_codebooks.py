"""Codebooks as the package ``asmk`` pickles them: read as data, whatever wrote them, and refused if they are more."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from ctxdeploy.core.errors import ArchiveError
from ctxdeploy.index import Codebook, open_codebook

CENTROIDS = np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)


def _content(centroids: object = CENTROIDS, size: object = 20) -> dict[str, object]:
    return {"type": "Codebook", "params": {"size": size}, "state": {"centroids": centroids}}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_asmk_wrote(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "codebook.pkl").write_bytes(pickle.dumps(_content(), protocol=protocol))
    found = open_codebook(tmp_path / "codebook.pkl")
    assert np.array_equal(found.centroids, CENTROIDS) and found.id == Codebook.from_centroids(CENTROIDS).id


@pytest.mark.parametrize(
    "content",
    [
        _content(CENTROIDS.astype(np.float64)),
        _content(np.asfortranarray(CENTROIDS)),
        _content(CENTROIDS.astype(">f4")),
        _content(size=np.int64(20)),
        {"state": {"centroids": CENTROIDS}},
    ],
)
def test_other_ways_to_say_the_same(tmp_path: Path, content: object) -> None:
    (tmp_path / "other_name").write_bytes(pickle.dumps(content))
    assert np.array_equal(open_codebook(tmp_path / "other_name").centroids, CENTROIDS)


def test_sizes_in_thousands(tmp_path: Path) -> None:
    many = np.zeros((2048, 1), np.float32)
    (tmp_path / "codebook.pkl").write_bytes(pickle.dumps(_content(many, "2k")))
    assert len(open_codebook(tmp_path / "codebook.pkl")) == 2048


class _Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_Evil(), "print"),
        (_content(_Evil()), "print"),
        (_content(None), "no state with an array of centroids"),
        (_content([[1.0, 2.0]]), "no state with an array of centroids"),
        (_content(CENTROIDS[0]), "no state with an array of centroids"),
        (_content(CENTROIDS.astype(object)), "no state with an array of centroids"),
        (_content(CENTROIDS.astype("S8")), "no state with an array of centroids"),
        (_content(CENTROIDS.astype(np.complex64)), "no state with an array of centroids"),
        (_content(np.full((20, 8), np.nan, np.float32)), "holds NaN"),
        (_content(np.empty((0, 8), np.float32), 0), "at least one word"),
        (_content(np.zeros((1, 5000), np.float32), 1), "D in 1..4096"),
        (_content(size=21), "20 words, and says another number"),
        (_content(size="20k"), "20 words, and says another number"),
        (_content(size=[20]), "20 words, and says another number"),
        ([1, 2], "no state with an array"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: object, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "codebook.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ArchiveError, match=r"codebook\.pkl") as caught:
        open_codebook(tmp_path / "codebook.pkl")
    assert words in str(caught.value)
    assert capsys.readouterr().out == ""


def test_files_of_our_own_and_none(tmp_path: Path) -> None:
    Codebook.from_centroids(CENTROIDS).save(tmp_path / "mine.pkl")
    assert np.array_equal(open_codebook(tmp_path / "mine.pkl").centroids, CENTROIDS)
    for name, data in (("cut.pkl", pickle.dumps(_content())[:-9]), ("empty.pkl", b""), ("text.pkl", b"words")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ArchiveError, match=name):
            open_codebook(tmp_path / name)
    with pytest.raises(ArchiveError, match="none"):
        open_codebook(tmp_path / "none")
