"""The small retrieval run of a parity check, with ASMK."""

import numpy as np
import pytest

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.scoring import GroundTruth
from ctxdeploy.evaluation.retrieval import AsmkRetrieval


def test_retrieval_agrees_with_itself_and_not_with_noise() -> None:
    random = np.random.default_rng(0)
    base = random.standard_normal((8, 60, 16)).astype(np.float32)
    # Two photos of each of eight things.
    photos = {f"{thing}_{view}": base[thing] + 0.1 * view for thing in range(8) for view in range(2)}
    truth = GroundTruth(scenes={str(t): (f"{t}_0", f"{t}_1") for t in range(8)}, junk={})
    training = random.standard_normal((400, 16)).astype(np.float32)
    retrieval = AsmkRetrieval(photos, training, truth)
    same = retrieval.agreement(photos)
    assert (same.overlap, same.map, same.reference_map, same.queries) == (1.0, 1.0, 1.0, 16)
    noise = {name: random.standard_normal((60, 16)).astype(np.float32) for name in photos}
    other = retrieval.agreement(noise)
    assert other.map is not None and other.map < 0.6 and other.overlap < 0.9
    with pytest.raises(ConfigError):
        retrieval.agreement({**photos, "0_0": np.full((60, 16), np.nan, np.float32)})
    with pytest.raises(ConfigError, match="too few for a retrieval run"):
        AsmkRetrieval({"one": base[0]}, training)


def test_scenes_that_are_all_junk_are_no_ground_truth() -> None:
    random = np.random.default_rng(0)
    photos = {name: random.standard_normal((40, 8)).astype(np.float32) for name in "abcd"}
    junk = {"a": frozenset("b"), "b": frozenset("a")}
    for scenes, queries in (({"1": ("a", "b")}, 4), ({"1": ("a", "b"), "2": ("c", "d")}, 2)):
        found = AsmkRetrieval(photos, photos["a"], GroundTruth(scenes=scenes, junk=junk)).agreement(photos)
        assert found.queries == queries
        assert found.map == found.reference_map and (found.map is None) == (queries == 4)


def test_a_photo_without_descriptors_is_no_obstacle_to_retrieval() -> None:
    random = np.random.default_rng(0)
    photos = {str(i): random.standard_normal((40, 8)).astype(np.float32) for i in range(4)}
    photos["empty"] = np.zeros((0, 8), np.float32)
    assert AsmkRetrieval(photos, photos["0"]).agreement(photos).overlap == 1.0
