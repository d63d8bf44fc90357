"""Batches that do not fit into memory, and a limit of memory."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import BackendError, ConfigError, OutOfMemoryError
from ctxdeploy.runtime import BackendConfig, Extractor, ExtractorConfig, PhotoDescriptors, PhotoFailure, PhotoSource
from ctxdeploy.runtime import memory as memory_module
from ctxdeploy.runtime.backends.base import RunLimits, is_out_of_memory
from ctxdeploy.runtime.memory import MemoryGrowth, resident, share_memory

MakeBundle = Callable[..., Bundle]
MB = 1_000_000


def photos(*sizes: tuple[int, int]) -> list[PhotoSource]:
    made = []
    for number, (width, height) in enumerate(sizes):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        made.append(PhotoSource(name=f"{number}", data=file.getvalue()))
    return made


class Narrow:
    """An engine that takes so many pixels at once, and notes the batches that it is given."""

    def __init__(self, extractor: Extractor, most: int, error: Exception) -> None:
        self.batches: list[tuple[int, ...]] = []
        self._run, self._most, self._error = extractor._backend._run, most, error

    def __call__(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        self.batches.append(images.shape[:3])
        if np.prod(images.shape[:3]) > self._most:
            raise self._error
        return self._run(images)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("Failed to allocate memory for requested buffer of size 268435456"),
        RuntimeError("cudaMalloc: cudaErrorMemoryAllocation"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_a_batch_that_does_not_fit_is_halved(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    config = ExtractorConfig(batch_size=8, isolated=False)
    extractor = Extractor(make_bundle(), config=config)
    sizes = [(40, 20)] * 16 + [(60, 40)] * 8 + [(20, 20)] * 8
    expected = {result.name: result for result in extractor.extract(photos(*sizes))}
    narrow = Narrow(extractor, 3 * 40 * 20, error)
    monkeypatch.setattr(extractor._backend, "_run", narrow)
    results = list(extractor.extract(photos(*sizes)))
    assert narrow.batches[:6] == [(8, 20, 40), (4, 20, 40), (2, 20, 40), (2, 20, 40), (2, 20, 40), (2, 20, 40)]
    assert narrow.batches[6:10] == [(2, 20, 40)] * 4, "what did not fit is not tried again"
    assert narrow.batches[10] == (2, 40, 60), "nor for larger photos"
    assert narrow.batches[-3:] == [(8, 20, 20), (4, 20, 20), (4, 20, 20)], "smaller ones have their own number"
    assert extractor.statistics.halved_batches == len([b for b in narrow.batches if np.prod(b) > 2400 and b[0] > 1])
    assert sorted(result.name for result in results) == sorted(expected)
    for result in results:
        other = expected[result.name]
        assert isinstance(result, PhotoDescriptors) and isinstance(other, PhotoDescriptors)
        np.testing.assert_allclose(result.descriptors.vectors, other.descriptors.vectors, atol=1e-5)


def test_a_photo_that_does_not_fit_alone_fails_alone(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = Extractor(make_bundle(), config=ExtractorConfig(isolated=False))
    monkeypatch.setattr(extractor._backend, "_run", Narrow(extractor, 1000, MemoryError("Unable to allocate 9 GiB")))
    large, small = extractor.extract(photos((60, 40), (40, 20)))
    assert isinstance(large, PhotoFailure) and isinstance(small, PhotoDescriptors)
    assert large.stage == "network" and large.seconds > 0
    assert large.reason == (
        "the network has not enough memory for its 60×40 pixels (onnxruntime has not enough memory for an input of "
        "(1, 40, 60, 3): Unable to allocate 9 GiB)"
    )
    with pytest.raises(BackendError, match="not enough memory"):
        extractor.extract_one(photos((60, 40))[0])
    assert extractor.statistics.failed == 1


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_run_that_takes_more_than_it_may_fails_its_photo_alone(make_bundle: MakeBundle, name: str) -> None:
    # Four convolutions of 31×31 take a second or more on one core.
    engine = BackendConfig(name=name, threads=1)
    extractor = Extractor(make_bundle(image_size=1024, blurs=4), backend=engine, config=ExtractorConfig(isolated=False))
    extractor._backend.limits = RunLimits(seconds=0.05)
    (large,) = extractor.extract(photos((1024, 1024)))
    assert isinstance(large, PhotoFailure)
    assert large.reason == (
        "the network takes too long for its 1024×1024 pixels (it took longer than 0.05 s: raise --photo-timeout)"
    )
    extractor._backend.limits = RunLimits(memory=1 << 20)
    (large,) = extractor.extract(photos((1024, 1024)))
    assert isinstance(large, PhotoFailure)
    assert re.match(r"the network has not enough memory .*out of memory: [0-9,]+ MB are held of 1: raise", large.reason)
    extractor._backend.limits = RunLimits()
    assert all(isinstance(result, PhotoDescriptors) for result in extractor.extract(photos((64, 64), (40, 20))))


def test_the_limits_of_a_run_are_those_of_its_extractor(make_bundle: MakeBundle) -> None:
    config = ExtractorConfig(isolated=False, photo_timeout=7, memory_limit=1 << 40)
    assert Extractor(make_bundle(), config=config)._backend.limits == RunLimits(seconds=70, memory=1 << 40)


def test_other_failures_of_an_engine_are_not_about_memory() -> None:
    assert not is_out_of_memory(RuntimeError("Non-zero status code returned while running Reshape node"))
    assert is_out_of_memory(RuntimeError("CUDA failure 2: out of memory"))
    assert issubclass(OutOfMemoryError, BackendError)


TRUE_CHILD = """
import json, resource, sys
import numpy as np
from ctxdeploy.core import bundle
from ctxdeploy.runtime import BackendConfig, PhotoDescriptors, Extractor, ExtractorConfig, PhotoSource
from pathlib import Path
data = Path(sys.argv[2]).read_bytes()
config = ExtractorConfig(batch_size=8, isolated=False)
engine = BackendConfig(name=sys.argv[3], threads=1)
extractor = Extractor(bundle.open(sys.argv[1]), backend=engine, config=config)
photos = [PhotoSource(name=str(n), data=data) for n in range(8)]
list(extractor.extract(photos[:1]))
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) << 10
resource.setrlimit(resource.RLIMIT_DATA, (used + int(sys.argv[4]),) * 2)
results = list(extractor.extract(photos))
good = [result for result in results if isinstance(result, PhotoDescriptors)]
same = all(np.allclose(r.descriptors.vectors, good[0].descriptors.vectors, atol=1e-5) for r in good)
reasons = [result.reason for result in results if result not in good]
print(json.dumps([len(good), same, extractor.statistics.halved_batches, reasons]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone limits private memory")
@pytest.mark.parametrize(("engine", "spare"), [("onnxruntime", 180), ("openvino", 180)])
def test_memory_that_is_really_not_there(make_bundle: MakeBundle, engine: str, spare: int) -> None:
    bundle = make_bundle(image_size=1024)
    path = bundle.path / "p.png"
    Image.new("RGB", (1024, 1024), (9, 99, 199)).save(path)
    command = [sys.executable, "-c", TRUE_CHILD, str(bundle.path), str(path), engine, str(spare << 20)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    good, same, halved, reasons = json.loads(done.stdout.splitlines()[-1])
    assert (good, same, reasons) == (8, True, [])
    assert halved >= 1, "eight do not fit"


def test_a_limit_below_the_need_is_refused_at_the_start(make_bundle: MakeBundle) -> None:
    with pytest.raises(ConfigError, match=r"--memory-limit 50 MB is too little: the loaded model takes [\d,]+ MB"):
        Extractor(make_bundle(), config=ExtractorConfig(memory_limit=50 * MB))
    shares = share_memory(resident() + 1600 * MB, 2)
    assert 690 * MB < shares.network < 701 * MB
    assert 298 * MB < shares.worker < 301 * MB
    assert 198 * MB < shares.waiting < 201 * MB


@pytest.mark.parametrize("isolated", [True, False])
def test_extraction_within_a_limit(make_bundle: MakeBundle, isolated: bool) -> None:
    bundle = make_bundle(image_size=1024)
    limit = resident() + 700 * MB
    config = ExtractorConfig(batch_size=4, workers=2, isolated=isolated, memory_limit=limit)
    extractor = Extractor(bundle, config=config)
    settings = extractor._in_force
    waiting = (settings.lookahead + settings.max_pending) * 3 * 1024**2
    assert waiting <= 700 * MB / 8
    sources = photos(*[(64, 48)] * 9)
    if isolated:
        huge = io.BytesIO()
        Image.new("RGB", (9000, 9000)).save(huge, "PNG", compress_level=1)
        sources[4] = PhotoSource(name="huge", data=huge.getvalue())
    results = list(extractor.extract(sources))
    failures = [result for result in results if isinstance(result, PhotoFailure)]
    assert len(results) == 9
    assert [failure.name for failure in failures] == ["huge"] * isolated
    assert all("raise --memory-limit" in failure.reason for failure in failures)


def test_batches_grow_as_far_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    held = 1000
    monkeypatch.setattr(memory_module, "resident", lambda: held)
    growth = MemoryGrowth(800)
    assert growth.max_photos(10) == 1, "nothing is known yet"
    held = 1100
    growth.note(10)  # 10 bytes a pixel
    assert growth.max_photos(10) == 2, "at most twice the largest"
    held = 1200
    growth.note(20)
    assert growth.max_photos(10) == 4
    assert growth.max_photos(25) == 1
    held = 1400
    growth.note(40)
    assert growth.max_photos(10) == 8
    assert growth.max_photos(5) == 16
    held = 1700
    growth.note(50)  # 14 bytes a pixel
    assert growth.max_photos(10) == 5
    assert growth.max_photos(1000) == 1, "a photo alone is tried in any case"
