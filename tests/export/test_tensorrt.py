"""Graphs to engines: by tensorrt-rtx on this CPU where it is installed, and the rest with a stand-in for TensorRT."""

import _thread
import copy
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ctxdeploy.core.bundle import Extraction, ShapeRange
from ctxdeploy.core.engines import RTX_CAPABILITIES, Hardware
from ctxdeploy.core.errors import BackendError, MissingExtraError, StorageError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.targets import TENSORRT, TENSORRT_RTX
from ctxdeploy.core.types import Precision
from ctxdeploy.export.networks import Architecture, Delf, NetworkConfig, Pooling, Refinement, Smoothing
from ctxdeploy.export.tensorrt import EngineConfig
from ctxdeploy.export.tensorrt.build import Plan, build_plan
from ctxdeploy.export.tensorrt.limits import graph_problems
from ctxdeploy.export.tensorrt.monitor import make_monitor

SHAPES = ShapeRange(batch=(1, 2), height=(1, 512), width=(1, 512))
FAST = EngineConfig(optimisation_level=0, aspects=())
BESIDE = Pooling(fixed_p=3.0, dim=64, norm_pooled=False, norm="floored", beside_local=True)


@pytest.fixture(scope="session")
def rtx() -> ModuleType:
    return pytest.importorskip("tensorrt_rtx", reason="the extra rtx is not installed")  # type: ignore[no-any-return]


def build(
    proto: Any, config: EngineConfig = FAST, *, target: str = TENSORRT_RTX, display: Display | None = None
) -> Plan:
    profiles = config.profiles(SHAPES, 512)
    return build_plan(proto, profiles, config, target=target, precision=Precision.FP32, display=display)


class Recorder(Display):
    """Keeps what it is told instead of showing it."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []
        self.shown: list[int] = []
        self.then: Callable[[], None] = lambda: None

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def steps(self, task: str, unit: str = "photos") -> Iterator[Callable[[int, int], None]]:
        def show(done: int, total: int) -> None:
            self.shown.append(done)
            self.then()

        yield show


# ---- TensorRT-RTX, real


def test_both_operators_parse_and_build(rtx: ModuleType, small_graph: Any) -> None:
    display = Recorder()
    plan = build(small_graph, display=display)
    weights = sum(len(tensor.raw_data) for tensor in small_graph.graph.initializer)
    assert len(plan.data) > 0.9 * weights, "the weights are in it, once for all scales"
    # 2.44 times, of which the kernels of 32 blocks of rows are 1.44; with the weights of each scale it would be 3.44.
    assert len(plan.data) < 2.9 * weights
    assert (plan.key.target, plan.key.version) == (TENSORRT_RTX, rtx.__version__)
    assert (plan.key.gpu, plan.key.capabilities) == (None, RTX_CAPABILITIES)
    assert display.shown == sorted(display.shown) and display.shown[-1] == 100 and len(display.shown) > 10
    json.dumps(plan.details())


def untrained_graph(config: NetworkConfig, extraction: Extraction) -> Any:
    """Return the graph of a network as PyTorch makes it: what it computes is not looked at here."""
    from ctxdeploy.export.graph import build_graph
    from ctxdeploy.export.networks import build

    return build_graph(build(config, extraction).eval())


# What they have is in the graph of which each precision is built, below.
PLAIN = [pytest.param(variant, marks=pytest.mark.long) for variant in ("how", "ctx-gaussian")]


@pytest.mark.slow
@pytest.mark.parametrize("variant", [*PLAIN, "ctx-graph", "fire"])
def test_every_network_parses_and_builds_with_several_profiles(
    rtx: ModuleType, config_of: Callable[..., NetworkConfig], variant: str
) -> None:
    graph = untrained_graph(config_of(variant, dim=64), Extraction(scales=(0.5,), top_k=60, top_share=0.3, dim=64))
    assert graph_problems(graph, TENSORRT_RTX) == graph_problems(graph, TENSORRT) == []
    plan = build(graph, replace(FAST, aspects=((1, 1),)))
    assert plan.data and len(plan.key.options["profiles"]) == 1


# One small network of each family that gives a global descriptor, and of those with TensorFlow's trunks.
PUBLISHED: dict[str, NetworkConfig] = {
    name: NetworkConfig(family=family, architecture=trunk, smoothing=Smoothing(kind="none"), **parts)
    for name, family, trunk, parts in (
        ("gem", "gem", Architecture.RESNET18_HALF, {"dim": None, "pooling": Pooling(dim=64)}),
        ("mac", "gem", Architecture.RESNET18_HALF, {"dim": None, "pooling": Pooling(kind="mac")}),
        ("rmac", "gem", Architecture.RESNET18_HALF, {"dim": None, "pooling": Pooling(kind="rmac")}),
        (
            "ap-gem",
            "gem",
            Architecture.RESNET18_HALF,
            {"dim": None, "pooling": Pooling(norm="floored", norm_pooled=False, over_scales="signed", center_bias=0.5)},
        ),
        ("solar", "gem", Architecture.RESNET18_HALF, {"dim": None, "pooling": Pooling(dim=64, second_order=(3, 4))}),
        ("delf", "delf", Architecture.RESNET50, {"skip_layer": 1, "dim": 64, "delf": Delf(half_pixel=False)}),
        (
            "delg",
            "delg",
            Architecture.RESNET50,
            {"skip_layer": 1, "dim": 64, "delf": Delf(strides=(2, 1)), "pooling": BESIDE},
        ),
        (
            "delg-keras",
            "delg",
            Architecture.RESNET50,
            {"skip_layer": 1, "dim": 64, "delf": Delf(strides=(1, 2), trunk="keras"), "pooling": BESIDE},
        ),
    )
}


# `delf`, `solar` and `rmac` have what these have: `delg` is `delf` with the head of `gem`, or on another trunk; `solar`
# is `gem` with attention; `mac` takes maxima as `rmac` does, and `ap-gem` is `gem` with another norm.
LONG = ("delg", "delg-keras", "gem", "mac", "ap-gem")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) if name in LONG else name for name in PUBLISHED]
)
def test_every_published_family_parses_and_builds(rtx: ModuleType, name: str) -> None:
    config = PUBLISHED[name]
    scales = (0.5,) if config.pooling is None or config.pooling.beside_local else (1.0,)
    settings = Extraction(scales=scales, top_k=40, global_dim=1, global_scales=(0.5,))
    graph = untrained_graph(config, config.fitted(settings))
    assert graph_problems(graph, TENSORRT_RTX) == graph_problems(graph, TENSORRT) == []
    assert build(graph).data


@pytest.mark.long
@pytest.mark.slow
def test_all_scales_of_how_build_and_share_their_weights(
    rtx: ModuleType, config_of: Callable[..., NetworkConfig]
) -> None:
    graph = untrained_graph(config_of("how"), Extraction())
    profiles = FAST.profiles(ShapeRange(), 1024)
    plan = build_plan(graph, profiles, FAST, target=TENSORRT_RTX, precision=Precision.FP32)
    weights = sum(len(tensor.raw_data) for tensor in graph.graph.initializer)
    # 1.35 times; with the weights of each scale it would be a multiple.
    assert weights < len(plan.data) < 1.6 * weights


@pytest.fixture(scope="module")
def one_scale(config_of: Callable[..., NetworkConfig], network_of: Callable[..., Any]) -> Any:
    """Return the graph of both operators, each once: the engine of ``small_graph`` takes three times as long."""
    from ctxdeploy.export.graph import build_graph

    config = config_of("ctx-both", dim=64, refinement=Refinement(blocks=1))
    return build_graph(network_of(config, Extraction(scales=(0.5,), top_k=60, dim=64)))


@pytest.fixture(scope="module")
def fp32_bytes(rtx: ModuleType, one_scale: Any) -> int:
    """Return the size of the engine in fp32: the kernels are most of it, so that sizes are compared with it."""
    profiles = FAST.profiles(SHAPES, 512)
    return len(build_plan(one_scale, profiles, FAST, target=TENSORRT_RTX, precision=Precision.FP32).data)


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16, Precision.INT8])
def test_every_precision_parses_and_builds(
    rtx: ModuleType, one_scale: Any, fp32_bytes: int, samples: dict[str, Any], precision: Precision
) -> None:
    from ctxdeploy.export.graph.mixed import to_mixed
    from ctxdeploy.export.int8.calibration import calibrate
    from ctxdeploy.export.int8.qdq import quantise

    if precision is Precision.INT8:
        graph = quantise(one_scale, calibrate(one_scale, {"coffee": samples["coffee"]}))
    else:
        graph = to_mixed(one_scale, precision)
    assert graph_problems(graph, TENSORRT_RTX) == graph_problems(graph, TENSORRT) == []
    profiles = FAST.profiles(SHAPES, 512)
    plan = build_plan(graph, profiles, FAST, target=TENSORRT_RTX, precision=precision)
    weights = sum(len(tensor.raw_data) for tensor in one_scale.graph.initializer)
    assert len(plan.data) < fp32_bytes - 0.4 * weights, "the trunk's weights are of two bytes, or of one"


def test_a_bad_node_is_one_clear_line_with_its_function(rtx: ModuleType, small_graph: Any) -> None:
    bad = copy.deepcopy(small_graph)
    (function,) = (f for f in bad.functions if f.name == "GaussianSmoothing")
    node = next(n for n in function.node if n.op_type == "Exp")
    node.op_type = "Det"
    with pytest.raises(BackendError) as caught:
        build(bad)
    (first, *_) = str(caught.value).split("; ")
    assert first == (f"TensorRT-RTX cannot take the graph: {node.name} (Det, in GaussianSmoothing): not supported")
    assert "\n" not in str(caught.value)


def test_a_bad_attribute_is_one_clear_line(rtx: ModuleType, small_graph: Any) -> None:
    bad = copy.deepcopy(small_graph)
    node = next(n for n in bad.graph.node if n.op_type == "Concat")
    node.attribute[0].i = 17
    with pytest.raises(BackendError, match=rf"{node.name} \(Concat\): .*[Aa]xis.*17$"):
        build(bad)


def test_k_above_the_limit_fails_where_the_preflight_says(rtx: ModuleType, small_graph: Any) -> None:
    """The limit of the preflight is the real one: one less builds."""
    import numpy as np
    from onnx import numpy_helper

    def selecting(k: int) -> Any:
        from onnx import TensorProto, helper

        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            [
                helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
                helper.make_node("Reshape", ["f", "shape"], ["flat"]),
                helper.make_node("TopK", ["flat", "k"], ["attention", "index"]),
            ],
            "selection",
            [value("image", TensorProto.UINT8, ["b", "h", "w", 3])],
            [value("attention", TensorProto.FLOAT, ["b", k])],
            [numpy_helper.from_array(np.array(a, np.int64), n) for n, a in (("k", [k]), ("shape", [0, -1]))],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)

    config = replace(FAST, typical=(1, 64, 64))
    profiles = config.profiles(ShapeRange(batch=(1, 1), height=(64, 64), width=(64, 64)), 64)
    for k, fits in ((3840, True), (3841, False)):
        assert (graph_problems(selecting(k), TENSORRT_RTX) == []) is fits
        if fits:
            build_plan(selecting(k), profiles, config, target=TENSORRT_RTX, precision=Precision.FP32)
        else:
            with pytest.raises(BackendError, match=r"cannot build the engine: .*3840"):
                build_plan(selecting(k), profiles, config, target=TENSORRT_RTX, precision=Precision.FP32)


@pytest.mark.slow
def test_an_engine_for_several_shapes_has_its_weights_once(rtx: ModuleType, one_scale: Any, fp32_bytes: int) -> None:
    config = replace(FAST, aspects=((4, 3),))
    profiles = config.profiles(SHAPES, 512)
    assert len(profiles) == 3
    plan = build_plan(one_scale, profiles, config, target=TENSORRT_RTX, precision=Precision.FP32)
    # The kernels of each profile are its own: of ResNet-18 with seven scales 4 MB beside 45 MB of weights.
    weights = sum(len(tensor.raw_data) for tensor in one_scale.graph.initializer)
    kernels = fp32_bytes - weights
    assert weights + 1.5 * kernels < len(plan.data) < weights + 3.3 * kernels
    assert len(plan.key.options["profiles"]) == 2 and plan.key.options["shapes"]["low"] == [1, 1, 1, 3]


def test_too_little_workspace_names_the_option(rtx: ModuleType, small_graph: Any) -> None:
    with pytest.raises(BackendError, match=r"OutOfMemory.* \(give a larger --workspace or a smaller --max-batch\)"):
        build(small_graph, replace(FAST, workspace=1 << 20))


def test_ctrl_c_ends_a_build(rtx: ModuleType, small_graph: Any) -> None:
    display = Recorder()

    def interrupt() -> None:
        if len(display.shown) == 1:
            _thread.interrupt_main()
            time.sleep(0.5)  # the main thread looks ten times a second

    display.then = interrupt
    with pytest.raises(KeyboardInterrupt):
        build(small_graph, display=display)
    assert display.shown[-1] < 100


def test_a_display_that_fails_ends_a_build_with_its_error(rtx: ModuleType, small_graph: Any) -> None:
    display = Recorder()

    def fail() -> None:
        raise OSError("no terminal")

    display.then = fail
    with pytest.raises(OSError, match="no terminal"):
        build(small_graph, display=display)


def test_the_table_of_operators_is_the_parsers(rtx: ModuleType) -> None:
    from ctxdeploy.export.tensorrt.nodes import IMPORTED

    log = rtx.Logger(rtx.Logger.ERROR)
    builder = rtx.Builder(log)
    network = builder.create_network(0)
    parser = rtx.OnnxParser(network, log)
    assert sorted(name for name in IMPORTED if not parser.supports_operator(name)) == []


# ---- TensorRT, played by a stand-in


@pytest.fixture
def fake(load_reference: Any, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module: ModuleType = load_reference("trt/fake_tensorrt")
    module.install(monkeypatch, module)
    return module


def facts(plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(plan.data)
    return found


def test_settings_reach_the_builder(fake: ModuleType, small_graph: Any) -> None:
    plan = build(small_graph, EngineConfig(), target=TENSORRT)
    found = facts(plan)
    assert (found["flags"], found["limits"], found["level"], found["hardware"]) == ([], {}, 3, "NONE")
    whole, *more = found["engine"]["profiles"]
    assert (whole[0], whole[2]) == ([1, 1, 1, 3], [2, 512, 512, 3]) and found["typical"] == [2, 384, 512, 3]
    assert [profile[1] for profile in more] == [
        [2, 341, 512, 3],
        [2, 512, 341, 3],
        [2, 384, 512, 3],
        [2, 512, 384, 3],
    ]
    assert (plan.key.gpu, plan.key.capabilities, plan.key.version) == ("NVIDIA H200", ("9.0",), "11.4.0.1")
    config = EngineConfig(
        workspace=1 << 30, optimisation_level=5, tf32=True, version_compatible=True, hardware=Hardware.AMPERE_PLUS
    )
    other = build(small_graph, config, target=TENSORRT)
    found = facts(other)
    assert (found["flags"], found["limits"]) == (["TF32", "VERSION_COMPATIBLE"], {"WORKSPACE": 1 << 30})
    assert (found["level"], found["hardware"]) == (5, "AMPERE_PLUS")
    assert (other.key.version_compatible, other.key.hardware) == (True, Hardware.AMPERE_PLUS)
    assert other.key.short != plan.key.short
    same = build(small_graph, EngineConfig(hardware=Hardware.SAME_COMPUTE_CAPABILITY), target=TENSORRT)
    assert facts(same)["hardware"] == "SAME_COMPUTE_CAPABILITY"


def test_without_a_gpu_no_builder_is_made(fake: ModuleType, small_graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.install(monkeypatch, fake, status=999)

    def never(self: Any, logger: Any) -> None:
        raise AssertionError("a Builder without a driver ends the process")

    monkeypatch.setattr(fake.Builder, "__init__", never)
    with pytest.raises(BackendError, match="driver is not usable"):
        build(small_graph, target=TENSORRT)


def test_a_null_builder_is_an_error_of_ours(
    fake: ModuleType, small_graph: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def null(self: Any, logger: Any) -> None:
        logger.log(fake.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(fake.Builder, "__init__", null)
    with pytest.raises(BackendError, match="TensorRT cannot start: CUDA initialization failure with error: 35"):
        build(small_graph, target=TENSORRT)


def test_bf16_needs_a_gpu_that_has_it(fake: ModuleType, small_graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.install(monkeypatch, fake, name="Tesla T4", capability=(7, 5))
    profiles = FAST.profiles(SHAPES, 512)
    build_plan(small_graph, profiles, FAST, target=TENSORRT, precision=Precision.FP16)
    with pytest.raises(BackendError, match=r"Tesla T4 \(7\.5\) has no bf16 arithmetic .*: use --precision fp16"):
        build_plan(small_graph, profiles, FAST, target=TENSORRT, precision=Precision.BF16)


def test_a_profile_that_is_refused_is_said(fake: ModuleType, small_graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake.IBuilderConfig, "add_optimization_profile", lambda self, profile: -1)
    with pytest.raises(BackendError, match=r"the shapes \(1, 1, 1, 3\) to \(2, 512, 512, 3\) are refused: no reason"):
        build(small_graph, target=TENSORRT)


def test_a_build_that_fails_says_why(fake: ModuleType, small_graph: Any) -> None:
    fake.Builder.refuses = "Could not find any implementation\n  for node conv1"
    with pytest.raises(BackendError, match="cannot build the engine: Could not find any implementation for node conv1"):
        build(small_graph, target=TENSORRT)


def test_many_complaints_are_cut_short(fake: ModuleType, small_graph: Any) -> None:
    error = fake.ParserError
    fake.OnnxParser.errors = [error(f"n{i}", "Det", ["call (Outer)", "deep (Inner)"], "why\n not") for i in range(9)]
    fake.OnnxParser.errors[0] = error("", "Det", [], "reason")
    with pytest.raises(BackendError) as caught:
        build(small_graph, target=TENSORRT)
    text = str(caught.value)
    assert text.startswith("TensorRT cannot take the graph: node 7 (Det): reason; n1 (Det, in Outer > Inner): why not;")
    assert text.endswith("; and 4 more")


def test_a_missing_package_names_its_extra(small_graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for target, module, extra in ((TENSORRT, "tensorrt", "tensorrt"), (TENSORRT_RTX, "tensorrt_rtx", "rtx")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingExtraError, match=rf"{module} is not installed: run  pip install .*\[{extra}\]"):
            build(small_graph, target=target)


# ---- timing cache


def test_timings_are_kept_between_builds(fake: ModuleType, small_graph: Any, tmp_path: Path) -> None:
    path = tmp_path / "timings"
    config = replace(FAST, timing_cache=path)
    display = Recorder()
    for layers in (1, 2, 3):
        build(small_graph, config, target=TENSORRT, display=display)
        assert path.read_bytes() == b"timings of NVIDIA H200:" + b" one layer" * layers
    assert display.said == []
    assert [file.name for file in tmp_path.iterdir()] == ["timings"]


@pytest.mark.parametrize("content", [b"timings of NVIDIA A100: one layer", b"\0" * 100])
def test_timings_of_another_machine_are_left_with_a_remark(
    fake: ModuleType, small_graph: Any, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "timings"
    path.write_bytes(content)
    display = Recorder()
    build(small_graph, replace(FAST, timing_cache=path), target=TENSORRT, display=display)
    assert display.said == [f"timing cache {path} is damaged, or of another GPU or version: starting a new one"]
    assert path.read_bytes() == b"timings of NVIDIA H200: one layer"


def test_a_failed_build_leaves_the_timings(fake: ModuleType, small_graph: Any, tmp_path: Path) -> None:
    path = tmp_path / "timings"
    path.write_bytes(b"timings of NVIDIA H200: one layer")
    fake.Builder.refuses = "no"
    with pytest.raises(BackendError):
        build(small_graph, replace(FAST, timing_cache=path), target=TENSORRT)
    assert path.read_bytes() == b"timings of NVIDIA H200: one layer"


def test_a_timing_cache_that_cannot_be_a_file(fake: ModuleType, small_graph: Any, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"timing cache .* cannot be read"):
        build(small_graph, replace(FAST, timing_cache=tmp_path), target=TENSORRT)
    with pytest.raises(StorageError, match=r"timings cannot be written"):
        build(small_graph, replace(FAST, timing_cache=tmp_path / "none" / "timings"), target=TENSORRT)


# ---- progress


def test_progress_never_goes_back_and_ends_at_all(fake: ModuleType) -> None:
    shown: list[tuple[int, int]] = []
    monitor = make_monitor(fake, lambda done, total: shown.append((done, total)))
    monitor.phase_start("all", None, 2)
    monitor.phase_start("part", "all", 4)
    for step in range(4):
        assert monitor.step_complete("part", step)
    monitor.phase_finish("part")
    monitor.step_complete("all", 0)
    monitor.phase_start("part", "all", 1)
    assert monitor.step_complete("never started", 3)
    monitor.phase_finish("part")
    monitor.step_complete("all", 1)
    monitor.phase_finish("all")
    done = [d for d, _ in shown]
    assert done == [12, 25, 37, 50, 100] and all(total == 100 for _, total in shown)


def test_ctrl_c_is_heard_while_a_step_takes_long(fake: ModuleType, small_graph: Any) -> None:
    display = Recorder()

    def interrupt() -> None:
        if len(display.shown) == 1:
            threading.Timer(0.1, _thread.interrupt_main).start()
            time.sleep(0.5)

    display.then = interrupt
    with pytest.raises(KeyboardInterrupt):
        build(small_graph, target=TENSORRT, display=display)
    assert display.shown == [50], "it is not asked for a second step"
