"""How much of a photo's time could kernels of our own for smoothing and graph convolution save at best?

    python benchmarks/operator_limits.py                    # some minutes; nothing is run, on a GPU or elsewhere
    python benchmarks/operator_limits.py --trunks R50- --precisions fp16

The graphs that `ctxdeploy export` writes are read for one photo of 768×1024 pixels and seven scales: the trunk with all
that surrounds our operators, and each operator at the sizes of every scale. Operations and bytes of every node are
counted (`graph_costs.py`); the least time of a kernel on an H200 is what its products or its bytes take. Reality is
slower, convolutions most of all: a share that is small here is smaller there.

`former` are the operators as they were until version 0.2: smoothing before the whitening, and 32 blocks of rows at
every scale.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from graph_costs import H200, Kernel, SizedGraph, fused, named, separate, single
from operator_page import saved

from ctxdeploy.bench import publish
from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.types import Precision
from ctxdeploy.export.graph import build_graph
from ctxdeploy.export.graph.functions import functions_of
from ctxdeploy.export.graph.mixed import to_mixed
from ctxdeploy.export.networks import Architecture, Edges, NetworkConfig, Refinement, Smoothing, build
from ctxdeploy.export.networks.refinement import ROW_BLOCKS, row_blocks

TRUNKS = {
    "R18": (Architecture.RESNET18, 0),
    "R50-": (Architecture.RESNET50, 1),
    "lite": (Architecture.EFFICIENTNET_LITE0, 1),
}
PARTS: dict[str, dict[str, Any]] = {
    "smoothing, k=3": {"smoothing": Smoothing(kind="gaussian", kernel_size=3)},
    "smoothing, k=7": {"smoothing": Smoothing(kind="gaussian", kernel_size=7)},
    **{f"graph, {edges.value}": {"refinement": Refinement(edges=edges)} for edges in Edges},
}
SHAPE = (768, 1024)
NONE = Smoothing(kind="none")


def trunk_graph(trunk: str) -> Any:
    """Return the graph of a network without any operator of ours."""
    architecture, skip_layer = TRUNKS[trunk]
    config = NetworkConfig(family="ctx", architecture=architecture, skip_layer=skip_layer, smoothing=NONE)
    return build_graph(build(config, Extraction(dim=config.descriptor_dim)).eval())


def operator_graph(trunk: str, part: str, *, former: bool) -> Any:
    """Return a graph of all calls of an operator for one photo, and of nothing else but a tiny convolution.

    That one is what mixed precision looks for: a graph without a trunk is refused.
    """
    import onnx
    import onnx_ir as ir
    from onnx import helper

    architecture, skip_layer = TRUNKS[trunk]
    settings = {"smoothing": NONE, **PARTS[part]}
    dim = {"dim": None} if former else {}
    config = NetworkConfig(family="ctx", architecture=architecture, skip_layer=skip_layer, **settings, **dim)
    scales = Extraction().scales
    blocks = [ROW_BLOCKS if former else row_blocks(config.stride, scale) for scale in scales]
    functions = [ir.to_proto(function) for function in functions_of(config, blocks)]
    for function in functions:
        del function.value_info[:]  # the tracer's symbols, in fp32; build_graph removes them too
    by_blocks = {count: functions[i % len(functions)] for i, count in enumerate(dict.fromkeys(blocks))}
    real, repeats = onnx.TensorProto.FLOAT, config.refinement.blocks if config.refinement else 1
    inputs = [helper.make_tensor_value_info("image", real, (1, 1, 8, 8))]
    outputs = [helper.make_tensor_value_info("attention", real, (1, 1, 8, 8))]
    nodes = [helper.make_node("Conv", ["image", "backbone.tiny.weight"], ["attention"])]
    weights = [helper.make_tensor("backbone.tiny.weight", real, (1, 1, 1, 1), [1.0])]
    for scale, count in zip(scales, blocks, strict=True):
        shapes = _shapes(config, scale)
        for again in range(repeats):
            tag = f"{scale}.{again}"
            given = [helper.make_tensor_value_info(f"x{i} {tag}", real, shape) for i, shape in enumerate(shapes)]
            inputs += given
            outputs.append(helper.make_tensor_value_info(f"y {tag}", real, shapes[0]))
            function = by_blocks[count]
            names = [value.name for value in given]
            nodes.append(helper.make_node(function.name, names, [f"y {tag}"], domain=function.domain))
    graph = helper.make_graph(nodes, "operators", inputs, outputs, weights)
    opsets = [*functions[0].opset_import, helper.make_opsetid("ctx", 1)]
    return helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)


def _shapes(config: NetworkConfig, scale: float) -> list[tuple[int, ...]]:
    """Return the shapes of an operator's inputs at a scale."""
    rows, columns = (-(-int(side * scale) // config.stride) for side in SHAPE)
    if config.refinement is None:
        return [(1, config.descriptor_dim, rows, columns), *[(1, 1, rows, columns)] * 2]
    channels = config.channels
    projections = [(channels, config.refinement.dim)] * 2 if config.refinement.edges is Edges.ATTENTION else []
    return [(1, rows * columns, channels), (channels, channels), (), *projections]


def row_of(proto: Any, shape: Sequence[int]) -> dict[str, Any]:
    """Return what the kernels of a graph cost in each way of running it."""
    graph = SizedGraph(named(proto), shape)
    usual = fused(graph)
    ways = {"separate": separate(graph), "fused": usual, "single": single(graph, usual)}
    return {way: _total(kernels) for way, kernels in ways.items()}


def _total(kernels: Iterable[Kernel]) -> dict[str, float]:
    found = list(kernels)
    return {
        "kernels": len(found),
        "gflop": sum(kernel.low + kernel.full for kernel in found) / 1e9,
        "mbytes": sum(kernel.read + kernel.written for kernel in found) / 1e6,
        "us": sum(kernel.seconds(H200) for kernel in found) * 1e6,
    }


def main() -> None:
    """Count, print and write."""
    import onnx

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trunks", nargs="+", default=list(TRUNKS), choices=list(TRUNKS))
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--precisions", nargs="+", default=["fp32", "fp16"], choices=("fp32", "fp16", "bf16"))
    parser.add_argument("--graph", nargs="*", default=[], metavar="TRUNK=FILE", help="graphs exported before, fp32")
    default = Path(__file__).parent / "results" / "operator_limits.json"
    parser.add_argument("-o", "--output", type=Path, default=default)
    options = parser.parse_args()
    device = {"bandwidth": H200.bandwidth, "low": H200.low, "full": H200.full, "launch": H200.launch}
    result: dict[str, Any] = {"device": device, "shape": SHAPE, "trunks": {}, "operators": {}}
    graphs = dict(given.split("=", 1) for given in options.graph)
    for name in options.trunks:
        trunk = onnx.load(graphs[name]) if name in graphs else trunk_graph(name)
        of_trunk = result["trunks"][name] = {p: row_of(_typed(trunk, p), (1, *SHAPE, 3)) for p in options.precisions}
        for part in options.parts:
            row = result["operators"][f"{part}, {name}"] = {}
            for key in ("former", "now"):
                proto = operator_graph(name, part, former=key == "former")
                row[key] = {p: row_of(_typed(proto, p), (1, 1, 8, 8)) for p in options.precisions}
                for precision in options.precisions:
                    _say(f"{part}, {name}, {key}, {precision}", device, of_trunk[precision], row[key][precision])
        publish(result, options.output, [])


def _typed(proto: Any, precision: str) -> Any:
    return proto if precision == "fp32" else to_mixed(proto, Precision.parse(precision))


def _say(label: str, device: Any, trunk: Any, row: Any) -> None:
    times = ", ".join(f"{way} {row[way]['us']:.0f} us in {row[way]['kernels']} kernels" for way in row)
    shares = f"{saved(device, trunk, row):.3f}, with launches of one photo {saved(device, trunk, row, 1):.3f}, of eight"
    rest = f"the rest {trunk['fused']['us']:.0f} us in {trunk['fused']['kernels']}"
    print(f"{label}: {times}; {rest}; saved at best {shares} {saved(device, trunk, row, 8):.3f}", flush=True)


if __name__ == "__main__":
    main()
