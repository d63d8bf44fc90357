"""Synthetic photos: descriptors around prototypes that photos share, so that there is something to find."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ctxdeploy
from ctxdeploy.core.device import gpu_present
from ctxdeploy.index import Codebook, Index, IndexConfig

Photos = list[NDArray[np.float32]]
CHILDREN = Path(__file__).parent / "children"


@pytest.fixture(scope="session")
def load_child() -> Callable[[str], ModuleType]:
    """Return a function that imports ``children/<name>.py``."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, CHILDREN / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def run_child() -> Callable[..., Any]:
    """Return a function that runs ``children/<name>.py`` in a process and returns the JSON of its last line.

    The process must end by itself with code 0: a crash by a signal, an exception and a timeout fail the test.
    """

    # The code that is tested here, wherever it was imported from.
    path = os.pathsep.join([str(Path(ctxdeploy.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]).strip(
        os.pathsep
    )

    def run(name: str, *arguments: object, timeout: float = 1200.0, environment: dict[str, str] | None = None) -> Any:
        result = subprocess.run(
            [sys.executable, str(CHILDREN / f"{name}.py"), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=os.environ | {"PYTHONPATH": path} | (environment or {}),
        )
        assert result.returncode == 0, f"exit {result.returncode}: {result.stdout[-2000:]} {result.stderr[-4000:]}"
        return json.loads(result.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def simulator() -> Iterator[bool]:
    """numba's simulator of a GPU, in this process: it runs the loops of ``index/gpu`` in Python.

    Where there is a GPU the loops run there, and this is False.
    """
    if gpu_present() is not None:
        yield False
        return
    from numba.core import config

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBA_ENABLE_CUDASIM", "1")
        patch.setattr(config, "ENABLE_CUDASIM", 1)
        import numba.cuda

    assert "simulator" in numba.cuda.jit.__module__, "a test before has imported numba.cuda without its simulator"
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # its threads wait for each other in turns
    yield True
    sys.setswitchinterval(interval)


@pytest.fixture
def small_gpu(simulator: bool, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``index.gpu.memory`` of a GPU, simulated if there is none, that nothing lies on, whose work is divided small:
    several ranges of photos, tiles of words, and more postings of a tile than are staged at once."""
    from ctxdeploy.index.gpu import memory
    from ctxdeploy.index.gpu.tiling import Tiling

    tiling = Tiling(photos=8, threads=2, staged=8, ahead=2, wide=2, blocks=1, bins=64)
    if not simulator:
        tiling = Tiling(photos=8, threads=32, staged=8, ahead=2, wide=64, blocks=2, bins=64)
    monkeypatch.setattr(memory, "TILING", tiling)
    monkeypatch.setattr(memory, "_MEMORIES", {})
    return memory


@pytest.fixture(scope="session")
def make_photos() -> Callable[..., Photos]:
    """Return a function of (count, dim, seed) that makes photos of 0 to 39 descriptors; the fifth has none."""

    def make(count: int, dim: int = 128, seed: int = 0) -> Photos:
        rng = np.random.default_rng(seed)
        prototypes = rng.normal(size=(120, dim))
        photos = []
        for number in range(count):
            length = 0 if number == 4 else int(rng.integers(1, 40))
            chosen = prototypes[rng.integers(0, len(prototypes), length)]
            photos.append((chosen + 0.5 * rng.normal(size=chosen.shape)).astype(np.float32))
        return photos

    return make


@pytest.fixture(scope="session")
def make_codebook() -> Callable[..., Codebook]:
    """Return a function of (words, dim, seed) that makes a codebook of random centroids."""

    def make(words: int = 64, dim: int = 128, seed: int = 7) -> Codebook:
        return Codebook.from_centroids(np.random.default_rng(seed).normal(size=(words, dim)).astype(np.float32))

    return make


@pytest.fixture
def make_archive(tmp_path: Path, make_codebook: Callable[..., Codebook]) -> Callable[..., Path]:
    """Return a function of (photos, config, name, codebook) that writes an archive of photos "000", "001", ..."""

    def make(
        photos: Photos, config: IndexConfig | None = None, name: str = "archive", codebook: Codebook | None = None
    ) -> Path:
        path = tmp_path / name
        codebook = codebook or make_codebook(dim=photos[0].shape[1])
        with Index.create(path, codebook, config=config) as index:
            for number, vectors in enumerate(photos):
                index.add(f"{number:03d}", vectors)
        return path

    return make
