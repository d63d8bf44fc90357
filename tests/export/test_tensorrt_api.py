"""Every name of TensorRT that the code uses is one of the real package's, in each version that it is written for."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "reference" / "trt"
SOURCES = (
    "export/tensorrt",
    "runtime/backends/tensorrt.py",
    "runtime/backends/engine.py",
    "runtime/backends/lane.py",
    "ctxdeploy/core/engines.py",
)
FULL = ("api-11.4.json", "api-10.16.json")
RTX = ("api-rtx-1.7.json",)
# Names that no call of these would be right without: the check must have met them.
USED = {
    "Builder.create_network",
    "Builder.build_serialized_network",
    "BuilderFlag.TF32",
    "BuilderFlag.VERSION_COMPATIBLE",
    "HardwareCompatibilityLevel.AMPERE_PLUS",
    "IBuilderConfig.add_optimization_profile",
    "IBuilderConfig.create_timing_cache",
    "IBuilderConfig.hardware_compatibility_level",
    "IBuilderConfig.plugins_to_serialize",
    "IBuilderConfig.progress_monitor",
    "IBuilderConfig.set_memory_pool_limit",
    "ICudaEngine.create_execution_context",
    "ICudaEngine.create_runtime_config",
    "ICudaEngine.num_optimization_profiles",
    "ICudaEngine.get_tensor_profile_shape",
    "IExecutionContext.execute_async_v3",
    "IExecutionContext.infer_shapes",
    "IExecutionContext.set_input_shape",
    "IExecutionContext.set_device_memory",
    "IExecutionContext.set_optimization_profile_async",
    "IExecutionContext.set_tensor_address",
    "IExecutionContext.update_device_memory_size_for_shapes",
    "ILogger.Severity",
    "IOptimizationProfile.set_shape",
    "IRuntimeConfig.set_execution_context_allocation_strategy",
    "ITimingCache.serialize",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "OnnxParser.parse",
    "ParserError.local_function_stack",
    "Runtime.deserialize_cuda_engine",
    "Runtime.engine_host_code_allowed",
}


def check(paths: list[Path], listings: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    apis = [argument for name in listings for argument in ("--api", str(FOLDER / name))]
    command = [sys.executable, str(FOLDER / "check_api.py"), *apis, "--alias", "trt", *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    """Return ``check_api.py`` as a module."""
    spec = importlib.util.spec_from_file_location("check_api", FOLDER / "check_api.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("listings", [FULL, RTX], ids=["tensorrt", "tensorrt-rtx"])
def test_every_name_is_in_the_api(listings: tuple[str, ...]) -> None:
    done = check([ROOT / source for source in SOURCES], listings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("files checked, nothing unknown\n")


def test_the_check_tests_itself() -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / "check_api.py"), "--self-test"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("listing", [*FULL, *RTX])
def test_the_check_meets_the_names_that_matter(checker: ModuleType, listing: str) -> None:
    met: set[str] = set()

    class Counting(checker.Checker):  # type: ignore[misc, name-defined]
        def member(self, base: Any, attr: str, node: Any, raw: bool = False) -> Any:
            if not attr.startswith("__"):
                met.add(attr if base[0] == "module" else f"{base[1]}.{attr}")
            return super().member(base, attr, node, raw)

    api = checker.Api(FOLDER / listing)
    files = [f for s in SOURCES for f in (sorted((ROOT / s).rglob("*.py")) if (ROOT / s).is_dir() else [ROOT / s])]
    for file in files:
        assert Counting(api, str(file), file.read_text(encoding="utf-8"), ["trt"]).run() == {}
    assert met >= USED, sorted(USED - met)
    assert len(met) >= 50, sorted(met)


def test_the_package_keeps_the_name_that_the_check_knows() -> None:
    import ast

    for source in SOURCES:
        path = ROOT / source
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            names = [n for n in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(n, ast.Name)]
            assert not [n.lineno for n in names if n.id == "trt" and isinstance(n.ctx, ast.Store)], file


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("export/tensorrt/build.py", "trt.BuilderFlag.TF32", "trt.BuilderFlag.TF23"),
        ("export/tensorrt/build.py", "settings.set_memory_pool_limit(", "settings.set_max_workspace("),
        ("export/tensorrt/build.py", "builder.build_serialized_network(", "builder.build_engine("),
        ("export/tensorrt/build.py", "settings.add_optimization_profile(", "settings.set_optimization_profile("),
        ("export/tensorrt/build.py", "Flag.STRONGLY_TYPED", "Flag.TYPED_STRONGLY"),
        ("export/tensorrt/build.py", "builder.create_optimization_profile()", "builder.create_profile()"),
        (
            "export/tensorrt/monitor.py",
            "config.set_timing_cache(cache, ignore_mismatch=",
            "config.set_timing_cache(cache, mismatch=",
        ),
        ("export/tensorrt/monitor.py", "phase_name: str, step: int)", "phase_name: str)"),
        ("export/tensorrt/build.py", "error.local_function_stack()", "error.function_stack()"),
        ("runtime/backends/lane.py", "context.execute_async_v3(", "context.execute_async_v2("),
        ("runtime/backends/lane.py", "context.set_input_shape(", "context.set_binding_shape("),
        ("runtime/backends/lane.py", "context.set_device_memory(", "context.set_memory("),
        ("runtime/backends/engine.py", "runtime.engine_host_code_allowed", "runtime.host_code_allowed"),
        ("runtime/backends/engine.py", "engine.get_tensor_profile_shape(", "engine.get_profile_shape("),
        ("runtime/backends/engine.py", "Strategy.USER_MANAGED", "Strategy.OUR_MANAGED"),
        ("runtime/backends/engine.py", "context.set_optimization_profile_async(", "context.set_profile_async("),
        ("ctxdeploy/core/engines.py", "trt.ILogger.Severity.ERROR", "trt.ILogger.Severity.ERRORS"),
    ],
)
def test_the_check_finds_a_planted_wrong_name(tmp_path: Path, file: str, right: str, wrong: str) -> None:
    source = (ROOT / file).read_text(encoding="utf-8")
    assert right in source
    copy = tmp_path / "copy.py"
    copy.write_text(source.replace(right, wrong), encoding="utf-8")
    for listings in (FULL, RTX):
        assert check([copy], listings).returncode == 1
