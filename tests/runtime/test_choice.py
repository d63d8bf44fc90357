"""What `auto` takes on a machine with a GPU, and what it says; the GPU and the packages for it are stand-ins."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ctxdeploy.core import device, progress
from ctxdeploy.core.bundle import Artefact, Bundle
from ctxdeploy.core.device import Gpu
from ctxdeploy.core.engines import EngineKey
from ctxdeploy.core.errors import (
    BackendError,
    BundleError,
    ConfigError,
    CtxdeployError,
    MissingExtraError,
    OutOfMemoryError,
)
from ctxdeploy.core.progress import Display
from ctxdeploy.runtime.backends import BackendConfig, choice, obstacle, open_backend, resolve

MakeBundle = Callable[..., Bundle]
GPU = Gpu(name="NVIDIA H200", capability=(9, 0), memory=141 << 30)
KEY = EngineKey(target="tensorrt", version="11.4.0.1", gpu="NVIDIA H200", capabilities=("9.0",))
MISSING = MissingExtraError("onnxruntime-gpu", "cuda")


class Machine:
    """A machine whose GPU and packages a test decides; what is opened is listed, and nothing runs.

    Attributes:
        opened: runtime and device of every attempt.
        fails: by the runtime, what opening it raises.
        gpus: that the driver shows.
        cuda: what stands in the way of ONNX Runtime on CUDA.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[tuple[str, str]] = []
        self.fails: dict[str, CtxdeployError] = {}
        self.gpus: tuple[Gpu, ...] = (GPU,)
        self.cuda: CtxdeployError | None = None
        self.tensorrt: CtxdeployError | None = None
        for module in (choice, device):
            monkeypatch.setattr(module, "find_gpu", self._find)
        monkeypatch.setattr(choice, "gpu_present", lambda number=0: self.gpus[number] if self.gpus else None)
        monkeypatch.setattr(obstacle, "require_onnxruntime_gpu", lambda: self._package(self.cuda))
        monkeypatch.setattr(obstacle, "import_package", lambda target: self._package(self.tensorrt))
        monkeypatch.setattr(choice, "_loaded", self._load)

    def _find(self, number: int) -> Gpu:
        if number >= len(self.gpus):
            raise device.NoGpuError("there is no such GPU: look for it")
        return self.gpus[number]

    def _package(self, failure: CtxdeployError | None) -> Any:
        if failure is not None:
            raise failure
        return SimpleNamespace(__version__="11.4.0.1")

    def _load(self, bundle: Bundle, config: BackendConfig) -> Any:
        self.opened.append((config.name, config.device))
        if config.name in self.fails:
            raise self.fails[config.name]
        return SimpleNamespace(name=config.name)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(progress, "_announced", set())
    Display(quiet=False)
    return Machine(monkeypatch)


def with_engine(bundle: Bundle, precision: str = "fp32", key: EngineKey = KEY) -> Bundle:
    engine = Artefact(
        file="engine.plan",
        sha256="0" * 64,
        bytes=1,
        format="engine",
        precision=precision,
        target=key.target,
        details={"key": key.metadata()},
    )
    return replace(bundle, artefacts=(*bundle.artefacts, engine))


def test_an_engine_for_this_very_gpu_is_taken(
    machine: Machine, make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = with_engine(make_bundle())
    assert open_backend(bundle, BackendConfig()).name == "tensorrt"
    assert resolve(bundle, BackendConfig()) == BackendConfig(name="tensorrt", device="cuda:0")
    line = "TensorRT runs the network on cuda:0, NVIDIA H200 (9.0): the bundle has an engine for it\n"
    assert capsys.readouterr().err == line
    open_backend(bundle, BackendConfig())
    assert capsys.readouterr().err == "", "said once"


def test_an_engine_for_another_gpu_is_left_for_onnxruntime(
    machine: Machine, make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    other = replace(KEY, gpu="NVIDIA A100", capabilities=("8.0",))
    bundle = with_engine(make_bundle(), key=other)
    assert open_backend(bundle, BackendConfig()).name == "cuda"
    said = capsys.readouterr().err
    assert said.startswith("ONNX Runtime on CUDA runs the network on cuda:0, NVIDIA H200 (9.0): engine was built")
    assert "another GPU): run  ctxdeploy build " in said
    assert machine.opened == [("cuda", "cuda:0")]


def test_without_an_engine_or_its_package_it_is_onnxruntime(machine: Machine, make_bundle: MakeBundle) -> None:
    assert open_backend(make_bundle(), BackendConfig()).name == "cuda"
    machine.tensorrt = MissingExtraError("tensorrt", "tensorrt")
    assert open_backend(with_engine(make_bundle()), BackendConfig()).name == "cuda"
    # Of another precision there is none.
    assert open_backend(with_engine(make_bundle(), "fp16"), BackendConfig()).name == "cuda"


def test_without_a_package_it_is_the_cpu_and_the_way_to_the_gpu_is_said_once_a_week(
    machine: Machine, make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.cuda = MISSING
    bundle = make_bundle()
    assert open_backend(bundle, BackendConfig()).name == "onnxruntime"
    assert (
        capsys.readouterr().err == f"the network runs on the CPU; NVIDIA H200 (9.0) is there as well, but {MISSING}\n"
    )
    monkeypatch.setattr(progress, "_announced", set())  # another process
    open_backend(bundle, BackendConfig())
    assert capsys.readouterr().err == ""
    later = SimpleNamespace(time=lambda: progress.time.monotonic() + 4e9, monotonic=progress.time.monotonic)
    monkeypatch.setattr(progress, "time", later)
    open_backend(bundle, BackendConfig())
    assert str(MISSING) in capsys.readouterr().err


def test_nothing_is_said_where_nobody_listens(
    machine: Machine, make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Display(quiet=True)
    machine.cuda = MISSING
    open_backend(make_bundle(), BackendConfig())
    machine.cuda = None
    open_backend(make_bundle(), BackendConfig())
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "cache").exists(), "a hint that nobody saw is not counted"


def test_without_a_gpu_it_is_the_cpu_and_nothing_is_said(
    machine: Machine, make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.gpus = ()
    machine.tensorrt = machine.cuda = ConfigError("nobody looks for packages")
    bundle = with_engine(make_bundle())
    assert open_backend(bundle, BackendConfig()).name == "onnxruntime"
    assert resolve(bundle, BackendConfig()) == BackendConfig(name="onnxruntime", device="cpu")
    assert capsys.readouterr().err == ""


def test_what_does_not_start_is_passed_over_and_named(
    machine: Machine, make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.fails = {"tensorrt": OutOfMemoryError("no memory for the engine")}
    bundle = with_engine(make_bundle())
    assert open_backend(bundle, BackendConfig()).name == "cuda"
    assert "NVIDIA H200 (9.0): no memory for the engine\n" in capsys.readouterr().err
    machine.fails["cuda"] = BackendError("onnxruntime runs on CPUExecutionProvider")
    assert open_backend(bundle, BackendConfig()).name == "onnxruntime"
    assert "is there as well, but onnxruntime runs on CPUExecutionProvider" in capsys.readouterr().err
    assert machine.opened[2:] == [("tensorrt", "cuda:0"), ("cuda", "cuda:0"), ("onnxruntime", "cpu")]


def test_a_gpu_that_was_asked_for_is_never_replaced_by_the_cpu(machine: Machine, make_bundle: MakeBundle) -> None:
    asked, bundle = BackendConfig(device="cuda"), make_bundle()
    machine.fails = {"cuda": OutOfMemoryError("out of memory")}
    with pytest.raises(OutOfMemoryError, match=r"^out of memory$"):
        open_backend(bundle, asked)
    machine.cuda = MISSING
    for call in (open_backend, resolve):
        with pytest.raises(MissingExtraError) as caught:
            call(bundle, asked)
        assert caught.value is MISSING
    machine.gpus = ()
    with pytest.raises(BackendError, match=r"^--device cuda:0: .* GPU: look for it, or give --device cpu$"):
        open_backend(bundle, asked)
    assert [name for name, _ in machine.opened] == ["cuda"]


def test_a_gpu_is_asked_for_by_its_number(machine: Machine, make_bundle: MakeBundle) -> None:
    machine.gpus = (GPU, replace(GPU, name="NVIDIA A100", capability=(8, 0)))
    bundle = with_engine(make_bundle())
    open_backend(bundle, BackendConfig(device="cuda:0"))
    open_backend(bundle, BackendConfig(device="cuda:1"))
    open_backend(bundle, BackendConfig(name="tensorrt", device="cuda:1"))
    open_backend(bundle, BackendConfig(name="cuda"))
    expected = [("tensorrt", "cuda:0"), ("cuda", "cuda:1"), ("tensorrt", "cuda:1"), ("cuda", "cuda:0")]
    assert machine.opened == expected, "the engine is for the first; a runtime that is named is not replaced"
    assert BackendConfig(device="cuda:1").gpu == 1


def test_a_precision_without_a_runtime_there_stays_on_the_cpu(machine: Machine, make_bundle: MakeBundle) -> None:
    made = make_bundle()
    bundle = replace(made, artefacts=(*made.artefacts, replace(made.artefacts[0], precision="int8")))
    assert resolve(bundle, BackendConfig(precision="int8")).name == "onnxruntime"
    with pytest.raises(BundleError, match="has no TensorRT engine of int8: run  ctxdeploy build "):
        resolve(bundle, BackendConfig(precision="int8", device="cuda"))
    assert resolve(with_engine(bundle, "int8"), BackendConfig(precision="int8", device="cuda")).name == "tensorrt"


def test_a_precision_of_gpus_alone_names_what_was_asked_for(machine: Machine, make_bundle: MakeBundle) -> None:
    machine.gpus = ()
    with pytest.raises(
        BackendError, match=r"^--precision fp8 runs on a GPU alone: .*: look for it, or give another --precision$"
    ):
        resolve(make_bundle(), BackendConfig(precision="fp8"))
    with pytest.raises(BackendError, match=r"^--precision fp8 runs on a GPU alone: "):
        open_backend(with_engine(make_bundle(), "fp8"), BackendConfig(precision="fp8"))
    assert machine.opened == []


def test_a_device_of_the_cpu_leaves_the_gpu_alone(machine: Machine, make_bundle: MakeBundle) -> None:
    bundle = with_engine(make_bundle())
    assert open_backend(bundle, BackendConfig(device="cpu")).name == "onnxruntime"
    assert open_backend(bundle, BackendConfig(name="openvino")).name == "openvino"
    assert machine.opened == [("onnxruntime", "cpu"), ("openvino", "cpu")]


def test_a_named_runtime_needs_its_gpu_before_anything_is_measured(machine: Machine, make_bundle: MakeBundle) -> None:
    assert resolve(make_bundle(), BackendConfig(name="cuda")).device == "cuda:0"
    machine.gpus = ()
    there_is_none = "there is no such GPU: look for it, or give"
    for config, message in (
        (BackendConfig(name="cuda"), f"--backend cuda: {there_is_none} --backend onnxruntime"),
        (
            BackendConfig(name="cuda", device="cuda:3", precision="fp16"),
            f"--backend cuda --device cuda:3: {there_is_none} --backend onnxruntime without --device",
        ),
        (BackendConfig(name="tensorrt", precision="bf16"), f"--backend tensorrt: {there_is_none} --backend openvino"),
        (BackendConfig(name="tensorrt", precision="fp8"), f"--backend tensorrt: {there_is_none} another --precision"),
    ):
        with pytest.raises(BackendError) as caught:
            resolve(make_bundle(), config)
        assert str(caught.value) == message
    machine.fails = {"cuda": device.NoGpuError("there is no such GPU: look for it")}
    with pytest.raises(BackendError, match=f"^--target cuda: {there_is_none} --target onnxruntime$"):
        open_backend(make_bundle(), BackendConfig(name="cuda"), "--target")
    assert resolve(make_bundle(), BackendConfig(name="openvino")).device == "cpu"


def test_a_named_runtime_that_fails_is_not_replaced(machine: Machine, make_bundle: MakeBundle) -> None:
    machine.fails = {"tensorrt": BackendError("no")}
    with pytest.raises(BackendError, match=r"^no$"):
        open_backend(with_engine(make_bundle()), BackendConfig(name="tensorrt"))


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        (
            "cudaSetDevice: cudaErrorInsufficientDriver",
            BackendError,
            "ONNX Runtime on CUDA cannot start on cuda:0: the driver is older than the CUDA of the packages "
            "(cudaSetDevice: cudaErrorInsufficientDriver): CUDA 13 needs 580 or later",
        ),
        (
            "cudaStreamCreateWithFlags: cudaErrorMemoryAllocation",
            OutOfMemoryError,
            "ONNX Runtime on CUDA cannot start on cuda:0: cudaStreamCreateWithFlags: cudaErrorMemoryAllocation: check",
        ),
    ],
)
def test_what_cuda_itself_says_ends_in_one_line(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, said: str, kind: type[BackendError], message: str
) -> None:
    def start(bundle: Bundle, config: BackendConfig) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr("ctxdeploy.runtime.backends.onnxruntime_cuda.CudaBackend", start)
    with pytest.raises(BackendError) as caught:
        open_backend(make_bundle(), BackendConfig(name="cuda"))
    assert type(caught.value) is kind and str(caught.value).startswith(message)
