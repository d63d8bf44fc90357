"""The kernel of graph convolution: what it computes, its code, the graph that asks for it, and what TensorRT is told.

Triton's interpreter runs the kernel on the CPU; its compiler makes code for a GPU that is not there. Neither is in the
environment of the tests unless the extra `kernels` is: `pip install '.[kernels]'`.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.engines import Hardware
from ctxdeploy.core.errors import BackendError, ConfigError
from ctxdeploy.core.targets import TENSORRT, TENSORRT_RTX
from ctxdeploy.core.types import Precision
from ctxdeploy.export.graph import build_graph
from ctxdeploy.export.graph.mixed import to_mixed
from ctxdeploy.export.networks import Architecture, Edges, NetworkConfig, Refinement, build
from ctxdeploy.export.networks import refinement as networks_refinement
from ctxdeploy.export.operators import KERNELS, compiling, plugin, rewriting, with_kernels
from ctxdeploy.export.tensorrt import EngineConfig

ROOT = Path(__file__).parents[2]
CHANNELS, DIM = 128, 24


@pytest.fixture(scope="module")
def attentive() -> Any:
    """Return the graph of a network with two graph convolutions of attention, random weights in them."""
    import torch

    config = NetworkConfig(
        family="ctx",
        architecture=Architecture.RESNET18_HALF,
        skip_layer=1,
        dim=16,
        refinement=Refinement(edges=Edges.ATTENTION, dim=DIM),
    )
    torch.manual_seed(3)
    network = build(config, Extraction(scales=(1.0, 0.5), top_k=40, dim=16)).eval()
    assert config.channels == CHANNELS
    for block in network.refinement.blocks:  # type: ignore[operator, union-attr]
        for weight in (block.weight, *block.projections()):
            torch.nn.init.normal_(weight, std=weight.shape[0] ** -0.5)
    return build_graph(network)


def with_standard_operators(model: Any) -> Any:
    """Return a rewritten graph with a function of standard operators in place of the kernel, of fp32 alone."""
    import onnx
    from onnx import helper

    made = onnx.ModelProto.FromString(model.SerializeToString())
    for function in made.functions:
        for node in function.node:
            if node.op_type == rewriting.NODE:
                del node.attribute[:]
    nodes = [
        helper.make_node("Transpose", ["k"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "turned"], ["product"]),
        helper.make_node("Div", ["product", "t"], ["sharp"]),
        helper.make_node("Softmax", ["sharp"], ["edges"], axis=-1),
        helper.make_node("MatMul", ["edges", "v"], ["mean"]),
        helper.make_node("Constant", [], ["shrink"], value_float=rewriting.SHRINK),
        helper.make_node("Div", ["mean", "shrink"], ["change"]),
        helper.make_node("Relu", ["change"], ["positive"]),
        helper.make_node("Add", ["x", "positive"], ["y"]),
    ]
    opsets = [opset for opset in made.opset_import if opset.domain == ""]
    made.functions.append(
        helper.make_function(rewriting.NAMESPACE, rewriting.NODE, ["x", "q", "k", "v", "t"], ["y"], nodes, opsets)
    )
    return made


# ---- the graph


def test_a_graph_with_the_kernel_computes_what_it_did(
    attentive: Any, session_of: Callable[[Any], Callable[[Any], Any]]
) -> None:
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (2, 96, 128, 3), dtype=np.uint8)
    before = session_of(attentive)(photos)
    after = session_of(with_standard_operators(with_kernels(attentive, KERNELS, "tensorrt")))(photos)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=2e-5 * max(1.0, float(np.abs(a).max())))


def test_constants_are_those_of_the_network() -> None:
    assert (rewriting.TINY, rewriting.SHRINK) == (networks_refinement._TINY, networks_refinement._SHRINK)


@pytest.mark.parametrize("precision", [None, Precision.FP16, Precision.BF16])
def test_one_node_of_ours_stands_in_each_body(attentive: Any, precision: Precision | None) -> None:
    import onnx

    graph = attentive if precision is None else to_mixed(attentive, precision)
    untouched = graph.SerializeToString()
    made = with_kernels(graph, KERNELS, "tensorrt")
    assert graph.SerializeToString() == untouched
    onnx.checker.check_model(made, full_check=False)
    functions = [function for function in made.functions if function.name.startswith("GraphConvolution")]
    assert [function.name for function in functions] == ["GraphConvolution2", "GraphConvolution1"]
    for function in functions:
        kinds = [node.op_type for node in function.node]
        assert kinds.count(rewriting.NODE) == 1 and kinds.count("MatMul") == 3
        # Products in the type of the weights, which the casts before them reach; x, temperature and y stay fp32.
        assert kinds.count("Cast") == (0 if precision is None else 2)
        node = function.node[-1]
        given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        assert given == {"plugin_namespace": b"ctxdeploy", "plugin_version": b"1"}
        assert (node.domain, list(node.output)) == ("ctxdeploy", list(function.output))


def test_graphs_without_such_edges_are_refused(small_graph: Any, attentive: Any) -> None:
    import onnx.inliner

    for graph in (small_graph, onnx.inliner.inline_local_functions(attentive)):
        with pytest.raises(ConfigError, match="has no graph convolution with edges of attention"):
            with_kernels(graph, KERNELS, "tensorrt")
    with pytest.raises(ConfigError, match="there is no kernel fast, only graph-attention"):
        with_kernels(attentive, ["fast"], "tensorrt")


# ---- the code


PTX = """.version 8.7
.visible .entry graph_attention(
\t.param .u64 .ptr .global .align 1 graph_attention_param_0,
\t.param .u32 graph_attention_param_1,
\t.param .u64 .ptr .global .align 1 graph_attention_param_2,
\t.param .u64 .ptr .global .align 1 graph_attention_param_3
)
.reqntid 128
{
\tld.param.b64 \t%rd1, [graph_attention_param_0];
}
"""


def test_parameters_that_nothing_reads_are_left_out() -> None:
    made = compiling.without_scratch(PTX, 2)
    assert "param_1" in made and "param_2" not in made and "param_3" not in made
    assert made.partition(")")[0].count(",") == 1 and made.endswith(PTX.partition(".reqntid")[2])
    assert compiling.without_scratch(PTX, 4).split() == PTX.split()


def test_parameters_that_are_read_or_lacking_are_an_error() -> None:
    read = PTX.replace("[graph_attention_param_0]", "[graph_attention_param_3]")
    for code, parameters in ((read, 2), (PTX, 5)):
        with pytest.raises(BackendError, match="takes 4 parameters"):
            compiling.without_scratch(code, parameters)


@pytest.fixture(scope="module")
def triton() -> ModuleType:
    return pytest.importorskip("triton", reason="the extra kernels is not installed")  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_kernel_compiles_for_hopper(triton: ModuleType, dtype: str) -> None:
    made = compiling.compile_attention(1024, 64, dtype, (9, 0))
    assert made.name == "graph_attention" and ".target sm_90" in made.ptx
    header = made.ptx.partition(".entry")[2].partition(")")[0]
    assert header.count(".param") == 7
    assert made.shared <= compiling.SHARED_LIMIT
    assert ("mma" in made.ptx) is (dtype != "float32"), "products of 16 bits are the tensor cores'"


# What runs in the interpreter, which has to be chosen before Triton is imported.
PROGRAM = """
import json, sys
import numpy as np, torch
from ctxdeploy.export.operators.attention import graph_attention
from ctxdeploy.export.operators.compiling import Tiles, attention_constants

cases = json.loads(sys.argv[2])
given = np.load(sys.argv[1])
found = {}
for name, (channels, dim, dtype, rows, columns, parts) in cases.items():
    x, q, k, v, t = (torch.from_numpy(given[f"{name} {part}"]) for part in "xqkvt")
    q, k, v = (tensor.to(getattr(torch, dtype)) for tensor in (q, k, v))
    y = torch.full_like(x, float("nan"))
    tiles = Tiles(rows=rows, columns=columns, channels=parts, warps=4, stages=1)
    grid = (-(-x.shape[1] // rows), -(-channels // parts), x.shape[0])
    graph_attention[grid](x, q, k, v, t, x.shape[1], y, **attention_constants(channels, dim, tiles))
    found[name] = y.numpy()
np.savez(sys.argv[1].replace("given", "found"), **found)
"""
# Channels, dimensions, type, positions, rows and columns and channels of a tile.
CASES: dict[str, tuple[int, int, str, int, int, int, int]] = {
    "one position": (64, 16, "float32", 1, 16, 16, 64),
    "tiles that fit": (64, 16, "float32", 64, 32, 16, 32),
    "tiles that do not": (80, 24, "float32", 37, 16, 16, 64),
    "more columns than positions": (64, 64, "float32", 20, 16, 32, 64),
    "one dimension": (32, 1, "float32", 33, 16, 16, 32),
    "fp16": (96, 24, "float16", 70, 32, 32, 64),
}


def numbers(name: str) -> dict[str, NDArray[np.float32]]:
    channels, dim, dtype, positions = CASES[name][:4]
    rng = np.random.default_rng(positions)
    low = np.float16 if dtype == "float16" else np.float32
    shapes = {"x": (2, positions, channels), "q": (2, positions, dim), "k": (2, positions, dim)}
    made = {part: rng.normal(size=shape) for part, shape in shapes.items()}
    made["v"] = rng.normal(size=(2, positions, channels)) * rewriting.SHRINK
    rounded = {part: values.astype(low).astype(np.float32) for part, values in made.items()}
    # Larger than any product of the first block, so that sums are rescaled; and a photo of equal positions.
    rounded["k"][0, positions // 2] *= 4
    rounded["k"][1] = rounded["k"][1, :1]
    return {**rounded, "x": made["x"].astype(np.float32), "t": np.array([0.3], np.float32)}


@pytest.fixture(scope="module")
def interpreted(triton: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("kernel")
    given = {f"{name} {part}": values for name in CASES for part, values in numbers(name).items()}
    np.savez(folder / "given.npz", **given)  # type: ignore[arg-type]
    settings = {name: (c, d, kind, *tiles) for name, (c, d, kind, _, *tiles) in CASES.items()}
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder / "given.npz"), json.dumps(settings)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=True,
        timeout=600,
    )
    return np.load(folder / "found.npz")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_kernel_computes_the_formula(interpreted: Any, name: str) -> None:
    x, q, k, v, t = (numbers(name)[part].astype(np.float64) for part in "xqkvt")
    product = q @ k.transpose(0, 2, 1) / t
    edges = np.exp(product - product.max(axis=2, keepdims=True))
    mean = (edges / edges.sum(axis=2, keepdims=True)) @ v / rewriting.SHRINK
    wanted = x + np.maximum(mean, 0)
    assert np.abs(wanted - x).max() > 0.1
    # Weights are rounded to the type of the values before the product; sums are fp32.
    tolerance = 2e-3 if CASES[name][2] == "float16" else 2e-5
    np.testing.assert_allclose(interpreted[name], wanted, rtol=0, atol=tolerance)


# ---- what TensorRT is told


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, load_reference: Callable[[str], Any]) -> Iterator[Any]:
    """Return what a stand-in for ``tensorrt.plugin`` was told, and our dictionary of what was compiled."""
    module, kept = load_reference("trt/fake_plugin").make()
    trt = ModuleType("tensorrt")
    trt.float16, trt.bfloat16, trt.float32 = "half", "brain", "full"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setitem(sys.modules, "tensorrt.plugin", module)
    plugin.register_kernels.cache_clear()
    compiled = plugin.register_kernels((9, 0), "tensorrt")
    assert plugin.register_kernels((9, 0), "tensorrt") is compiled, "once in a process"
    yield module, kept["ctxdeploy::GraphAttention"], compiled
    plugin.register_kernels.cache_clear()


def tensors(module: Any, dtype: str = "half") -> list[Any]:
    size = module.ShapeExpr
    shapes = [(1024,), (64,), (64,), (1024,)]
    made = [module.TensorDesc([size("B"), size("N"), size(*last)], dtype) for last in shapes]
    made[0].dtype = "full"
    return [*made, module.TensorDesc([], "full")]


def test_shapes_and_types_are_told(told: Any) -> None:
    module, kept, _ = told
    given = tensors(module)
    result = kept["register"](*given)
    assert (result.shape_expr, result.dtype) == (given[0].shape_expr, "full")
    forms = kept["autotune"](*given, (result,))
    assert [form.io_types for form in forms] == [
        ["FP32", low, low, low, "FP32", "FP32"] for low in ("FP16", "BF16", "FP32")
    ]
    assert {form.layouts for form in forms} == {"LINEAR"}


def test_the_launch_follows_the_shape(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module, kept, compiled = told
    asked = []

    def compile_attention(channels: int, dim: int, dtype: str, capability: tuple[int, int]) -> Any:
        asked.append((channels, dim, dtype, capability))
        return compiling.CompiledKernel(name="k", ptx="code", threads=256, shared=40960, tiles=compiling.LOW)

    monkeypatch.setattr(plugin, "compile_attention", compile_attention)
    given = tensors(module)
    name, code, launch, sizes = kept["aot_impl"](*given, (given[0].like(),), 0)
    assert asked == [(1024, 64, "float16", (9, 0))]
    assert (name, code) == (b"k", b"code")
    assert (launch.grid_x.value, launch.grid_y, launch.grid_z.value) == (("N", 64), 8, "B")
    assert (launch.block_x, launch.shared_mem) == (256, 40960)
    assert [size.value for size in sizes] == ["N"]
    assert compiled == {"k": hashlib.sha256(b"code").hexdigest()}


def test_an_engine_is_built_from_the_graph_with_the_kernel(told: Any, attentive: Any) -> None:
    from ctxdeploy.core.device import Gpu
    from ctxdeploy.export.tensorrt.build import _with_plugins

    gpu = Gpu(name="NVIDIA H200", capability=(9, 0), memory=1)
    _, _, compiled = told
    compiled["of an engine before"] = "0"
    model, found = _with_plugins(attentive, EngineConfig(plugins=KERNELS), gpu, TENSORRT)
    assert found is compiled and not compiled
    assert [f.node[-1].op_type for f in model.functions] == [rewriting.NODE] * 2
    assert _with_plugins(attentive, EngineConfig(), gpu, TENSORRT) == (attentive, {})


def test_plugins_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="tensorrt-rtx has no --plugin"):
        EngineConfig(plugins=KERNELS).check(TENSORRT_RTX)
    for more in ({"version_compatible": True}, {"hardware": Hardware.AMPERE_PLUS}):
        with pytest.raises(ConfigError, match="code for the GPU that the engine is built on"):
            EngineConfig(plugins=KERNELS, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("listing", ["api-11.4.json", "api-10.16.json"])
def test_names_are_those_of_the_package(listing: str) -> None:
    source = (ROOT / "export" / "operators" / "plugin.py").read_text(encoding="utf-8")
    api = json.loads((ROOT / "tests" / "reference" / "trt" / listing).read_text(encoding="utf-8"))
    used = set(re.findall(r"\btrtp\.(\w+)", source))
    assert {"register", "aot_impl", "autotune", "KernelLaunchParams", "SymInt32", "SymIntExprs"} < used
    assert used <= set(api["submodules"]["plugin"])
    assert {"float16", "bfloat16", "float32"} <= set(re.findall(r"\btrt\.(\w+)", source))
    members = api["submodules"]["plugin"]["KernelLaunchParams"]["members"]
    assert set(re.findall(r"\bfound\.(\w+)", source)) <= set(members)
