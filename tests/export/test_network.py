"""Scales, attention, selection, and the whole network against the float64 reference."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.export import untrained_network
from ctxdeploy.export.graph.tracing import trace
from ctxdeploy.export.networks import NetworkConfig, build, l2_attention
from ctxdeploy.export.networks.network import cell_centres, scaled_size

SCALES = Extraction().scales


@pytest.mark.parametrize("scale", SCALES)
def test_scaled_size_is_the_floor_for_every_size(scale: float) -> None:
    sizes = range(1, 16385)
    assert [scaled_size(size, scale) for size in sizes] == [max(1, math.floor(size * scale)) for size in sizes]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("size", [(4, 5), (7, 997), (333, 500), (101, 103)])
def test_pixels_are_those_of_a_recomputed_scale_factor(size: tuple[int, int], scale: float) -> None:
    x = torch.rand(1, 3, *size)
    wanted = functional.interpolate(
        x, scale_factor=scale, mode="bilinear", align_corners=False, recompute_scale_factor=True
    )
    found = functional.interpolate(x, size=[scaled_size(s, scale) for s in size], mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("share", [0.001, 0.07, 0.2, 0.333, 0.999, 1.0])
@pytest.mark.parametrize("positions", [1, 5, 31, 32, 33, 59, 60, 61, 150, 1000])
def test_a_share_of_the_positions_is_kept(config_of: Any, share: float, positions: int) -> None:
    network = build(config_of("how", dim=8), Extraction(scales=(1.0,), top_k=60, top_share=share, dim=8))
    rng = np.random.default_rng(positions)
    strengths = rng.uniform(0.1, 1, (2, positions)).astype(np.float32)
    vectors = rng.standard_normal((2, positions, 8), dtype=np.float32)
    places, scales = torch.rand(positions, 2), torch.ones(positions)
    found = network.select(torch.from_numpy(vectors), torch.from_numpy(strengths), places, scales)
    for photo in range(2):
        order = sorted(range(positions), key=lambda i: -strengths[photo, i])
        kept = [
            i
            for rank, i in enumerate(order)
            if rank < 60 and (rank < 32 or rank * 1000 < round(share * 1000) * positions)
        ]
        attention = found[1][photo].numpy()
        assert np.flatnonzero(attention).tolist() == list(range(len(kept))) and kept
        np.testing.assert_array_equal(attention[: len(kept)], strengths[photo, kept] / strengths[photo].max())
        np.testing.assert_array_equal(found[0][photo, : len(kept)], vectors[photo, kept])


def test_a_photo_never_scales_to_nothing() -> None:
    assert [scaled_size(1, scale) for scale in (0.25, 0.999, 1.0, 2.0)] == [1, 1, 1, 2]
    assert scaled_size(3, 0.25) == 1


def test_attention_of_no_feature_at_all_is_its_epsilon() -> None:
    x = torch.zeros(2, 5, 1, 2)
    x[1, :, 0, 1] = torch.tensor([1.0, 2.0, 0.0, 4.0, 2.0])
    assert l2_attention(x).shape == (2, 1, 2)
    np.testing.assert_allclose(l2_attention(x).numpy(), [[[1e-5, 1e-5]], [[1e-5, 5.0]]], rtol=1e-6)


def test_the_epsilon_of_the_attention_stays_in_the_graph() -> None:
    """The exporter takes 1e-8 and less for 0: a position without activation would look like padding."""
    import onnx_ir as ir
    import onnxruntime

    class Attention(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return l2_attention(x)

    x = torch.zeros(2, 5, 3, 2)
    x[1] = torch.rand(5, 3, 2)
    model = ir.to_proto(trace(Attention(), (x,), ({},)))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    np.testing.assert_allclose(found, l2_attention(x).numpy(), rtol=1e-6)
    assert (found > 0).all()


@pytest.mark.parametrize(("rows", "columns", "height", "width"), [(1, 1, 1, 1), (3, 4, 96, 128), (4, 3, 100, 77)])
def test_positions_are_the_centres_of_the_cells(rows: int, columns: int, height: int, width: int) -> None:
    found = cell_centres(rows, columns, height, width, torch.device("cpu")).numpy()
    wanted = [((c + 0.5) * width / columns, (r + 0.5) * height / rows) for r in range(rows) for c in range(columns)]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    # Half-pixel convention: the picture's corner is (0, 0), and the centres lie as far from either border.
    np.testing.assert_allclose(found[0] + found[-1], (width, height), rtol=1e-6)


@pytest.fixture(scope="module")
def empty_network(config_of: Callable[..., NetworkConfig]) -> Callable[[int], Any]:
    """Return a function that builds HOW with random weights and K rows, two scales."""

    def make(top_k: int) -> Any:
        torch.manual_seed(1)
        return build(config_of("how", dim=8), Extraction(scales=(1.0, 0.5), top_k=top_k, dim=8))

    return make


@pytest.mark.parametrize("top_k", [1, 5, 6, 9])
def test_selection_sorts_by_attention_and_pads_with_zeros(empty_network: Callable[[int], Any], top_k: int) -> None:
    vectors = torch.arange(1, 2 * 6 * 8 + 1).float().reshape(2, 6, 8)
    strengths = torch.tensor([[3.0, 9.0, 1.0, 6.0, 2.0, 4.0], [0.5, 0.1, 0.4, 0.2, 0.8, 0.3]])
    positions = torch.arange(1, 13).float().reshape(6, 2)
    scales = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.5, 0.5])
    found = [a.numpy() for a in empty_network(top_k).select(vectors, strengths, positions, scales)]
    assert [a.shape for a in found] == [(2, top_k, 8), (2, top_k), (2, top_k, 2), (2, top_k)]
    for photo in range(2):
        order = sorted(range(6), key=lambda i: -strengths[photo, i])[:top_k]
        kept = len(order)
        largest = float(strengths[photo].max())
        np.testing.assert_array_equal(found[0][photo, :kept], vectors[photo, order])
        np.testing.assert_allclose(found[1][photo, :kept], strengths[photo, order] / largest, rtol=1e-6)
        np.testing.assert_array_equal(found[2][photo, :kept], positions[order])
        np.testing.assert_array_equal(found[3][photo, :kept], scales[order])
        for array in found:
            assert not array[photo, kept:].any(), "padding is zero"


def test_attention_is_divided_by_the_maximum_of_its_own_photo(small_network: Any, samples: Mapping[str, Any]) -> None:
    photo = samples["coffee"][:160, :160]
    dark = (photo * 0.1).astype(np.uint8)
    with torch.inference_mode():
        _, attention, _, _ = small_network(torch.from_numpy(np.stack([photo, dark])))
        _, alone, _, _ = small_network(torch.from_numpy(dark[None]))
    assert attention[:, 0].tolist() == [1.0, 1.0]
    np.testing.assert_allclose(attention[1], alone[0], atol=1e-5)


def test_a_photo_smaller_than_a_cell_gives_one_position_a_scale(small_network: Any) -> None:
    for size in ((1, 1), (3, 2)):
        with torch.inference_mode():
            d, a, p, s = small_network(torch.full((1, *size, 3), 200, dtype=torch.uint8))
        assert (a[0] > 0).sum() == 2
        assert torch.isfinite(d).all()
        np.testing.assert_allclose(p[0, :2], [[size[1] / 2, size[0] / 2]] * 2)
        assert sorted(s[0, :2].tolist()) == pytest.approx([0.5, 1.414])


def options(config: NetworkConfig, extraction: Extraction) -> dict[str, Any]:
    blocks = config.architecture.blocks
    return {
        "blocks": blocks[: len(blocks) - config.skip_layer],
        "bottleneck": config.architecture.bottleneck,
        "refinement_blocks": config.refinement.blocks if config.refinement else 0,
        "smoothing": config.smoothing.kind,
        "scales": extraction.scales,
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "trunk"),
    # What has both parts shows what each one does.
    [
        ("how", "r18"),
        pytest.param("ctx-gaussian", "r18", marks=pytest.mark.long),
        pytest.param("ctx-graph", "r18", marks=pytest.mark.long),
        ("ctx-both", "r18"),
        ("ctx-both", "r50-"),
    ],
)
def test_whole_network_is_that_of_the_formulas(
    variant: str,
    trunk: str,
    config_of: Callable[..., NetworkConfig],
    network_of: Callable[..., Any],
    samples: Mapping[str, NDArray[np.uint8]],
    load_reference: Callable[[str], Any],
) -> None:
    extraction = Extraction(scales=(1.414, 0.707, 0.25), top_k=200, dim=64)
    config = config_of(variant, trunk, dim=64)
    network = network_of(config, extraction)
    photo = samples["astronaut"][40:137, 30:161]
    with torch.inference_mode():
        found = [a[0].numpy() for a in network(torch.from_numpy(np.array(photo))[None])]
    state = {name: t.numpy().astype(np.float64) for name, t in network.state_dict().items()}
    wanted = load_reference("networks_how").extract(photo, state, options(config, extraction))
    count = len(wanted[1])
    assert 15 < count < 200
    assert not found[1][count:].any()
    np.testing.assert_allclose(found[1][:count], wanted[1], rtol=1e-4)
    # Two positions of nearly equal attention may change places: rows are matched by position and scale.
    mine, theirs = (_rows_by_place(rows[2][:count], rows[3][:count]) for rows in (found, wanted))
    assert mine.keys() == theirs.keys() and len(mine) == count
    a, b = (rows[0][[place[key] for key in sorted(place)]] for rows, place in ((found, mine), (wanted, theirs)))
    error = np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)
    # float32 through 40 convolutions and a whitening that amplifies: up to 1.2e-4.
    assert error.max() <= 3e-4


def _rows_by_place(positions: NDArray[Any], scales: NDArray[Any]) -> dict[tuple[int, ...], int]:
    """Return the row of each place, in eighths of a pixel; 0.137 keeps exact halves from being rounded either way."""
    keys = np.column_stack([np.floor(positions * 8 + 0.137), np.rint(scales * 1000)]).astype(int)
    return {tuple(key): row for row, key in enumerate(keys.tolist())}


def test_without_whitening_descriptors_are_the_smoothed_features(config_of: Callable[..., NetworkConfig]) -> None:
    config = config_of("how", dim=None)
    assert config.descriptor_dim == 256
    network = build(config, Extraction(scales=(1.0,), top_k=3, dim=256))
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(network.features(x, 64, 64)[0], network.smoothing(network.backbone(x)))


def test_untrained_networks_are_the_same_for_a_seed_and_spread(
    config_of: Callable[..., NetworkConfig], samples: Mapping[str, Any]
) -> None:
    photos = [photo[:96, :96] for photo in samples.values()]
    config, extraction = config_of("how", dim=16), Extraction(scales=(1.0,), top_k=50, dim=16)
    first, again, other = (untrained_network(config, extraction, photos, seed=seed) for seed in (0, 0, 1))
    image = torch.from_numpy(np.stack(photos))
    with torch.inference_mode():
        a, b, c = (network(image)[0] for network in (first, again, other))
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)
    vectors = functional.normalize(a[:, :16].reshape(-1, 16), dim=1)
    assert abs(float((vectors @ vectors.T).mean())) < 0.15


def test_too_few_photos_to_whiten_are_refused(config_of: Callable[..., NetworkConfig], samples: Any) -> None:
    with pytest.raises(ConfigError, match="too few to whiten 128 dimensions: give more photos"):
        untrained_network(config_of("how"), Extraction(), [samples["coffee"][:64, :64]])
