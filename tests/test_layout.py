"""The walls between the parts: who may import what, and habits that a reader relies on."""

import ast
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("export", "runtime", "index")
LIBRARY = sorted(path for part in ("ctxdeploy", *ROOMS) for path in (ROOT / part).rglob("*.py"))
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


@pytest.mark.parametrize("module", ["ctxdeploy", "ctxdeploy.index", "ctxdeploy.runtime", "ctxdeploy.core.bundle"])
def test_import_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(set({HEAVY}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert result.stdout.strip() == ""


@pytest.fixture(scope="module")
def metrics() -> ModuleType:
    """``tools/metrics.py``, which knows every import of the product."""
    path = ROOT / "tools" / "metrics.py"
    spec = importlib.util.spec_from_file_location("metrics", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["metrics"] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the product with its rooms in place, as in a wheel, and its contracts."""
    shutil.copytree(ROOT / "ctxdeploy", tmp_path / "ctxdeploy", ignore=shutil.ignore_patterns("__pycache__"))
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / "ctxdeploy" / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of ``pyproject.toml`` in a folder."""
    code = "from importlinter.cli import lint_imports_command as lint; lint(['--no-cache', '--no-logo'])"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False, timeout=6000
    )


def test_contracts_hold(copied: Path) -> None:
    done = lint_imports(copied)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("index", "torch"),
        ("index", "onnxruntime"),
        ("index", "ctxdeploy.runtime"),
        ("runtime", "torch"),
        ("runtime", "ctxdeploy.index"),
        ("export", "ctxdeploy.index"),
        ("core", "ctxdeploy.report"),
    ],
)
def test_a_forbidden_import_three_modules_away_is_found(copied: Path, room: str, forbidden: str) -> None:
    package = copied / "ctxdeploy"
    chain = ("core.first", "core.second", "core.third")
    for module, target in zip(chain, (f"ctxdeploy.{chain[1]}", f"ctxdeploy.{chain[2]}", forbidden), strict=True):
        text = f"def late() -> None:\n    import {target}\n"
        (package / f"{module.replace('.', '/')}.py").write_text(text, encoding="utf-8")
    with (package / room / "__init__.py").open("a", encoding="utf-8") as file:
        file.write(f"\nimport ctxdeploy.{chain[0]}\n")
    done = lint_imports(copied)
    assert done.returncode == 1
    assert f"ctxdeploy.core.third -> {forbidden}" in done.stdout


def test_rooms_are_entered_by_their_doors(metrics: ModuleType) -> None:
    modules = metrics.load_product(ROOT)
    found = [row for row in metrics.bypasses(modules, ROOMS) if row[3] in ROOMS]
    assert found == []


def test_there_are_no_import_circles(metrics: ModuleType) -> None:
    """Imports inside functions, for types alone, and through the lazy names of a door count too."""
    modules = metrics.load_product(ROOT)
    assert len(modules) > 100
    assert metrics.circles(metrics.graph(modules, typing=True, doors=True)) == []


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
    """A callback may ignore what a library passes: ``**__``."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in LIBRARY
        for node in ast.walk(tree_of(path))
        if isinstance(node, functions) and node.args.kwarg is not None and node.args.kwarg.arg.strip("_")
    ]
    assert found == []


def test_only_one_folder_of_the_index_knows_of_gpus() -> None:
    found = {name_of(path) for path in LIBRARY if any(name.startswith("numba.cuda") for name in imported(path))}
    assert found and {str(Path(name).parent) for name in found} == {"index/gpu"}


def test_files_stay_readable() -> None:
    assert len(LIBRARY) > 40
    long = {name_of(path): n for path in LIBRARY if (n := len(path.read_text(encoding="utf-8").splitlines())) > 420}
    assert long == {}


def test_python_in_the_root_of_a_checkout_finds_the_subpackages() -> None:
    code = "import ctxdeploy.export, ctxdeploy.index, ctxdeploy.runtime; print('found')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "found\n", done.stderr
