"""Packages that share a folder are noticed before one of them is imported, and the message mends it."""

import importlib
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ctxdeploy.core import extras, rivals
from ctxdeploy.core.engines import import_package
from ctxdeploy.core.errors import MissingExtraError, MixedPackagesError
from ctxdeploy.core.origin import install_line

CPU, GPU = install_line("cpu"), install_line("cuda")


class Environment:
    """Packages as they lie in a folder of packages: their metadata, and the folder that they share."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._patch = folder, monkeypatch
        real = metadata.Distribution.from_name

        def found(name: str) -> Any:
            known = {package for packages in rivals.RIVALS.values() for package in packages}
            if name not in known:
                return real(name)
            for distribution in metadata.distributions(name=name, path=[str(folder)]):
                return distribution
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata.Distribution, "from_name", found)
        monkeypatch.syspath_prepend(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] in ("onnxruntime", "faiss")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)

    def install(self, package: str, version: str = "1.31.1") -> None:
        """Write what pip reads of a package."""
        place = self._folder / f"{package.replace('-', '_')}-{version}.dist-info"
        place.mkdir()
        (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")

    def write(self, module: str, text: str) -> None:
        """Write the module, as the last package that was installed has it."""
        (self._folder / module).mkdir(exist_ok=True)
        if text:
            (self._folder / module / "__init__.py").write_text(text)
        importlib.invalidate_caches()


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Environment]:
    yield Environment(tmp_path, monkeypatch)
    # Else whoever imports one of them next, in another test, gets what was written here.
    for name in [name for name in sys.modules if name.partition(".")[0] in ("onnxruntime", "faiss")]:
        del sys.modules[name]


ORT = "InferenceSession = object\ndef get_available_providers(): return {providers}\n"
ON_CPU = ORT.format(providers=["CPUExecutionProvider"])
ON_GPU = ORT.format(providers=["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"])
FAISS_CPU, FAISS_GPU = "IndexFlatL2 = object\n", "IndexFlatL2 = StandardGpuResources = object\n"


def test_onnxruntime_of_either_package_is_taken(environment: Environment) -> None:
    environment.install("onnxruntime-gpu")
    environment.write("onnxruntime", ON_GPU)
    assert extras.require_onnxruntime().InferenceSession is object
    assert extras.require_onnxruntime_gpu().InferenceSession is object


@pytest.mark.parametrize("module", [ON_CPU, ON_GPU, ""])
def test_both_packages_of_onnxruntime_are_refused_before_the_import(environment: Environment, module: str) -> None:
    environment.install("onnxruntime")
    environment.install("onnxruntime-gpu")
    environment.write("onnxruntime", module)
    for require in (extras.require_onnxruntime, extras.require_onnxruntime_gpu):
        with pytest.raises(MixedPackagesError) as caught:
            require()
        assert str(caught.value) == (
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other in the folder onnxruntime: "
            f"run  pip uninstall -y onnxruntime onnxruntime-gpu  and then  {GPU}  (GPU) or  {CPU}  (CPU alone)"
        )
    assert "onnxruntime" not in sys.modules
    assert MixedPackagesError.exit_code == 29


def test_a_package_in_a_later_folder_of_the_path_hides_nothing(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime of an environment, and onnxruntime-gpu in a folder of its own that comes before it."""
    environment.install("onnxruntime")
    environment.write("onnxruntime", ON_CPU)
    before = tmp_path / "before"
    for name, text in (("onnxruntime_gpu-1.31.1.dist-info", ""), ("onnxruntime", ON_GPU)):
        (before / name).mkdir(parents=True)
        (before / name / ("__init__.py" if text else "METADATA")).write_text(
            text or "Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.31.1\n"
        )
    usual = metadata.Distribution.from_name

    def found(name: str) -> Any:
        return next(iter(metadata.distributions(name=name, path=[str(before)])), None) or usual(name)

    monkeypatch.setattr(metadata.Distribution, "from_name", found)
    monkeypatch.syspath_prepend(str(before))
    assert rivals.installed(("onnxruntime", "onnxruntime-gpu")) == ("onnxruntime-gpu",)
    assert extras.require_onnxruntime_gpu().get_available_providers()[1] == "CUDAExecutionProvider"


def test_a_gpu_is_asked_of_a_package_for_cpus(environment: Environment) -> None:
    with pytest.raises(MissingExtraError) as caught:
        extras.require_onnxruntime_gpu()
    assert str(caught.value) == f"onnxruntime-gpu is not installed: run  {GPU}"
    environment.install("onnxruntime")
    environment.write("onnxruntime", ON_CPU)
    with pytest.raises(MissingExtraError) as caught:
        extras.require_onnxruntime_gpu()
    assert str(caught.value) == (
        f"onnxruntime-gpu is not installed: run  pip uninstall -y onnxruntime  and then  {GPU}"
    ), "installing it beside the other would make it worse"


@pytest.mark.parametrize(
    ("module", "why"),
    [
        ("pass\n", "it has no InferenceSession"),
        ("import onnxruntime.capi\n", "No module named 'onnxruntime.capi'"),
        ("raise ImportError('libgone.so: cannot open shared object file\\nmore')\n", "libgone.so: cannot open shared"),
    ],
)
def test_what_uninstalling_a_rival_left_is_put_back(environment: Environment, module: str, why: str) -> None:
    environment.install("onnxruntime-gpu", "1.30.0")
    environment.write("onnxruntime", module)
    with pytest.raises(MixedPackagesError) as caught:
        extras.require_onnxruntime()
    text = str(caught.value)
    assert text.startswith(f"onnxruntime-gpu is installed but cannot be imported ({why}") and "\n" not in text
    assert text.endswith("run  pip install --force-reinstall --no-deps onnxruntime-gpu==1.30.0")


def test_without_any_the_extra_for_cpus_is_named(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr("ctxdeploy.core.extras.importlib.import_module", missing)
    with pytest.raises(MissingExtraError, match=r"^onnxruntime is not installed: run  pip install ") as caught:
        extras.require_onnxruntime()
    assert str(caught.value).endswith(CPU)


def test_faiss_for_cpus_and_for_gpus(environment: Environment) -> None:
    with pytest.raises(MissingExtraError, match=r"^faiss-gpu is not installed: run  pip install "):
        extras.require_faiss_gpu()
    environment.install("faiss-cpu")
    environment.write("faiss", FAISS_CPU)
    assert extras.require_faiss("bench").IndexFlatL2 is object
    with pytest.raises(MissingExtraError, match="run  pip uninstall -y faiss-cpu  and then  pip install "):
        extras.require_faiss_gpu()
    environment.install("faiss-gpu")
    for require in (lambda: extras.require_faiss("bench"), extras.require_faiss_gpu):
        with pytest.raises(MixedPackagesError) as caught:
            require()
        assert str(caught.value) == (
            "faiss-cpu and faiss-gpu are both installed and overwrite each other in the folder faiss: run  pip "
            "uninstall -y faiss-cpu faiss-gpu  and then  pip install faiss-gpu  (GPU) or  pip install faiss-cpu  "
            "(CPU alone)"
        )


def test_faiss_with_gpus_serves_cpus_too(environment: Environment) -> None:
    environment.install("faiss-gpu-cuvs")
    environment.write("faiss", FAISS_GPU)
    assert extras.require_faiss("bench") is extras.require_faiss_gpu()


def test_cudnn_of_two_versions_of_cuda_matters_on_a_gpu_alone(environment: Environment) -> None:
    environment.install("onnxruntime-gpu")
    environment.install("nvidia-cudnn-cu12")
    environment.write("onnxruntime", f"{ON_GPU}cuda_version = '12.8'\n")
    assert extras.require_onnxruntime_gpu() is extras.require_onnxruntime()
    environment.install("nvidia-cudnn-cu13")
    assert extras.require_onnxruntime().InferenceSession is object
    with pytest.raises(MixedPackagesError) as caught:
        extras.require_onnxruntime_gpu()
    assert str(caught.value) == (
        "nvidia-cudnn-cu12 and nvidia-cudnn-cu13 are both installed and overwrite each other in the folder "
        "nvidia/cudnn: run  pip uninstall -y nvidia-cudnn-cu12 nvidia-cudnn-cu13  and then  pip install "
        "nvidia-cudnn-cu12  (what needs the other, in another environment)"
    ), "the one for the CUDA that ONNX Runtime was built for"


def test_telemetry_is_off_and_a_users_own_choice_stays(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    environment.install("onnxruntime")
    environment.write("onnxruntime", ON_CPU)
    monkeypatch.setenv("ORT_TELEMETRY_DISABLED", "0")
    extras.require_onnxruntime()
    assert (os.environ["ORT_DISABLE_TELEMETRY"], os.environ["ORT_TELEMETRY_DISABLED"]) == ("1", "0")


def test_tensorrt_of_two_versions_of_cuda_is_refused(environment: Environment) -> None:
    environment.install("tensorrt-cu12")
    environment.install("tensorrt-cu13")
    with pytest.raises(MixedPackagesError, match=r"run  pip uninstall -y tensorrt-cu12 tensorrt-cu13  and then  pip "):
        import_package("tensorrt")


@pytest.mark.parametrize(
    ("there", "package", "extra", "command"),
    [
        ((), "openvino", "cpu", CPU),
        (("onnxruntime", "faiss-cpu"), "openvino", "cpu", CPU),
        # The extra would bring onnxruntime beside it.
        (("onnxruntime-gpu",), "openvino", "cpu", "pip install openvino"),
        (("faiss-gpu",), "asmk", "bench", "pip install asmk"),
        (
            ("onnxruntime", "faiss-cpu"),
            "numba-cuda",
            "cuda",
            f"pip uninstall -y onnxruntime faiss-cpu  and then  {GPU}",
        ),
        (("onnxruntime-gpu", "faiss-gpu"), "numba-cuda", "cuda", GPU),
        (("onnxruntime",), "tensorrt", "tensorrt", install_line("tensorrt")),
    ],
)
def test_no_advice_brings_a_package_beside_its_rival(
    environment: Environment, there: tuple[str, ...], package: str, extra: str, command: str
) -> None:
    for name in there:
        environment.install(name)
    assert str(MissingExtraError(package, extra)) == f"{package} is not installed: run  {command}"
