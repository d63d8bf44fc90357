"""The two figures of the parity check, on outputs made by hand."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ctxdeploy.core.errors import ConfigError, ParityError
from ctxdeploy.core.scoring import GroundTruth
from ctxdeploy.core.types import Precision, Preprocessing
from ctxdeploy.export.networks import Architecture, Lit, NetworkConfig, Smoothing
from ctxdeploy.export.parity import (
    TOLERANCES,
    Agreement,
    Matching,
    Parity,
    ParityPhotos,
    ParityRun,
    sample_parity_photos,
)
from ctxdeploy.export.parity.parity import Outputs, compare_photo
from ctxdeploy.export.parity.photos import default_photos, with_odd_shapes

Vectors = NDArray[np.float32]
IMAGE = np.zeros((100, 200, 3), np.uint8)
FP32 = TOLERANCES[Precision.FP32]


def outputs(count: int = 100, padding: int = 4) -> Outputs:
    """Return outputs of one photo: ``count`` rows on a grid of 16 pixels at two scales, then padding."""
    rng = np.random.default_rng(5)
    k = count + padding
    descriptors = rng.normal(size=(1, k, 16))
    attention = np.linspace(1, 0.1, k)[None].copy()
    positions = np.array([[(8 + 16 * (i // 2 % 12), 8 + 16 * (i // 24)) for i in range(k)]])
    scales = np.array([[1.0, 0.707] * (k // 2)])
    for array in (descriptors, attention, positions, scales):
        array[:, count:] = 0
    return tuple(array.astype(np.float32) for array in (descriptors, attention, positions, scales))


def check(wanted: Outputs, given: Outputs) -> Parity:
    parity = Parity(photos=(compare_photo("photo", IMAGE, wanted, given),), tolerance=FP32)
    parity.check()
    return parity


def changed(index: int, change: Callable[[NDArray[Any]], Any]) -> Outputs:
    arrays = outputs()
    change(arrays[index])
    return arrays


def test_equal_outputs() -> None:
    photo = check(outputs(), outputs()).photos[0]
    assert (photo.descriptors, photo.shape, photo.overlap) == (100, (100, 200), 1.0)
    assert photo.cosine_min == pytest.approx(1)


def test_the_order_of_rows_does_not_matter() -> None:
    order = np.random.default_rng(1).permutation(104)
    shuffled = tuple(array[:, order] for array in outputs())
    parity = check(outputs(), shuffled)
    assert (parity.overlap, parity.cosine) == (1.0, pytest.approx(1))


def test_padding_is_no_position() -> None:
    wider = tuple(np.pad(array, [(0, 0), (0, 9)] + [(0, 0)] * (array.ndim - 2)) for array in outputs())
    assert check(outputs(), wider).overlap == 1.0


@pytest.mark.parametrize("on_which_side", [0, 1])
def test_a_dropped_position_lowers_the_overlap(on_which_side: int) -> None:
    sides = [outputs(), outputs()]
    sides[on_which_side] = tuple(np.delete(array, [3, 7], axis=1) for array in sides[on_which_side])
    photo = compare_photo("photo", IMAGE, *sides)
    assert photo.overlap == pytest.approx(0.98)
    assert photo.cosine_min == pytest.approx(1)
    with pytest.raises(ParityError, match=r"overlap 0.980000 on photo \(200×100\), but at least 0.99 is needed"):
        check(*sides)


def test_a_moved_position_or_scale_is_another_one() -> None:
    for given in (changed(2, lambda p: p[:, 5:8].__iadd__(1)), changed(3, lambda s: s[:, 5:8].__imul__(0.5))):
        assert compare_photo("photo", IMAGE, outputs(), given).overlap == pytest.approx(0.97)


def test_rounding_of_a_position_is_none() -> None:
    given = changed(2, lambda p: p.__iadd__(0.001))
    assert check(outputs(), given).overlap == 1.0


def test_one_wrong_descriptor_is_enough() -> None:
    given = changed(0, lambda d: d[0, 50].__imul__(-1))
    photo = compare_photo("photo", IMAGE, outputs(), given)
    assert photo.cosine_min == pytest.approx(-1)
    assert photo.cosine_mean == pytest.approx(0.98)
    with pytest.raises(ParityError, match=r"cosine min -1.000000 on photo .* at least 0.9999 is needed"):
        check(outputs(), given)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_nan_is_outside_every_tolerance(value: float) -> None:
    with pytest.raises(ParityError, match="cosine min nan"):
        check(outputs(), changed(0, lambda d: d[0, 50].fill(value)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("output", [0, 1, 2])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_figures_of_what_is_not_finite_are_json(output: int, value: float) -> None:
    good = compare_photo("good", IMAGE, outputs(), outputs())
    bad = compare_photo("bad", IMAGE, outputs(), changed(output, lambda array: array.fill(value)))
    metadata = Parity(photos=(good, bad), tolerance=FP32).metadata()
    assert metadata["verdict"].startswith("failed: ")
    assert "NaN" not in json.dumps(metadata, allow_nan=False)
    if output == 0:
        assert metadata["length_error_max"] is None and metadata["photos"][1]["cosine_min"] is None


@pytest.mark.parametrize("on_which_side", [0, 1])
def test_a_position_that_is_there_twice_is_no_match(on_which_side: int) -> None:
    sides = [outputs(), outputs()]
    sides[on_which_side] = changed(2, lambda p: p[0, 10:20].__setitem__(slice(None), p[0, 0]))
    # Five of the ten are at the scale of the first row, the others at the scale of no row there.
    photo = compare_photo("photo", IMAGE, *sides)
    assert photo.overlap <= 0.91
    with pytest.raises(ParityError, match="overlap"):
        check(sides[0], sides[1])


def test_nan_is_found_among_good_photos() -> None:
    good = compare_photo("good", IMAGE, outputs(), outputs())
    bad = compare_photo("bad", IMAGE, outputs(), changed(0, lambda d: d[0, 0].fill(np.nan)))
    for photos in ((good, bad), (bad, good)):
        with pytest.raises(ParityError, match="on bad"):
            Parity(photos=photos, tolerance=FP32).check()


def test_nothing_in_common_or_nothing_at_all() -> None:
    elsewhere = changed(2, lambda p: p.__iadd__(4))
    nothing = changed(1, lambda a: a.fill(0))
    for wanted, given in ((outputs(), elsewhere), (outputs(), nothing), (nothing, outputs()), (nothing, nothing)):
        assert compare_photo("photo", IMAGE, wanted, given).overlap == 0
        with pytest.raises(ParityError):
            check(wanted, given)


def trial_of(photos: dict[str, NDArray[np.uint8]]) -> ParityRun:
    return ParityRun(ParityPhotos(parity=photos, retrieval={}), lambda images: outputs(), label="the reference")


class Exact:
    """A retrieval run that takes equal descriptors for equal answers, and none that are not finite."""

    def __init__(self, reference: Mapping[str, Vectors], training: Vectors, ground_truth: GroundTruth | None) -> None:
        self.reference = reference

    def agreement(self, descriptors: Mapping[str, Vectors]) -> Agreement:
        if not all(np.isfinite(vectors).all() for vectors in descriptors.values()):
            raise ConfigError("descriptors are not finite")
        equal = [np.array_equal(self.reference[name], vectors) for name, vectors in descriptors.items()]
        return Agreement(photos=len(equal), queries=len(equal), overlap=float(np.mean(equal)))


def test_nan_in_a_photo_of_the_retrieval_run_is_a_rejection() -> None:
    photos = {name: np.full((9, size, 3), size, np.uint8) for name, size in {"a": 5, "b": 7, "c": 8}.items()}
    chosen = ParityPhotos(parity={"a": photos["a"]}, retrieval=photos)
    with pytest.raises(ConfigError, match="nothing that runs it"):
        ParityRun(chosen, lambda images: outputs())
    trial = ParityRun(chosen, lambda images: outputs(), retrieval=Exact)

    def candidate(images: NDArray[np.uint8]) -> Outputs:
        return changed(0, lambda d: d[0, 50].fill(np.nan)) if images.shape[2] == 7 else outputs()

    assert trial.compare(lambda images: outputs(), FP32, measured_with="an engine").verdict() == "passed"
    parity = trial.compare(candidate, FP32, measured_with="an engine")
    assert parity.verdict().startswith("failed: overlap of the ten best answers 0.0000")
    json.dumps(parity.metadata(), allow_nan=False)


def test_photos_of_one_size_run_once_more_as_a_batch() -> None:
    photos = {name: np.full((9, size, 3), size, np.uint8) for name, size in {"a": 5, "b": 7}.items()}
    photos["c"] = photos["a"] + 1
    seen: list[tuple[int, ...]] = []

    def candidate(images: NDArray[np.uint8]) -> Outputs:
        seen.append(images.shape)
        # A graph whose photos of a batch influence each other.
        wrong = tuple(np.repeat(array, len(images), axis=0) for array in outputs())
        wrong[0][1:] *= -1
        return wrong

    parity = trial_of(photos).compare(candidate, FP32, measured_with="an engine")
    assert seen == [(1, 9, 5, 3), (1, 9, 7, 3), (1, 9, 5, 3), (2, 9, 5, 3)]
    assert [photo.photo for photo in parity.photos] == ["a", "b", "c", "a in a batch of 2", "c in a batch of 2"]
    with pytest.raises(ParityError, match=r"the artefact differs from the reference: .* on c in a batch of 2"):
        parity.check()


def test_outputs_that_cannot_be_compared() -> None:
    run = trial_of({"a": IMAGE})
    with pytest.raises(ParityError, match="an engine cannot be compared with the reference"):
        run.compare(lambda images: (outputs()[0][:, :, :3], *outputs()[1:]), FP32, measured_with="an engine")


def test_metadata_holds_every_figure() -> None:
    given = changed(0, lambda d: d[0, 50].__iadd__(0.01))
    photo = compare_photo("photo", IMAGE, outputs(), given)
    metadata = Parity(photos=(photo,), tolerance=FP32, measured_with="an engine").metadata()
    assert metadata["tolerance"]["cosine"] == 0.9999
    assert (metadata["overlap_min"], metadata["overlap_mean"]) == (1.0, 1.0)
    assert [photo["shape"] for photo in metadata["photos"]] == [[100, 200]]
    assert "matched" not in metadata["photos"][0]
    json.dumps(metadata, allow_nan=False)


def test_cosines_by_scale_and_by_rank() -> None:
    # Row 51 is at scale 0.707 and has rank 51: of 20 parts of 5 ranks that is the one from 50 to 54.
    given = changed(0, lambda d: d[0, 51].__imul__(-1))
    photo = compare_photo("photo", IMAGE, outputs(), given)
    metadata = Parity(photos=(photo,), tolerance=FP32).metadata()
    scales = {entry["scale"]: entry for entry in metadata["by_scale"]}
    assert sorted(scales) == [0.707, 1.0]
    assert scales[1.0]["cosine_min"] == pytest.approx(1) and scales[0.707]["cosine_min"] == pytest.approx(-1)
    assert scales[0.707]["descriptors"] == scales[1.0]["descriptors"] == 50
    wrong = [entry for entry in metadata["by_rank"] if entry["cosine_min"] < 0.5]
    assert [(entry["first"], entry["last"]) for entry in wrong] == [(50, 54)]
    assert len(metadata["by_rank"]) == 20 and metadata["by_rank"][-1]["last"] == 99


def test_the_mean_counts_too() -> None:
    parity = Parity(
        photos=(compare_photo("photo", IMAGE, outputs(), changed(0, lambda d: d[0, 50].__imul__(-1))),),
        tolerance=replace(FP32, cosine=-1.0, cosine_p1=-1.0, length_error=3.0),
    )
    assert parity.verdict() == "failed: cosine mean 0.980000, but at least 0.9999 is needed"
    parity = replace(parity, tolerance=replace(parity.tolerance, cosine_p1=0.99))
    assert parity.verdict().startswith("failed: cosine p1 ")


@pytest.mark.parametrize(
    ("ranking", "verdict"),
    [
        (Agreement(photos=9, queries=9, overlap=0.99), "passed"),
        (
            Agreement(photos=9, queries=9, overlap=0.9),
            "failed: overlap of the ten best answers 0.9000, but at least 0.98",
        ),
        (Agreement(photos=9, queries=9, overlap=0.5, reference_map=0.8, map=0.799), "passed"),
        (
            Agreement(photos=9, queries=9, overlap=1, reference_map=0.8, map=0.7),
            "failed: the mAP fell by 0.1000, but at",
        ),
    ],
)
def test_the_answers_count_too(ranking: Agreement, verdict: str) -> None:
    photo = compare_photo("photo", IMAGE, outputs(), outputs())
    assert Parity(photos=(photo,), tolerance=FP32, ranking=ranking).verdict().startswith(verdict)


def test_the_sample_trial_has_views_to_retrieve() -> None:
    photos = sample_parity_photos(Preprocessing(image_size=200))
    assert len(photos.retrieval) == 32 and len(photos.parity) == 4
    assert max(max(photo.shape) for photo in photos.retrieval.values()) <= 200


def test_odd_shapes_are_among_the_photos() -> None:
    photos = with_odd_shapes({"one": np.zeros((90, 130, 3), np.uint8)}, 32, 0.5)
    shapes = {name: photo.shape[:2] for name, photo in photos.items()}
    assert shapes["one pixel"] == (1, 1)
    assert max(shapes["tiny"]) * 0.5 < 32, "less than one cell at the smallest scale"
    assert shapes["portrait"][0] > shapes["portrait"][1]
    assert shapes["panorama"][1] > 4 * shapes["panorama"][0]
    assert shapes["portrait, mirrored"] == shapes["portrait"], "the two make a batch"
    with pytest.raises(ConfigError, match="give a folder of photos with --photos"):
        with_odd_shapes({}, 32, 0.5)


def test_default_photos_have_the_size_asked_for() -> None:
    sizes = {max(photo.shape[:2]) for photo in default_photos(300).values()}
    assert sizes == {300}


def test_longer_descriptors_fail() -> None:
    check(outputs(), changed(0, lambda d: d.__imul__(1.005)))
    with pytest.raises(ParityError, match=r"length error 0.020000 on photo .* at most 0.01"):
        check(outputs(), changed(0, lambda d: d.__imul__(1.02)))


def test_positions_that_tie_for_the_last_places_may_be_exchanged() -> None:
    sides = [outputs(padding=0), outputs(padding=0)]
    for _, attention, _, _ in sides:
        attention[:, 80:] = 0.25
    sides[1][2][:, 90:] += 300
    assert compare_photo("photo", IMAGE, *sides).overlap == 1.0
    # Not so above the last places, nor where padding shows that nothing was left out.
    sides[1][2][:, :10] += 600
    assert compare_photo("photo", IMAGE, *sides).overlap == pytest.approx(0.9)
    padded = [tuple(np.pad(a, [(0, 0), (0, 2)] + [(0, 0)] * (a.ndim - 2)) for a in side) for side in sides]
    assert compare_photo("photo", IMAGE, *padded).overlap == pytest.approx(0.8)


def one_row(position: float, attention: float, scale: float = 1.0) -> Outputs:
    """Return outputs of one photo with K = 1."""
    made = (
        np.full((1, 1, 16), position),
        np.full((1, 1), attention),
        np.full((1, 1, 2), position),
        np.full((1, 1), scale),
    )
    return tuple(array.astype(np.float32) for array in made)


def test_one_descriptor_of_a_photo_may_be_another_of_equal_strength() -> None:
    # On a photo of one pixel every scale has one cell, of the same attention but for rounding.
    photo = compare_photo("photo", IMAGE, one_row(5, 0.5), one_row(5, 0.5000001, scale=0.5))
    Parity(photos=(photo, compare_photo("other", IMAGE, outputs(), outputs())), tolerance=FP32).check()
    assert (photo.overlap, photo.cosine_min, photo.length_error) == (1.0, 1.0, 0.0)
    with pytest.raises(ParityError, match=r"attention error 0\.02"):
        check(one_row(5, 0.5), one_row(90, 0.49))
    with pytest.raises(ParityError, match="cosine min -1"):
        check(one_row(5, 0.5), (-one_row(5, 0.5)[0], *one_row(5, 0.5)[1:]))
    with pytest.raises(ParityError, match="cosine min nan"):
        check(one_row(5, 0.5), outputs())


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (0, np.nan, "PyTorch fp32, CPU itself gives NaN or infinity on a: no archive can be made with this network"),
        (1, np.inf, "itself gives NaN or infinity on a"),
        (0, 0.0, "itself gives descriptors of zeros alone on every photo"),
        (1, 0.0, "itself gives descriptors of zeros alone on every photo"),
    ],
)
def test_a_reference_that_gives_nothing_is_said_to(index: int, value: float, message: str) -> None:
    broken = changed(index, lambda array: array.fill(value))
    with pytest.raises(ParityError, match=message):
        ParityRun(ParityPhotos(parity={"a": IMAGE}, retrieval={}), lambda images: broken)


def test_other_attention_fails() -> None:
    with pytest.raises(ParityError, match=r"attention error 0.01\d+ on photo .* at most 0.001"):
        check(outputs(), changed(1, lambda a: a[:, :5].__iadd__(0.012)))


def test_many_photos_of_one_size_make_one_pair() -> None:
    run = trial_of({name: np.zeros((9, 5, 3), np.uint8) for name in "abcd"})
    seen = []

    def candidate(images: NDArray[np.uint8]) -> Outputs:
        seen.append(len(images))
        return tuple(np.repeat(array, len(images), axis=0) for array in outputs())

    run.photo_parities(candidate, "an engine", max_batch=2)
    run.photo_parities(candidate, "an engine", max_batch=1)
    assert seen == [1, 1, 1, 1, 2, 1, 1, 1, 1]


def super_features(count: int = 60) -> Outputs:
    """Return rows whose positions coincide in pairs, at two scales."""
    descriptors, attention, _, scales = outputs(count, padding=0)
    positions = np.repeat(np.arange(count // 2), 2)[None, :, None] * np.array([3.0, 2.0])
    return descriptors, attention, positions.astype(np.float32), scales


def test_super_features_are_matched_by_their_descriptors() -> None:
    random = np.random.default_rng(3)
    order = random.permutation(60)
    moved = [array[:, order] for array in super_features()]
    moved[2] = moved[2] + random.normal(0, 0.1, moved[2].shape)
    found = compare_photo("photo", IMAGE, super_features(), moved, matching=Matching.DESCRIPTOR)
    assert (found.overlap, found.descriptors) == (1.0, 60)
    assert found.cosine_min == pytest.approx(1)
    assert np.array_equal(np.sort(found.matched.rank), np.arange(60))
    # One that is another descriptor, and one of another scale, have no counterpart.
    moved[0] = moved[0].copy()
    moved[0][0, 5] = 0
    moved[3] = moved[3].copy()
    moved[3][0, 9] = 0.25
    found = compare_photo("photo", IMAGE, super_features(), moved, matching=Matching.DESCRIPTOR)
    assert found.overlap == pytest.approx(58 / 60)


def test_the_network_decides_how_rows_are_matched() -> None:
    trunk = Architecture.RESNET18
    assert Matching.of(NetworkConfig(family="how", architecture=trunk)) is Matching.POSITION
    fire = NetworkConfig(family="fire", architecture=trunk, smoothing=Smoothing(kind="none"), lit=Lit())
    assert Matching.of(fire) is Matching.DESCRIPTOR
