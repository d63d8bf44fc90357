"""What tests of several folders share. Under pytest's importlib mode no test module can import another."""

import errno
import importlib.util
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

TESTS = Path(__file__).parent

# pytest-xdist runs a worker on each core. BLAS and PyTorch with a thread on each core would have them wait for each
# other. Read when numpy and torch are loaded, which is later; processes that tests start inherit it.
if "PYTEST_XDIST_WORKER" in os.environ:
    for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(_name, "1")

# `make test` asks for `fast`, `make test-rest` for `ci`. A test names a number of its own only if it needs one.
settings.register_profile("fast", max_examples=30, deadline=None)
settings.register_profile("ci", max_examples=200, deadline=None)
settings.load_profile(os.environ.get("CTXDEPLOY_HYPOTHESIS", "fast"))


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """Take Ctrl-C, also where pytest runs in the background of a shell, which ignores it for its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
