"""The two figures of the parity check, on outputs made by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ctxdeploy.errors import ConfigError, ParityError
from ctxdeploy.export.parity import TOLERANCES, Outputs, Parity, compare, compare_photo
from ctxdeploy.export.photos import default_photos, with_odd_shapes

IMAGE = np.zeros((100, 200, 3), np.uint8)
FP32 = TOLERANCES["fp32"]


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

    parity = compare(photos, lambda images: outputs(), candidate, FP32)
    assert seen == [(1, 9, 5, 3), (1, 9, 7, 3), (1, 9, 5, 3), (2, 9, 5, 3)]
    assert [photo.photo for photo in parity.photos] == ["a", "b", "c", "a in a batch of 2", "c in a batch of 2"]
    with pytest.raises(ParityError, match="on c in a batch of 2"):
        parity.check()


def test_metadata_holds_every_figure() -> None:
    metadata = check(outputs(), outputs()).metadata()
    assert metadata["tolerance"] == {"cosine": 0.9999, "overlap": 0.99, "length_error": 0.01, "attention_error": 0.001}
    assert metadata["overlap_min"] == 1.0
    assert [photo["shape"] for photo in metadata["photos"]] == [[100, 200]]


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


def test_other_attention_fails() -> None:
    with pytest.raises(ParityError, match=r"attention error 0.01\d+ on photo .* at most 0.001"):
        check(outputs(), changed(1, lambda a: a[:, :5].__iadd__(0.012)))


def test_many_photos_of_one_size_make_one_pair() -> None:
    photos = {name: np.zeros((9, 5, 3), np.uint8) for name in "abcd"}
    seen = []

    def candidate(images: NDArray[np.uint8]) -> Outputs:
        seen.append(len(images))
        return tuple(np.repeat(array, len(images), axis=0) for array in outputs())

    compare(photos, lambda images: outputs(), candidate, FP32)
    compare(photos, lambda images: outputs(), candidate, FP32, max_batch=1)
    assert seen == [1, 1, 1, 1, 2, 1, 1, 1, 1]
