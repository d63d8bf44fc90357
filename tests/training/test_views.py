"""Where views are cut out, and that two views of a photo show the same at corresponding positions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctxdeploy.training import views
from ctxdeploy.training.augment import augment
from ctxdeploy.training.features import sampled
from ctxdeploy.training.geometry import apply, homographies, random_corners, slanted_corners

Image = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


def smooth(width: int, height: int, seed: int) -> Image:
    """Return a photo of waves longer than any pixel of a view."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    channels = []
    for _ in range(3):
        angle, phase, length = rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi), rng.uniform(90, 160)
        channels.append(127 + 90 * np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / length + phase))
    return np.stack(channels, axis=2).astype(np.uint8)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_homographies_map_corners_to_corners(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = random_corners(rng, np.array([[50.0, 40.0]]), np.array([30.0]), perspective=0.2, turn=30)
    square = np.array([[[0.0, 0], [1, 0], [1, 1], [0, 1]]])
    np.testing.assert_allclose(apply(homographies(corners), square), corners, atol=1e-6)


def test_a_slanted_view_is_foreshortened_and_of_the_area_that_was_asked_for() -> None:
    count = 400
    rng = np.random.default_rng(0)
    centre, side = np.full((count, 2), 100.0), np.full(count, 30.0)
    corners = slanted_corners(rng, centre, side, slant=np.full(count, 4.0), perspective=0.0, turn=0.0)
    width = np.linalg.norm((corners[:, 1] + corners[:, 2] - corners[:, 0] - corners[:, 3]) / 2, axis=1)
    height = np.linalg.norm((corners[:, 2] + corners[:, 3] - corners[:, 0] - corners[:, 1]) / 2, axis=1)
    np.testing.assert_allclose(np.maximum(width, height) / np.minimum(width, height), 4)
    np.testing.assert_allclose(width * height, 900)
    assert 0.4 < np.mean(width > height) < 0.6
    # The far end shows more of the plane than the near one.
    ends = np.where(width > height, corners[:, 3, 1] - corners[:, 0, 1], corners[:, 1, 0] - corners[:, 0, 0])
    others = np.where(width > height, corners[:, 2, 1] - corners[:, 1, 1], corners[:, 2, 0] - corners[:, 3, 0])
    assert np.ptp(ends / others) > 1 and 0.2 < np.mean(ends > others) < 0.8


def test_a_share_of_views_is_slanted_round_the_same_centre_and_the_others_stay() -> None:
    sizes = np.tile([[400.0, 300.0]], (300, 1))
    rng = np.random.default_rng(0)
    plain = views.frame(rng, sizes, views.SAME_PHOTO)
    seen = views.slanted(rng, plain, sizes, views.SAME_PHOTO, share=0.4, slant=4.0)
    changed = (seen != plain).any(axis=(1, 2))
    assert 0.3 < changed.mean() < 0.5
    middle = np.full((300, 1, 2), 0.5)
    moved = np.linalg.norm(apply(seen, middle) - apply(plain, middle), axis=2)
    assert moved.max() < 0.5 * 300
    assert (views.slanted(rng, plain, sizes, views.SAME_PHOTO, share=0.0, slant=4.0) == plain).all()


def test_a_view_of_the_whole_photo_is_the_photo() -> None:
    photo = smooth(64, 64, 0)
    view = views.render([photo], views.whole(views.sizes_of([photo])), 64)
    np.testing.assert_allclose(view[0].permute(1, 2, 0).numpy() * 255, photo, atol=1e-2)


def test_the_whole_of_a_wide_photo_is_its_middle() -> None:
    photo = smooth(100, 64, 0)
    view = views.render([photo], views.whole(views.sizes_of([photo])), 64)
    np.testing.assert_allclose(view[0].permute(1, 2, 0).numpy() * 255, photo[:, 18:82], atol=1e-2)


def test_mirrored_views_are_mirror_images() -> None:
    photo = smooth(64, 64, 1)
    matrices = views.frame(np.random.default_rng(0), views.sizes_of([photo]), views.SAME_PHOTO)
    plain = views.render([photo], matrices, 64)
    flipped = views.render([photo], views.mirrored(matrices, np.array([True])), 64)
    np.testing.assert_allclose(flipped.numpy(), plain.flip(3).numpy(), atol=1e-3)


def test_corresponding_positions_show_the_same() -> None:
    photos = [smooth(301, 200, seed) for seed in range(6)]
    sizes = views.sizes_of(photos)
    rng = np.random.default_rng(3)
    first, second = views.frame_twice(rng, sizes, views.SAME_PHOTO)
    flip = np.arange(6) % 2 == 0
    first, second = views.mirrored(first, flip), views.mirrored(second, flip)
    one, other = views.render(photos, first, 96), views.render(photos, second, 96)
    here = rng.uniform(0.1, 0.9, (6, 200, 2))
    there = apply(np.linalg.inv(second) @ first, here)
    source = apply(first, here)
    seen = ((there > 0.05) & (there < 0.95) & (source > 4) & (source < sizes[:, None] - 4)).all(axis=2)
    photo, row = np.nonzero(seen)
    assert len(photo) > 200
    number = torch.from_numpy(photo)
    values = [
        sampled(torch.cat([view, torch.ones_like(view[:, :1])], 1), number, torch.from_numpy(p[photo, row]).float())
        for view, p in ((one, here), (other, there))
    ]
    # Normalised together with a constant channel; a shift by a cell of 16 pixels would be a difference of 0.2.
    assert float((values[0] - values[1]).abs().max()) < 0.03


def test_a_photo_seen_from_far_is_averaged_not_skipped() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    view = views.render([stripes], views.whole(views.sizes_of([stripes])), 64)
    assert float((view - 0.5).abs().max()) < 0.01


def test_sampled_is_bilinear_and_normalised() -> None:
    maps = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).reshape(2, 3, 4, 4)
    photo = torch.tensor([0, 0, 1])
    positions = torch.tensor([[0.125, 0.125], [0.5, 0.125], [0.875, 0.625]])
    wanted = torch.stack([maps[0, :, 0, 0], maps[0, :, 0, 1:3].mean(1), maps[1, :, 2, 3]])
    torch.testing.assert_close(sampled(maps, photo, positions), torch.nn.functional.normalize(wanted, dim=1))


def test_augmented_views_differ_stay_in_range_and_repeat() -> None:
    photos = [smooth(64, 64, seed) for seed in range(20)]
    x = views.render(photos, views.whole(views.sizes_of(photos)), 64)
    before = x.clone()
    found = augment(x, np.random.default_rng(5))
    assert torch.equal(x, before)
    assert float(found.min()) >= 0 and float(found.max()) <= 1
    assert all(float((found[i] - x[i]).abs().mean()) > 0.01 for i in range(20))
    assert torch.equal(found, augment(x, np.random.default_rng(5)))
    assert not torch.equal(found, augment(x, np.random.default_rng(6)))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 17, 40])
def test_middles_come_in_order_with_those_that_can_be_read(threads: int, count: int) -> None:
    class Photos:
        def load(self, number: int) -> np.ndarray | None:
            return None if number % 5 == 0 else np.full((20 + number, 30, 3), number, np.uint8)

    made = list(views.middles(Photos(), np.arange(count), 8, 3, threads=threads))  # type: ignore[arg-type]
    assert [len(there) for there, _ in made] == [min(3, count - first) for first in range(0, count, 3)]
    there = [bool(one) for part, _ in made for one in part]
    shown = [round(float(view[0, 0, 0]) * 255) for _, pixels in made if pixels is not None for view in pixels]
    assert there == [number % 5 != 0 for number in range(count)]
    assert shown == [number for number in range(count) if number % 5]
