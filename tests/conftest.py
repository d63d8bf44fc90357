"""What tests of several folders share. Under pytest's importlib mode no test module can import another."""

import errno
import fcntl
import gc
import hashlib
import importlib.metadata
import importlib.util
import inspect
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

TESTS = Path(__file__).parent
# What follows the name of an artefact that is not whole, or no longer wanted.
FORMER = r"partial|[0-9a-f]{16}(\.sha256)?"

# What a user, a terminal or a CI has set would change what commands find and print.
for _name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "PYTHONWARNINGS"):
    os.environ.pop(_name, None)
for _name in ("CTXDEPLOY_HOME", "CTXDEPLOY_INDEX", "CTXDEPLOY_MIRROR", "CTXDEPLOY_MODEL"):
    os.environ.pop(_name, None)

# pytest-xdist runs a worker on each core. BLAS and PyTorch with a thread on each core would have them wait for each
# other; those of ONNX Runtime, which are as many as a user's, would spin meanwhile. Read when numpy, torch and networks
# are loaded, which is later; processes that tests start inherit it.
if "PYTEST_XDIST_WORKER" in os.environ:
    for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(_name, "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# `make test-long` asks for `long`. A test names a number of its own only if it needs one.
settings.register_profile("fast", max_examples=30, deadline=None)
settings.register_profile("long", max_examples=200, deadline=None)
settings.load_profile(os.environ.get("CTXDEPLOY_HYPOTHESIS", "fast"))


def pytest_collection_finish() -> None:
    """Look for circles of garbage less often, and not among modules: a tenth of the time where graphs are traced."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """Take Ctrl-C, also where pytest runs in the background of a shell, which ignores it for its children.

    The children of tests take SIGHUP too where pytest runs under nohup.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)


def _digest(files: Iterable[Path], base: Path) -> str:
    """Return the sha256 of files' names, relative to a folder, and of what is in them."""
    digest = hashlib.sha256()
    for path in sorted(path for path in files if path.is_file()):
        digest.update(f"{path.relative_to(base).as_posix()}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@pytest.fixture(scope="session")
def artefacts(pytestconfig: pytest.Config) -> Callable[..., Path]:
    """Return a function that makes a folder once, for all workers and for later runs; it must not be changed.

    Its arguments are a name, a function that fills an empty folder, and the folders of the product whose code decides
    what that is. What is kept goes by the hash of this code, of the file of the function, and of the versions of what
    computes; a folder that a test has changed is made again.
    """
    root = pytestconfig.rootpath / ".pytest_cache" / "artefacts"
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "onnx", "onnxruntime", "numpy")]

    def get(name: str, make: Callable[[Path], object], code: Iterable[str]) -> Path:
        base = TESTS.parent
        sources = [path for folder in code for path in (base / folder).rglob("*.py")]
        assert sources
        sources.append(Path(inspect.getfile(make)))
        text = "\n".join([sys.version, *versions, _digest(sources, base)])
        place = root / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        mark = place.with_suffix(".sha256")
        root.mkdir(parents=True, exist_ok=True)
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not mark.exists() or mark.read_text() != _digest(place.rglob("*"), place):
                for old in [path for path in root.iterdir() if re.fullmatch(rf"{name}-({FORMER})", path.name)]:
                    shutil.rmtree(old) if old.is_dir() else old.unlink()
                partial = root / f"{name}-partial"
                partial.mkdir()
                make(partial)
                partial.rename(place)
                mark.write_text(_digest(place.rglob("*"), place))
        return place

    return get


@pytest.fixture(scope="session")
def load_reference() -> Callable[[str], ModuleType]:
    """Return a function that imports ``tests/reference/<name>.py``."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, TESTS / "reference" / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def full_disk() -> Callable[[], AbstractContextManager[None]]:
    """Return a context manager in which files cannot be synced, as on a disk that is full."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextmanager
    def filled() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", full)
            yield

    return filled


@pytest.fixture(scope="session")
def read_page(load_reference: Callable[[str], ModuleType]) -> Callable[[Path], Any]:
    """Return a function that parses a page and checks what holds for all of them: ``tests/reference/html_page.py``."""
    read: Callable[[Path], Any] = load_reference("html_page").read
    return read


@pytest.fixture(scope="session")
def minibench() -> Path:
    """Return the folder of minibench's photos, which lies beside the checkout, not in it."""
    folder = TESTS.parents[1] / "shared" / "data" / "minibench" / "images"
    if not folder.is_dir():
        pytest.skip(f"minibench is not at {folder}")
    return folder
