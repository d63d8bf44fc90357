"""R-MAC's regions in the graph: for every size the authors' ones, in PyTorch and through the ONNX function."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ctxdeploy.export.networks import GlobalHead, Pooling
from ctxdeploy.export.networks.pooling import RegionalPool
from ctxdeploy.export.networks.regions import LEVELS, REGIONS, extra_regions, pooled_regions

# Ties of the number of regions (3×11, 25×61), places rounded down (2×32, 6×35), maps of a row, a column, a cell.
SIZES = [(1, 1), (1, 5), (7, 1), (2, 2), (3, 3), (3, 11), (25, 61), (2, 32), (35, 6), (24, 32), (32, 16), (9, 9)]

GOLDEN = Path(__file__).parents[3] / "shared" / "data" / "golden" / "global.json"


@pytest.fixture(scope="module")
def golden() -> Any:
    if not GOLDEN.is_file():
        pytest.skip("the numbers of the authors' modules lie in ../shared")
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def reference(load_reference: Callable[[str], Any]) -> Any:
    return load_reference("networks_global")


def places(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Return the regions that the graph pools: of a map that numbers its cells, the least and the largest of each."""
    cells = torch.arange(1, height * width + 1, dtype=torch.float64).reshape(1, 1, height, width)
    (largest, there), (least, _) = pooled_regions(cells, True), pooled_regions(-cells, True)
    found = []
    for last, first in zip(largest[0, there > 0, 0].tolist(), (-least[0, there > 0, 0]).tolist(), strict=True):
        top, left = divmod(int(first) - 1, width)
        bottom, right = divmod(int(last) - 1, width)
        found.append((top, left, bottom - top + 1, right - left + 1))
    return found


@pytest.mark.slow
def test_every_size_has_the_regions_of_the_paper(reference: Any) -> None:
    for height in range(1, 41):
        for width in range(1, 41):
            assert sorted(places(height, width)) == sorted(reference.regions(height, width)), (height, width)


@pytest.mark.parametrize(("height", "width"), SIZES, ids=str)
def test_regions_of_a_size(reference: Any, height: int, width: int) -> None:
    assert sorted(places(height, width)) == sorted(reference.regions(height, width))


@pytest.mark.parametrize(("size", "count"), [((32, 32), 15), ((24, 32), 21), ((16, 32), 27)])
def test_number_of_regions(size: tuple[int, int], count: int) -> None:
    vectors, there = pooled_regions(torch.rand(2, 3, *size), True)
    assert vectors.shape == (2, REGIONS, 3) and int(there.sum()) == count


def test_long_maps_have_six_more_regions_in_a_row() -> None:
    for short in range(1, 60):
        assert (extra_regions(short, np.arange(5 * short + 2, 9 * short + 3)) == 6).all()
    assert LEVELS == 3


def check(reference: Any, run: Callable[[torch.Tensor, bool], tuple[Any, Any]], largest: bool) -> None:
    rng = np.random.default_rng(3)
    pool = reference.mac if largest else reference.spoc
    for size in SIZES:
        x = rng.normal(size=(2, 5, *size)).astype(np.float32) - 1
        vectors, there = run(torch.from_numpy(x), largest)
        for photo in range(2):
            wanted = [pool(reference.cut(x[photo].astype(np.float64), r)) for r in reference.regions(*size)]
            found = np.asarray(vectors[photo])[np.asarray(there) > 0]
            np.testing.assert_allclose(_ordered(found), _ordered(np.array(wanted)), rtol=1e-5, atol=1e-6)


def _ordered(rows: NDArray[Any]) -> NDArray[Any]:
    return rows[np.lexsort(np.round(rows, 4).T)]


@pytest.mark.parametrize("largest", [True, False], ids=["maxima", "means"])
def test_negative_maps_in_pytorch(reference: Any, largest: bool) -> None:
    check(reference, pooled_regions, largest)


@pytest.mark.slow
@pytest.mark.parametrize("largest", [True, False], ids=["maxima", "means"])
def test_through_the_function(reference: Any, proto_session: Callable[..., Any], largest: bool) -> None:
    from ctxdeploy.export.graph.functions import region_function

    run = proto_session(region_function(5, largest=largest), {"x": 4}, [3, 1])
    check(reference, lambda x, _: run(x.numpy()), largest)


def ruled(shape: tuple[int, ...], j: int | None = None) -> torch.Tensor:
    i = np.arange(int(np.prod(shape)), dtype=np.float64)
    values = np.sin(0.37 * i) ** 2 + 0.1 * np.cos(0.011 * i) if j is None else 0.2 * np.sin(0.013 * i + j)
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def test_poolings_over_regions_are_those_of_the_authors(golden: Any) -> None:
    x = ruled((1, 6, 7, 11))
    with torch.no_grad():
        found = RegionalPool(Pooling(kind="rmac"), 6)(x)[0].numpy()
        np.testing.assert_allclose(found, golden["rmac L=3"], rtol=1e-5)
        for pooling, wanted in (
            (Pooling(kind="rmac"), golden["rmac then l2n"]),
            (Pooling(kind="mac", regional=True), golden["Rpool(MAC), no whitening"]),
            (Pooling(kind="mac", regional=True, regional_whitening=True), golden["Rpool(MAC), whitening"]),
        ):
            head = GlobalHead(6, pooling)
            if pooling.regional_whitening:
                head.pool.whiten.weight.copy_(ruled((6, 6), 0))
                head.pool.whiten.bias.copy_(ruled((6,), 1))
            np.testing.assert_allclose(head.describe(x)[0].numpy(), wanted, rtol=1e-5, atol=1e-6)
