"""The walls between the parts: who may import what, and habits that a reader relies on."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = sorted(path for part in ("ctxdeploy", "export", "runtime", "index") for path in (ROOT / part).rglob("*.py"))
HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "onnxscript", "onnx_ir", "tensorrt")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(path: Path) -> Iterator[str]:
    """Yield every module that a file names in an import, lazy or not."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def offenders(part: str, forbidden: tuple[str, ...]) -> list[str]:
    files = sorted((ROOT / part).rglob("*.py"))
    assert files
    return [
        f"{name_of(path)}: {module}"
        for path in files
        for module in imported(path)
        if any(module == name or module.startswith(f"{name}.") for name in forbidden)
    ]


@pytest.mark.parametrize("module", ["ctxdeploy", "ctxdeploy.index", "ctxdeploy.runtime", "ctxdeploy.core.bundle"])
def test_import_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(set({HEAVY}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == ""


def test_index_knows_no_network_and_no_runtime() -> None:
    assert offenders("index", (*HEAVY, "ctxdeploy.runtime", "ctxdeploy.export", "ctxdeploy.cli")) == []


def test_runtime_knows_no_pytorch_and_no_index() -> None:
    assert offenders("runtime", ("torch", "ctxdeploy.export", "ctxdeploy.index", "ctxdeploy.cli")) == []


def test_export_knows_no_index() -> None:
    assert offenders("export", ("ctxdeploy.index", "ctxdeploy.cli")) == []


def test_no_relative_imports() -> None:
    assert [
        f"{name_of(path)}: {module}" for path in LIBRARY for module in imported(path) if module.startswith(".")
    ] == []


def test_nothing_is_pickled() -> None:
    unsafe = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve"}
    found = [f"{name_of(p)}: {m}" for p in LIBRARY for m in imported(p) if m.partition(".")[0] in unsafe]
    # Data sets are published as pickles: one module reads them, through an unpickler that admits no foreign name.
    assert found == ["ctxdeploy/core/plain_pickle.py: pickle"]
    for path in LIBRARY:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, name_of(path)


def test_no_assert_validates() -> None:
    found = [name_of(p) for p in LIBRARY for node in ast.walk(tree_of(p)) if isinstance(node, ast.Assert)]
    assert found == []


def test_no_function_takes_any_keyword() -> None:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in LIBRARY
        for node in ast.walk(tree_of(path))
        if isinstance(node, functions) and node.args.kwarg is not None
    ]
    assert found == []


def test_files_stay_readable() -> None:
    assert len(LIBRARY) > 40
    long = {name_of(path): n for path in LIBRARY if (n := len(path.read_text(encoding="utf-8").splitlines())) > 400}
    assert long == {}


def test_python_in_the_root_of_a_checkout_finds_the_subpackages() -> None:
    code = "import ctxdeploy.export, ctxdeploy.index, ctxdeploy.runtime; print('found')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "found\n", done.stderr
