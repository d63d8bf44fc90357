"""Devices by their names, and the driver as it answers: a small library stands in for that of NVIDIA."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ctxdeploy.core import device
from ctxdeploy.core.device import Device, Gpu, asked_gpu, find_gpu, gpu_present
from ctxdeploy.core.errors import BackendError, ConfigError

# The functions that are called, as CUDA's header has them; three GPUs, unless the environment says otherwise.
DRIVER = """
#include <stdlib.h>
#include <stdio.h>
static int number(const char *name, int otherwise) {
    const char *said = getenv(name);
    return said ? atoi(said) : otherwise;
}
static int begun = 0;
int cuInit(unsigned int flags) { begun = 1; return flags ? 1 : number("FAKE_INIT", 0); }
int cuDeviceGetCount(int *count) { *count = number("FAKE_GPUS", 3); return begun ? number("FAKE_COUNT", 0) : 3; }
int cuDeviceGet(int *device, int ordinal) { *device = 100 + ordinal; return ordinal < 3 ? 0 : 101; }
int cuDeviceGetName(char *name, int length, int device) {
    return snprintf(name, length, "NVIDIA GPU %d", device - 100) < 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)141 << 30; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 9 : attribute == 76 ? device - 100 : -1;
    return number("FAKE_ATTRIBUTE", 0);
}
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(DRIVER)
    made = folder / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, folder / "driver.c"], check=True)
    return made


@pytest.fixture
def driver(library: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(device, "_LIBRARIES", ("libno-driver.so.1", str(library)))
    return monkeypatch


@pytest.mark.parametrize(
    ("text", "kind", "number", "label"),
    [
        ("auto", "auto", 0, "auto"),
        ("cpu", "cpu", 0, "cpu"),
        ("cuda", "cuda", 0, "cuda:0"),
        ("cuda:0", "cuda", 0, "cuda:0"),
        ("cuda:12", "cuda", 12, "cuda:12"),
    ],
)
def test_names_of_devices(text: str, kind: str, number: int, label: str) -> None:
    found = Device.parse(text)
    assert (found.kind, found.number, found.label) == (kind, number, label)


@pytest.mark.parametrize("text", ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:x", "cuda:1000", "cuda:1 ", "cpu:0"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Device.parse(text)
    assert str(caught.value) == f"--device {text!r} is unknown: give --device auto, cpu, cuda or cuda:N"


def test_a_gpu_is_described_by_the_driver(driver: pytest.MonkeyPatch) -> None:
    assert find_gpu() == Gpu(name="NVIDIA GPU 0", capability=(9, 0), memory=141 << 30)
    assert find_gpu(2) == Gpu(name="NVIDIA GPU 2", capability=(9, 2), memory=141 << 30)
    assert find_gpu(2).label == "NVIDIA GPU 2 (9.2)"
    assert gpu_present(1) == find_gpu(1)


@pytest.mark.parametrize(
    ("said", "number", "message"),
    [
        ({"FAKE_INIT": "100"}, 0, "the NVIDIA driver shows no GPU: check CUDA_VISIBLE_DEVICES"),
        ({"FAKE_GPUS": "0"}, 0, "the NVIDIA driver shows no GPU: check CUDA_VISIBLE_DEVICES"),
        # 34: the library of stubs that CUDA's tools bring; 803: a driver older than its library.
        ({"FAKE_INIT": "34"}, 0, "the NVIDIA driver is not usable (cuInit returned 34): check  nvidia-smi"),
        ({"FAKE_COUNT": "803"}, 0, "the NVIDIA driver is not usable (cuDeviceGetCount returned 803): check"),
        ({"FAKE_ATTRIBUTE": "1"}, 0, "the NVIDIA driver is not usable (cuDeviceGetAttribute returned 1): check"),
        ({}, 3, "there is no GPU cuda:3, the NVIDIA driver shows cuda:0 to cuda:2: give another number"),
        ({"FAKE_GPUS": "1"}, 1, "there is no GPU cuda:1, the NVIDIA driver shows only cuda:0: give another number"),
    ],
)
def test_what_the_driver_cannot_do_is_said_in_one_line(
    driver: pytest.MonkeyPatch, said: dict[str, str], number: int, message: str
) -> None:
    for name, value in said.items():
        driver.setenv(name, value)
    with pytest.raises(BackendError) as caught:
        find_gpu(number)
    assert str(caught.value).startswith(message)
    assert gpu_present(number) is None


def test_without_a_driver_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_LIBRARIES", ("libno-driver.so.1",))
    assert gpu_present() is None
    with pytest.raises(BackendError, match=r"^there is no NVIDIA driver \(libcuda cannot be loaded\): run this where"):
        find_gpu()


def test_what_asked_for_a_gpu_that_is_not_there_is_named_with_what_to_give_instead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "_LIBRARIES", ("libno-driver.so.1",))
    none = "there is no NVIDIA driver (libcuda cannot be loaded): run this where the GPU is"
    for given, message in (
        ((), f"--device cuda:1: {none}, or give --device cpu"),
        (("--search-device",), f"--search-device cuda:1: {none}, or give --search-device cpu"),
        (("--device", "leave it out"), f"--device cuda:1: {none}, or leave it out"),
    ):
        with pytest.raises(BackendError) as caught:
            asked_gpu(Device.parse("cuda:1"), *given)
        assert str(caught.value) == message and caught.value.exit_code == 13
    assert asked_gpu(Device.parse("cpu")) is None and asked_gpu(Device.parse("auto")) is None


def test_looking_for_a_gpu_loads_nothing_of_nvidia() -> None:
    code = (
        "import sys\n"
        "from ctxdeploy.core.device import gpu_present\n"
        "import ctxdeploy.runtime.backends.choice\n"
        "gpu_present()\n"
        "heavy = {'cuda', 'numba', 'onnxruntime', 'tensorrt', 'faiss', 'nvidia', 'numba_cuda'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
