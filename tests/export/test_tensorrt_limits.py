"""What TensorRT cannot take is said before anything is built, each with what solves it."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.core.bundle import Extraction, ShapeRange
from ctxdeploy.core.engines import Hardware
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.profiles import Profile, smallest
from ctxdeploy.export.networks import Architecture, Edges, NetworkConfig, Refinement
from ctxdeploy.export.tensorrt import EngineConfig
from ctxdeploy.export.tensorrt.config import parse_aspects
from ctxdeploy.export.tensorrt.limits import graph_problems, problems

HOW = NetworkConfig(family="how", architecture=Architecture.RESNET18)


def test_a_network_within_the_limits_has_no_problems(config_of: Callable[..., NetworkConfig]) -> None:
    for variant in ("how", "ctx-gaussian", "ctx-graph", "ctx-both", "fire"):
        for trunk in ("r18", "r50-"):
            for target in ("tensorrt", "tensorrt-rtx"):
                found = problems(Extraction(), config_of(variant, trunk), target=target, shapes=ShapeRange())
                assert found == []


def test_k_above_the_limit_names_the_option() -> None:
    assert problems(Extraction(top_k=3840), HOW) == []
    for target, product in (("tensorrt", "TensorRT"), ("tensorrt-rtx", "TensorRT-RTX")):
        assert problems(Extraction(top_k=3841), HOW, target=target) == [
            f"{product} selects at most 3840 positions, and K is 3841: give --top-k 3840 or less"
        ]


def test_too_many_similarities_name_the_batch() -> None:
    edges = Refinement(edges=Edges.TOPK)
    network = NetworkConfig(family="ctx", architecture=Architecture.RESNET50, skip_layer=1, refinement=edges)
    # 1,036 of the 8,281 rows of scale 1.414 at a time, as the graph holds them: more than 512 of 16,384 at scale 2.
    for batch, fits in ((249, True), (250, False)):
        shapes, config = ShapeRange(batch=(1, 256)), EngineConfig(max_batch=batch)
        found = problems(Extraction(), network, shapes=shapes, config=config)
        assert (found == []) is fits, found
    assert "similarities of 250 photos of 1024×1024 are 2148923000" in found[0] and "--max-batch" in found[0]


def test_all_problems_are_listed_at_once() -> None:
    config = EngineConfig(hardware=Hardware.AMPERE_PLUS)
    found = problems(Extraction(top_k=4000), HOW, target="tensorrt-rtx", config=config)
    assert len(found) == 2 and "--hardware-compatibility" in found[0] and "--top-k" in found[1]


@pytest.mark.parametrize(
    ("settings", "option"),
    [
        ({"timing_cache": Path("timings")}, "--timing-cache"),
        ({"version_compatible": True}, "--version-compatible"),
        ({"hardware": Hardware.SAME_COMPUTE_CAPABILITY}, "--hardware-compatibility"),
    ],
)
def test_rtx_refuses_what_it_has_not(settings: dict[str, Any], option: str) -> None:
    config = EngineConfig(**settings)
    config.check("tensorrt")
    with pytest.raises(ConfigError, match=f"--target tensorrt-rtx has no {option} .*use --target tensorrt"):
        config.check("tensorrt-rtx")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workspace": 1000}, "--workspace"),
        ({"optimisation_level": 6}, r"--optimisation-level 6 is outside 0\.\.5"),
        ({"max_batch": 0}, "--max-batch 0 is below 1"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EngineConfig(**settings)


def test_the_first_profile_is_the_bundles_whole_range() -> None:
    shapes = ShapeRange(batch=(1, 64), height=(1, 1024), width=(1, 1024))
    whole = EngineConfig().profiles(shapes, 1024)[0]
    assert (whole.low, whole.typical, whole.high) == ((1, 1, 1, 3), (8, 768, 1024, 3), (8, 1024, 1024, 3))
    whole = EngineConfig(typical=(4, 600, 800), max_batch=4).profiles(shapes, 1024)[0]
    assert (whole.typical, whole.high) == ((4, 600, 800, 3), (4, 1024, 1024, 3))
    narrow = EngineConfig().profiles(ShapeRange(height=(900, 1024)), 1024)[0]
    assert narrow.typical == (narrow.high[0], 900, 1024, 3)
    with pytest.raises(ConfigError, match=r"--typical 1x2000x800: height 2000 is outside the engine's 1\.\.1024"):
        EngineConfig(typical=(1, 2000, 800)).profiles(shapes, 1024)
    with pytest.raises(ConfigError, match=r"--typical 9x600x800: batch 9 is outside the engine's 1\.\.8"):
        EngineConfig(typical=(9, 600, 800)).profiles(shapes, 1024)
    with pytest.raises(ConfigError, match="target 'onnxruntime': give --target tensorrt or tensorrt-rtx"):
        EngineConfig().check("onnxruntime")


def spans(profiles: tuple[Profile, ...]) -> list[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """Return rows and columns of profiles, least, typical and largest."""
    sides = [list(zip(p.low, p.typical, p.high, strict=True)) for p in profiles]
    return [(side[1], side[2]) for side in sides]


def test_each_aspect_has_a_profile_for_either_way_up() -> None:
    shapes = ShapeRange(batch=(1, 4), height=(1, 1024), width=(1, 1024))
    config = EngineConfig(aspects=((16, 9), (4, 3), (1, 1), (3, 2)), typical=(2, 700, 900))
    fixed = (1024, 1024, 1024)
    profiles = config.profiles(shapes, 1024)
    assert spans(profiles)[1:] == [
        ((513, 576, 582), fixed),
        (fixed, (513, 576, 582)),
        ((583, 683, 690), fixed),
        (fixed, (583, 683, 690)),
        ((691, 768, 776), fixed),
        (fixed, (691, 768, 776)),
        ((777, 1024, 1024), (777, 1024, 1024)),
    ]
    assert {(p.low[0], p.typical[0], p.high[0]) for p in profiles} == {(1, 2, 4)}
    # What cameras and Pillow's rounding make of each aspect.
    for height, width, number in (
        (576, 1024, 1), (682, 1024, 3), (683, 1024, 3), (1024, 685, 4), (768, 1024, 5), (767, 1024, 5), (1024, 770, 6),
        (1024, 1024, 7), (1024, 819, 7), (500, 1024, 0), (768, 1023, 0), (300, 400, 0),
    ):  # fmt: skip
        assert smallest(profiles, (2, height, width, 3)) == number, (height, width)
    assert smallest(profiles, (5, 768, 1024, 3)) is None


def test_buckets_keep_within_the_bundles_range() -> None:
    assert EngineConfig(aspects=()).profiles(ShapeRange(), 1024)[1:] == ()
    low = ShapeRange(height=(700, 1024), width=(1, 1024))
    assert spans(EngineConfig().profiles(low, 1024))[1:] == [
        ((1024, 1024, 1024), (513, 683, 690)),
        ((700, 768, 776), (1024, 1024, 1024)),
        ((1024, 1024, 1024), (691, 768, 776)),
    ]
    fixed = ShapeRange(height=(768, 768), width=(1024, 1024))
    assert EngineConfig().profiles(fixed, 1024)[1:] == (), "the whole range is that bucket"
    tiny = EngineConfig(aspects=((4, 3), (1, 1))).profiles(ShapeRange(height=(1, 8), width=(1, 8)), 8)
    for profile in tiny:
        assert all(a <= b <= c for a, b, c in zip(profile.low, profile.typical, profile.high, strict=True))


@pytest.mark.parametrize("text", ["4:3:2", "4", "a:b", "", "4:3,", "0:1", "4:3,3:0", "-4:3"])
def test_aspects_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(
        ValueError, match="is not a list of ratios such as 4:3,3:2, each of two whole numbers from 1 on"
    ):
        parse_aspects(text)


def test_aspects_are_read_either_way_up() -> None:
    assert parse_aspects("4:3,2:3") == ((4, 3), (3, 2)) and parse_aspects("none") == ()
    with pytest.raises(ConfigError, match=r"--aspects 3:4 is no ratio .* give the longer and the shorter one"):
        EngineConfig(aspects=((3, 4),))


def test_our_graph_has_no_problems(small_graph: Any) -> None:
    assert graph_problems(small_graph) == graph_problems(small_graph, "tensorrt-rtx") == []


def model(nodes: list[Any], functions: tuple[Any, ...] = (), opset: int = 20, **constants: Any) -> Any:
    """Return a model of some nodes from ``x`` to ``y``."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", "n"]) for name in "xy"]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ctx", 1)]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions))


def node(operator: str, *inputs: str, outputs: tuple[str, ...] = ("y",), domain: str = "", **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(operator, list(inputs or ("x",)), list(outputs), "the_node", domain=domain, **attributes)


def function(name: str, *, domain: str = "ctx", opset: int = 20, operator: str = "Exp") -> Any:
    from onnx import helper

    body = [helper.make_node(operator, ["a"], ["b"], "inside")]
    return helper.make_function(domain, name, ["a"], ["b"], body, [helper.make_opsetid("", opset)])


def arrays() -> dict[str, Any]:
    import numpy as np

    return {
        "k": np.array([3841], np.int64),
        "scale": np.float32(0.1),
        "signed": np.int8(0),
        "shifted": np.int8(3),
        "unsigned": np.uint8(0),
        "axes": np.array([1], np.int64),
    }


@pytest.mark.parametrize(
    ("bad", "wanted"),
    [
        (lambda: node("TopK", "x", "k", outputs=("y", "i")), "the_node (TopK) selects 3841, and the most is 3840: give "
         "--top-k 3840 or less"),
        (lambda: node("TopK", "x", "axes", outputs=("y", "i"), sorted=0), "the_node (TopK) is not sorted"),
        (lambda: node("TopK", "x", "axes", outputs=("y", "i"), axis=-5), "not one of the last four"),
        (lambda: node("Unique", outputs=("y",)), "the_node (Unique) is not an operator of TensorRT: use --target "
         "onnxruntime or openvino"),
        (lambda: node("Resize", "x", "", "scale", antialias=1), "antialias"),
        (lambda: node("Resize", "x", "", "x"), "takes its scales from an input"),
        (lambda: node("Resize", "x", "", "scale", keep_aspect_ratio_policy="not_larger"), "keeps the aspect ratio"),
        (lambda: node("Resize", "x", "", "scale", coordinate_transformation_mode="tf_crop_and_resize"), "crops"),
        (lambda: node("MaxPool", outputs=("y", "i"), kernel_shape=[3]), "gives indices"),
        (lambda: node("AveragePool", kernel_shape=[3], dilations=[2]), "has dilations"),
        (lambda: node("QuantizeLinear", "x", "scale", "unsigned"), "is unsigned (uint8): quantise again with"),
        (lambda: node("QuantizeLinear", "x", "scale", "shifted"), "has a zero point other than 0"),
        (lambda: node("QuantizeLinear", "x", "scale", "x"), "has a zero point that is computed"),
        (lambda: node("Cast", to=8), "casts to STRING"),
        (lambda: node("ReduceSum", "x", "x"), "takes its axes from input x, and they must be constant"),
        (lambda: node("Soften", domain="ctx"), "the_node (Soften) is of domain ctx and has no function: use --inline"),
    ],
)  # fmt: skip
def test_a_node_that_is_refused_is_named_with_its_remedy(bad: Callable[[], Any], wanted: str) -> None:
    (line,) = graph_problems(model([bad()], **arrays()))
    assert line.startswith("TensorRT: ") and wanted in line


@pytest.mark.parametrize(
    "good",
    [
        lambda: node("TopK", "x", "axes", outputs=("y", "i")),
        lambda: node("QuantizeLinear", "x", "scale", "signed"),
        lambda: node("QuantizeLinear", "x", "scale"),
        lambda: node("ReduceSum", "x", "axes"),
        lambda: node("Resize", "x", "", "", "axes"),
        lambda: node("Cast", to=10),
    ],
)
def test_their_neighbours_within_the_limits_are_not(good: Callable[[], Any]) -> None:
    assert graph_problems(model([good()], **arrays())) == []


def test_rtx_has_less() -> None:
    scatter = node("ScatterElements", "x", "axes", "x", reduction="add")
    for bad, remedy in ((node("NonZero"), "use --target tensorrt, or another"), (scatter, "use --target tensorrt")):
        assert graph_problems(model([bad], **arrays())) == []
        (line,) = graph_problems(model([bad], **arrays()), "tensorrt-rtx")
        assert line.startswith("TensorRT-RTX: the_node") and remedy in line


@pytest.mark.parametrize(
    ("functions", "call", "wanted"),
    [
        ([("Relu", {})], "Relu", "function ctx::Relu has the name of a standard operator"),
        ([("Soften", {"opset": 17})], "Soften", "is written in opset 17, the model in 20"),
        ([("Soften", {}), ("Soften", {"domain": "other"})], "Soften", "2 functions have the name Soften"),
        ([("Soften", {"operator": "Det"})], "Soften", "inside (Det) is not an operator of TensorRT"),
    ],
)
def test_functions_that_would_be_misread_are_refused(
    functions: list[tuple[str, dict[str, Any]]], call: str, wanted: str
) -> None:
    made = tuple(function(name, **settings) for name, settings in functions)
    (line,) = graph_problems(model([node(call, domain="ctx")], made))
    assert wanted in line


def test_a_call_must_take_everything() -> None:
    (line,) = graph_problems(model([node("Soften", "x", "", domain="ctx"), node("Soften", "x", "x", domain="ctx")],
                                   (function("Soften"),)))  # fmt: skip
    assert "gives 2 inputs and takes 1 outputs of 1 and 1" in line


def test_branches_are_looked_into() -> None:
    from onnx import TensorProto, helper

    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Det", ["x"], ["out"], "deep")], "branch", [], [out])
    (line,) = graph_problems(model([node("If", then_branch=branch, else_branch=branch)]))
    assert "deep (Det) is not an operator" in line


def test_opset_types_and_uint8_are_checked(small_graph: Any) -> None:
    from onnx import TensorProto

    (line,) = graph_problems(model([node("Exp")], opset=8))
    assert "opset 8 is outside 9..24" in line
    strange = model([node("Exp")])
    strange.graph.input[0].type.tensor_type.elem_type = TensorProto.COMPLEX64
    (line,) = graph_problems(strange)
    assert "input x has type COMPLEX64" in line
    late = copy.deepcopy(small_graph)
    (cast,) = (n for n in late.graph.node if n.op_type == "Cast" and n.input[0] == "image")
    cast.op_type = "Transpose"
    del cast.attribute[:]
    (line,) = graph_problems(late)
    assert "input image is uint8 and goes into" in line and "export again" in line


def test_problems_of_k_are_found_in_an_exported_graph_too(small_graph: Any) -> None:
    import numpy as np
    from onnx import numpy_helper

    graph = copy.deepcopy(small_graph)
    (topk,) = (n for n in graph.graph.node if n.op_type == "TopK")
    named = [t for t in graph.graph.initializer if t.name == topk.input[1]]
    assert len(named) == 1
    named[0].CopyFrom(numpy_helper.from_array(np.array([5000], np.int64), topk.input[1]))
    (line,) = graph_problems(graph)
    assert "selects 5000" in line and "--top-k 3840" in line


def test_unknown_settings_of_a_target_are_problems_too() -> None:
    config = replace(EngineConfig(), timing_cache=Path("timings"))
    assert problems(Extraction(), HOW, config=config) == []
    assert "--timing-cache" in problems(Extraction(), HOW, target="tensorrt-rtx", config=config)[0]
