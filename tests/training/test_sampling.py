"""What batches hold, and that they depend on nothing but the seed and their number."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ctxdeploy.core.errors import ConfigError, NoPhotosError
from ctxdeploy.training.config import ContrastiveConfig, PairsConfig
from ctxdeploy.training.photos import PhotoStore
from ctxdeploy.training.sampling import Landmarks, PairBatch, PairSampler, TupleSampler
from ctxdeploy.training.sets import PhotoSet, joined, read_set

SMALL = PairsConfig(pairs=6, view_size=64, correspondences=10)


def sampler(photo_set: PhotoSet, config: PairsConfig = SMALL, memory: int = 1 << 30) -> PairSampler:
    return PairSampler(photo_set, PhotoStore(photo_set.paths, 160, memory), config, 16, seed=3)


def equal(a: PairBatch, b: PairBatch) -> bool:
    return all(torch.equal(getattr(a, n), getattr(b, n)) for n in ("views", "related", "pair", "first", "second"))


def test_equal_numbers_give_equal_batches_whatever_was_drawn_before(landmarks: Path) -> None:
    photos = read_set("landmarks", landmarks)
    one, other = sampler(photos), sampler(photos, memory=0)
    for number in (0, 1, 5):
        one.batch(number)
    assert equal(one.batch(7), other.batch(7))
    assert not torch.equal(one.batch(7).views, one.batch(8).views)


def test_half_of_a_batch_are_landmarks_and_related_pairs_are_marked(landmarks: Path) -> None:
    batch = sampler(read_set("landmarks", landmarks)).batch(0)
    assert batch.views.shape == (12, 3, 64, 64)
    # Three of six pairs are two views of one photo: only these have correspondences.
    assert set(batch.pair.tolist()) <= {0, 1, 2} and len(batch.pair) > 5
    assert batch.related.diagonal().all() and torch.equal(batch.related, batch.related.T)
    assert batch.first.min() > 0 and batch.first.max() < 1 and batch.second.min() > 0 and batch.second.max() < 1


def test_photos_without_landmarks_are_all_views_of_one_photo_and_unrelated(landmarks: Path) -> None:
    batch = sampler(read_set("photos", landmarks)).batch(0)
    assert set(batch.pair.tolist()) <= set(range(6)) and max(batch.pair.tolist()) > 2
    assert torch.equal(batch.related, torch.eye(6, dtype=torch.bool))


def test_a_photo_that_cannot_be_read_is_replaced_by_one_of_its_landmark(landmarks: Path, tmp_path: Path) -> None:
    photos = read_set("landmarks", landmarks)
    paths = list(photos.paths)
    paths[4] = tmp_path / "gone.png"
    store = PhotoStore(tuple(paths), 160)
    members = Landmarks(photos).members(4)
    assert store.readable(4, members) == members[(members.tolist().index(4) + 1) % len(members)]
    assert list(store.unreadable) == [4]
    broken = PhotoStore((tmp_path / "a.png", tmp_path / "b.png"), 160)
    with pytest.raises(NoPhotosError, match=r"none of the photos from .*a\.png on can be read"):
        broken.readable(0, np.arange(2))


def unreadable(landmarks: Path, missing: set[int], gone: Path) -> tuple[PhotoSet, PhotoStore]:
    photos = read_set("landmarks", landmarks)
    paths = tuple(gone if number in missing else path for number, path in enumerate(photos.paths))
    return photos, PhotoStore(paths, 160)


def test_a_landmark_of_which_nothing_can_be_read_ends_no_training(landmarks: Path, tmp_path: Path) -> None:
    photos, store = unreadable(landmarks, {3, 4, 5}, tmp_path / "gone.png")
    # The next photo of the set stands in for both: two different ones would not show the same.
    assert Landmarks(photos).readable(store, 4, 3) == (6, 6)
    assert Landmarks(photos).readable(store, 0, 2) == (0, 2)
    config = PairsConfig(pairs=12, view_size=64, correspondences=10)  # a pair of each of the six landmarks
    batch = PairSampler(photos, store, config, 16, seed=3).batch(0)
    assert batch.views.shape == (24, 3, 64, 64) and set(store.unreadable) == {3, 4, 5}
    tuples = TupleSampler(photos, store, ContrastiveConfig(), 1)
    assert tuples.readable(np.array([[4, 3], [0, 2], [6, 8]])).tolist() == [[6, 6], [0, 2], [6, 8]]


def test_photos_of_one_landmark_alone_are_refused(landmarks: Path) -> None:
    # Every pair of a batch would be related to every other: a loss of 0 from the first step on.
    paths = tuple(sorted((landmarks / "coins").iterdir()))
    for given, classes in ((paths, [0, 0, 0]), (paths[:1], [-1])):
        with pytest.raises(ConfigError, match="shows one thing, and there is nothing to tell it from"):
            sampler(PhotoSet(name="coins", paths=given, classes=np.array(classes)))


def test_only_as_many_photos_are_kept_as_memory_was_given_for(landmarks: Path) -> None:
    paths = read_set("landmarks", landmarks).paths
    first = PhotoStore(paths, 160).load(0)
    assert first is not None
    store = PhotoStore(paths, 160, memory=int(first.nbytes * 2.5))
    for number in range(6):
        store.load(number)
    assert store.held <= first.nbytes * 2.5
    again = store.load(0)
    assert again is not None and np.array_equal(again, first)


def test_given_pairs_are_used_and_landmarks_of_one_photo_have_none() -> None:
    paths = tuple(Path(f"{i}.jpg") for i in range(7))
    pairs = np.array([[0, 2], [1, 2]])
    photos = PhotoSet(name="x", paths=paths, classes=np.array([0, 0, 0, 1, 1, 2, -1]), pairs=pairs)
    landmarks = Landmarks(photos)
    assert landmarks.able.tolist() == [0, 1]
    drawn = landmarks.pairs(np.random.default_rng(0), 60, distinct=False)
    assert {tuple(p) for p in drawn.tolist()} == {(0, 2), (1, 2), (3, 4), (4, 3)}
    assert len(landmarks.pairs(np.random.default_rng(0), 60, distinct=True)) == 2


def test_tuples_hold_query_positive_and_the_negatives_that_were_mined(landmarks: Path) -> None:
    photos = joined([read_set("landmarks", landmarks)])
    config = ContrastiveConfig(tuples=2, negatives=3, queries=4, pool=10, view_size=64)
    made = TupleSampler(photos, PhotoStore(photos.paths, 160), config, 1)
    pairs, pool = made.epoch(0)
    assert pairs.shape == (4, 2) and len(pool) == 10 == len(np.unique(pool))
    assert (photos.classes[pairs[:, 0]] == photos.classes[pairs[:, 1]]).all() and (pairs[:, 0] != pairs[:, 1]).all()
    assert not np.array_equal(made.epoch(1)[0], pairs)
    tuples = np.array([[0, 1, 4, 7, 10], [5, 3, 0, 8, 12]])
    batch = made.batch(6, tuples)
    assert batch.views.shape == (10, 3, 64, 64)
    assert torch.equal(batch.views, made.batch(6, tuples).views)


def test_contrastive_needs_landmarks(landmarks: Path) -> None:
    photos = read_set("photos", landmarks)
    made = TupleSampler(photos, PhotoStore(photos.paths, 160), ContrastiveConfig(queries=5), 1)
    with pytest.raises(NoPhotosError, match="--landmarks"):
        made.epoch(0)
