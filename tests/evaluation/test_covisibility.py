"""Pairs against a COLMAP model: its binary file, written here by hand and by pycolmap; counts by plain loops."""

import random
import struct
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.evaluation import judge_pairs, read_model

Model = dict[str, list[int]]


def images_bin(model: Model) -> bytes:
    """Return ``images.bin`` of photos, each with the 3-D point of each key point, -1 for none."""
    data = struct.pack("<Q", len(model))
    for number, (name, points) in enumerate(model.items(), 1):
        data += struct.pack("<I7dI", number, *[0.5] * 7, 1) + name.encode("utf-8", "surrogateescape") + b"\0"
        data += struct.pack("<Q", len(points)) + b"".join(struct.pack("<ddq", 1.0, 2.0, point) for point in points)
    return data


def write(folder: Path, model: Model) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "images.bin").write_bytes(images_bin(model))
    return folder


def some_model(seed: int, photos: int = 8) -> Model:
    chance = random.Random(seed)
    pool = [chance.randrange(1 << 40) for _ in range(30)]
    return {f"d/é {n}.jpg": chance.choices([-1, *pool], k=chance.randrange(25)) for n in range(photos)}


def covisible(model: Model, least: int) -> set[tuple[str, str]]:
    seen = {name: set(points) - {-1} for name, points in model.items()}
    return {(a, b) for a, b in combinations(model, 2) if len(seen[a] & seen[b]) >= least}


@given(seed=st.integers(0, 10**6), least=st.integers(1, 8))
def test_covisible_pairs_are_those_of_plain_loops(
    tmp_path_factory: pytest.TempPathFactory, seed: int, least: int
) -> None:
    model = some_model(seed)
    seen = read_model(write(tmp_path_factory.mktemp("model"), model))
    assert list(seen.names) == list(model)
    found = {(seen.names[a], seen.names[b]) for a, b in seen.pairs(least).tolist()}
    assert found == covisible(model, least)


def best_of(pairs: Sequence[tuple[str, str, float]], top: int) -> set[tuple[str, str]]:
    """Return the pairs among the ``top`` best of either photo, in plain loops."""
    names = {name for pair in pairs for name in pair[:2]}
    kept = set()
    for name in names:
        own = sorted(((-score, a, b) for a, b, score in pairs if name in (a, b)))
        kept |= {(a, b) for _, a, b in own[:top]}
    return kept


def test_recall_and_useless_pairs_at_each_k(tmp_path: Path) -> None:
    model = some_model(5, photos=9)
    names, chance = list(model), random.Random(1)
    pairs = [(a, b, chance.random()) for a, b in combinations(names, 2) if chance.random() < 0.6]
    wanted = covisible(model, 4)
    turned = [(b, a, score / 2) for a, b, score in pairs[::2]]  # again, in the other direction: each counts once
    figures = judge_pairs(
        read_model(write(tmp_path, model)), [*pairs, *turned, ("new.jpg", names[0], 1.0)], min_points=4, tops=(1, 2, 3)
    )
    assert [one.top for one in figures] == [1, 2, 3, None]
    for one in figures:
        kept = {(a, b) for a, b, _ in pairs} if one.top is None else best_of(pairs, one.top)
        assert (one.pairs, one.right, one.covisible) == (len(kept), len(kept & wanted), len(wanted))
        assert one.foreign == 1
        assert one.recall == pytest.approx(len(kept & wanted) / len(wanted))
        assert one.useless == pytest.approx(1 - len(kept & wanted) / len(kept))


def test_without_scores_there_is_no_k_and_without_pairs_no_share(tmp_path: Path) -> None:
    seen = read_model(write(tmp_path, {"a": [1, 2], "b": [2, 1], "c": [9]}))
    (all_pairs,) = judge_pairs(seen, [("a", "b", None), ("b", "c", None)], min_points=2, tops=(1, 2))
    assert (all_pairs.recall, all_pairs.useless) == (1.0, 0.5)
    (none,) = judge_pairs(seen, [], min_points=3)
    assert (none.recall, none.useless, none.pairs) == (None, None, 0)
    empty = read_model(write(tmp_path, {}))
    assert judge_pairs(empty, [("a", "b", 0.5)])[0].foreign == 1


def test_models_of_pycolmap_are_read(tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap (135 MB) is not installed")
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_frames_per_rig, options.num_points3D = 2, 4, 50
    made = pycolmap.synthesize_dataset(options)
    made.write_binary(tmp_path)
    seen = read_model(tmp_path)
    model = {
        image.name: [point.point3D_id if point.has_point3D() else -1 for point in image.points2D]
        for image in made.images.values()
    }
    assert set(seen.names) == set(model) and len(model) > 4
    for least in (1, 15, 40):
        found = {tuple(sorted((seen.names[a], seen.names[b]))) for a, b in seen.pairs(least).tolist()}
        assert found == {tuple(sorted(pair)) for pair in covisible(model, least)}


def hostile() -> Iterable[tuple[bytes, str]]:
    whole = images_bin({"a.jpg": [1, 2, 3], "b.jpg": [3]})
    huge = struct.pack("<Q", 1 << 62)
    head = struct.pack("<QI7dI", 1, 1, *[0.5] * 7, 1)
    yield b"", "ends after 0 bytes"
    yield whole[:5], "ends after 5 bytes"
    yield huge + whole[8:], "photos do not fit"
    yield whole[:-1], "more than its bytes"
    yield whole + b"\0", "ends 1 byte before"
    yield head + b"x" * 5000, "has no end"
    yield head + b"a.jpg\0" + huge, "more than its bytes"
    yield head + b"a.jpg\0" + struct.pack("<Q", (1 << 64) // 24 + 1), "more than its bytes"
    yield images_bin({"a.jpg": [1]}).replace(b"a.jpg", b"same!")[:8] + images_bin({"a": [1]})[8:] * 2, "bytes before"
    yield struct.pack("<Q", 2) + images_bin({"a": [1]})[8:] * 2, "is in it twice"


@pytest.mark.parametrize(("data", "text"), list(hostile()))
def test_damaged_and_hostile_files_are_refused(data: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / "images.bin").write_bytes(data)
    with pytest.raises(ConfigError, match=text):
        read_model(tmp_path)


@given(data=st.binary(max_size=300), at=st.integers(0, 250))
def test_no_bytes_end_in_anything_but_a_model_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int
) -> None:
    folder = tmp_path_factory.mktemp("model")
    whole = bytearray(images_bin({"a.jpg": [1, 2, 3], "b.jpg": [3, -1]}))
    whole[at : at + len(data)] = data
    (folder / "images.bin").write_bytes(whole)
    try:
        seen = read_model(folder)
    except ConfigError:
        return
    assert len(seen.names) == len(set(seen.names))
    seen.pairs(1)


def test_what_is_not_there_is_said_with_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read.*give sparse/0"):
        read_model(tmp_path)
    (tmp_path / "images.txt").write_text("# text\n")
    with pytest.raises(ConfigError, match="model_converter"):
        read_model(tmp_path)
