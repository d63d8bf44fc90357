"""Second-order attention against loops in float64 and the published block's numbers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ctxdeploy.export.networks.second_order import ROW_BLOCKS, SecondOrderAttention, attend

GOLDEN = Path(__file__).parents[3] / "shared" / "data" / "golden" / "global.json"
COUNTS = [1, 2, ROW_BLOCKS - 1, ROW_BLOCKS, ROW_BLOCKS + 1, 77]


@pytest.fixture(scope="module")
def reference(load_reference: Callable[[str], Any]) -> Any:
    return load_reference("networks_global")


def check(reference: Any, run: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    for count in COUNTS:
        query, key, value = (rng.normal(size=(2, count, 6)).astype(np.float32) for _ in range(3))
        wanted = [reference.second_order(*(a[i].astype(np.float64) for a in (query, key, value))) for i in range(2)]
        found = run(query / np.float32(6**0.5), key, value)
        np.testing.assert_allclose(np.asarray(found), np.array(wanted), rtol=0, atol=2e-6)


def test_rows_in_blocks_are_the_whole(reference: Any) -> None:
    check(reference, lambda *arrays: attend(*(torch.from_numpy(a) for a in arrays)))


@pytest.mark.slow
def test_through_the_function(reference: Any, proto_session: Callable[..., Any]) -> None:
    from ctxdeploy.export.graph.functions import second_order_function

    run = proto_session(second_order_function(), {"query": 3, "key": 3, "value": 3}, [3])
    check(reference, lambda *arrays: run(*arrays)[0])


def ruled(shape: tuple[int, ...]) -> torch.Tensor:
    i = np.arange(int(np.prod(shape)), dtype=np.float64)
    return torch.from_numpy((np.sin(0.37 * i) ** 2 + 0.1 * np.cos(0.011 * i)).astype(np.float32).reshape(shape))


@pytest.mark.parametrize("folded", [False, True])
def test_the_published_block(folded: bool) -> None:
    if not GOLDEN.is_file():
        pytest.skip("the numbers of the authors' modules lie in ../shared")
    golden = json.loads(GOLDEN.read_text())
    block = SecondOrderAttention(8, 2).eval()
    assert {name: list(t.shape) for name, t in block.state_dict().items()} == golden["SOABlock(8,k=4) keys"]
    tensors = [*block.named_parameters(), *((n, b) for n, b in block.named_buffers() if b.is_floating_point())]
    with torch.no_grad():
        for j, (name, tensor) in enumerate(tensors):
            values = 0.2 * torch.sin(0.013 * torch.arange(tensor.numel(), dtype=torch.float64) + j)
            values = values.abs() + 0.5 if name.endswith("running_var") else values
            tensor.copy_(values.reshape(tensor.shape))
        if folded:
            block.fold()
        found = block(ruled((1, 8, 3, 4))).flatten()
    np.testing.assert_allclose(found[:16].numpy(), golden["SOABlock out first 16"], rtol=1e-5, atol=2e-6)
    assert float(found.sum()) == pytest.approx(golden["SOABlock out sum"], rel=1e-5)
