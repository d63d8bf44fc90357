"""Maps that verification finds, and the ranking by them."""

import numpy as np

from ctxdeploy.index import Features, Hit, VerificationConfig, rank, verify


def features(rng: np.random.Generator, count: int = 200) -> Features:
    return Features(
        words=np.sort(rng.integers(0, 1000, count)).astype(np.int32),
        positions=(rng.random((count, 2)) * (640, 480)).astype(np.float32),
        scales=rng.choice(np.array([0.5, 0.707, 1.0], np.float32), count),
        codes=rng.integers(0, 1 << 63, (count, 2)).astype(np.uint64),
        vectors=rng.standard_normal((count, 128)).astype(np.float32),
        size=(640, 480),
    )


def test_a_photo_lies_in_itself_as_it_is() -> None:
    photo = features(np.random.default_rng(0))
    for matches in ("words", "codes", "descriptors", "auto"):
        found = verify(photo, [photo], VerificationConfig(matches=matches))[0]
        assert found.affine is not None and found.box is not None
        np.testing.assert_allclose(found.affine, [[1, 0, 0], [0, 1, 0]], atol=1e-6)
        assert str(found.box) == "0,0,640,480"
        assert found.inliers > 100


def test_hits_that_no_map_explains_keep_their_order_and_follow() -> None:
    rng = np.random.default_rng(0)
    photo = features(rng)
    hits = [Hit("a", 0.3), Hit("b", 0.2), Hit("c", 0.1)]
    ranked = rank(hits, verify(photo, [features(rng), photo]))
    assert [hit.name for hit in ranked] == ["b", "a", "c"]
    assert [hit.score for hit in ranked] == [0.2, 0.3, 0.1]
    assert [hit.verification is None for hit in ranked] == [False, False, True]
