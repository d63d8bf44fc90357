"""Keys of engines: which machine may run which, and what is said of the others."""

from dataclasses import replace
from typing import Any

import pytest

from ctxdeploy.core.device import Gpu
from ctxdeploy.core.engines import RTX_CAPABILITIES, EngineKey, Hardware, Machine, check_key
from ctxdeploy.core.errors import BackendError

A100 = Gpu(name="NVIDIA A100-SXM4-40GB", capability=(8, 0))
A30 = Gpu(name="NVIDIA A30", capability=(8, 0))
H200 = Gpu(name="NVIDIA H200", capability=(9, 0))
T4 = Gpu(name="Tesla T4", capability=(7, 5))
KEY = EngineKey(target="tensorrt", version="11.4.0.1", gpu=A100.name, capabilities=("8.0",))
RTX_KEY = EngineKey(target="tensorrt-rtx", version="1.7.1.116", gpu=None, capabilities=RTX_CAPABILITIES)


def details(key: EngineKey) -> dict[str, Any]:
    return {"key": key.metadata()}


def here(gpu: Gpu, version: str = "11.4.0.1", target: str = "tensorrt") -> Machine:
    return Machine(target=target, version=version, gpu=gpu)


def test_an_engine_runs_where_it_was_built() -> None:
    check_key(details(KEY), here(A100), precision="fp32")
    assert EngineKey.parse(KEY.metadata()) == KEY


@pytest.mark.parametrize(
    ("machine", "what"),
    [
        (here(H200), "here is NVIDIA H200 (9.0) with TensorRT 11.4.0.1 (another GPU)"),
        (here(A30), "here is NVIDIA A30 (8.0) with TensorRT 11.4.0.1 (another GPU)"),
        (here(A100, "11.3.0.9"), "here is NVIDIA A100-SXM4-40GB (8.0) with TensorRT 11.3.0.9 (another version)"),
        (here(T4, "10.16.1"), "here is Tesla T4 (7.5) with TensorRT 10.16.1 (another version, another GPU)"),
        (
            here(A100, "1.7.1.116", "tensorrt-rtx"),
            "here is NVIDIA A100-SXM4-40GB (8.0) with TensorRT-RTX 1.7.1.116 (another package)",
        ),
    ],
)
def test_an_engine_of_another_machine_is_refused_in_one_line(machine: Machine, what: str) -> None:
    with pytest.raises(BackendError) as caught:
        check_key(details(KEY), machine, precision="fp16", bundle="how.ctxbundle")
    assert str(caught.value) == (
        f"engine was built for NVIDIA A100-SXM4-40GB (8.0) with TensorRT 11.4.0.1, {what}: "
        f"run  ctxdeploy build how.ctxbundle --target {machine.target} --precision fp16"
    )


@pytest.mark.parametrize(
    ("built", "running", "fits"),
    [
        ("11.0.0", "11.4.0.1", True),
        ("11.4.0.1", "11.4.0.1", True),
        ("11.4.0.1", "11.0.0", False),
        ("10.16.1", "11.4.0.1", True),
        ("11.4.0.1", "12.0.0", False),
        ("9.3.0", "11.0.0", False),
    ],
)
def test_version_compatible_engines_go_to_later_versions(built: str, running: str, fits: bool) -> None:
    key = replace(KEY, version=built, version_compatible=True)
    if fits:
        check_key(details(key), here(A100, running), precision="fp32")
    else:
        with pytest.raises(BackendError, match=r"\(another version\)"):
            check_key(details(key), here(A100, running), precision="fp32")


@pytest.mark.parametrize(
    ("hardware", "gpu", "fits"),
    [
        (Hardware.AMPERE_PLUS, H200, True),
        (Hardware.AMPERE_PLUS, T4, False),
        (Hardware.SAME_COMPUTE_CAPABILITY, A30, True),
        (Hardware.SAME_COMPUTE_CAPABILITY, H200, False),
        (Hardware.NONE, A30, False),
    ],
)
def test_hardware_compatible_engines_go_to_the_gpus_they_may(hardware: Hardware, gpu: Gpu, fits: bool) -> None:
    key = replace(KEY, hardware=hardware)
    if fits:
        check_key(details(key), here(gpu), precision="fp32")
    else:
        with pytest.raises(BackendError, match=r"\(another GPU\)"):
            check_key(details(key), here(gpu), precision="fp32")


@pytest.mark.parametrize(
    ("capability", "fits"), [((8, 0), True), ((8, 9), True), ((12, 1), True), ((7, 5), False), ((9, 0), False)]
)
def test_engines_of_rtx_fit_by_capability(capability: tuple[int, int], fits: bool) -> None:
    machine = here(Gpu(name="any", capability=capability), "1.7.1.116", "tensorrt-rtx")
    if fits:
        check_key(details(RTX_KEY), machine, precision="fp32")
    else:
        with pytest.raises(BackendError, match=r"capabilities 8.0, 8.6, 8.9, 12.0\+ with .*\(another GPU\)"):
            check_key(details(RTX_KEY), machine, precision="fp32")
    with pytest.raises(BackendError, match="another version"):
        check_key(details(RTX_KEY), replace(machine, version="1.8.0"), precision="fp32")


@pytest.mark.parametrize(
    "damage",
    [
        {"hardware": "all"},
        {"capabilities": 8},
        {"capabilities": []},
        {"version": "new"},
        {"version": None},
        {"version_compatible": "false"},
        {"plugins": ["libctx.so"]},
        {"colour": "red"},
    ],
)
def test_a_key_that_is_none_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(BackendError, match="key is not valid"):
        check_key({"key": {**KEY.metadata(), **damage}}, here(A100), precision="fp32")


def test_an_engine_without_a_key_is_refused() -> None:
    with pytest.raises(
        BackendError, match=r"has no key .*: run  ctxdeploy build BUNDLE --target tensorrt --precision int8"
    ):
        check_key({}, here(A100), precision="int8")


def test_short_keys_differ_with_every_part() -> None:
    keys = [
        KEY,
        replace(KEY, gpu=A30.name),
        replace(KEY, version="11.4.0.2"),
        replace(KEY, options={"tf32": True}),
        replace(KEY, hardware=Hardware.AMPERE_PLUS),
        RTX_KEY,
    ]
    assert len({key.short for key in keys}) == len(keys)
