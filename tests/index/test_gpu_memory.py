"""What lies in the memory of a GPU, or a simulated one: what is copied, and what comes when it fails or is full."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy.core.device import Device, gpu_present
from ctxdeploy.core.errors import ArchiveError, BackendError, ConfigError, MissingExtraError
from ctxdeploy.core.part import Part
from ctxdeploy.core.progress import Display
from ctxdeploy.index import Index, IndexConfig, SearchDevice
from ctxdeploy.photo_index import PhotoIndex

GPU = Device.parse("cuda:0")


@pytest.fixture
def sent(small_gpu: Any, monkeypatch: Any) -> list[str]:
    """The files of shards that were copied to the GPU."""
    from ctxdeploy.index.gpu import pool

    names: list[str] = []
    fill = pool.fill_pool

    def counting(shards: Any, *others: Any) -> Any:
        names.extend(shard.path.name for shard in shards)
        return fill(shards, *others)

    monkeypatch.setattr(small_gpu, "fill_pool", counting)
    return names


def shards_of(index: Index) -> list[str]:
    return [shard.path.name for shard in index.state.shards]


def test_only_new_shards_are_copied(
    sent: list[str], small_gpu: Any, make_photos: Any, make_archive: Any, monkeypatch: Any
) -> None:
    photos = make_photos(12)
    path = make_archive(photos[:6], IndexConfig(shard_images=4))
    opened = [Index.open(path, device="cuda:0")]
    assert sent == shards_of(opened[0])
    again = Index.open(path, device="cuda:0")
    assert len(sent) == 2
    again.close()
    for number in (6, 7, 8):
        before = len(sent)
        with Index.open(path, writable=True) as index:
            index.add(f"{number:03d}", photos[number])
            index.remove([f"{number - 6:03d}"])
        opened.append(Index.open(path, device="cuda:0"))
        assert sent[before:] == shards_of(opened[-1])[-1:]
        with Index.open(path) as cpu:
            assert opened[-1].search_batch(photos[:3], 5) == cpu.search_batch(photos[:3], 5)
    # What the first state held is there for the others, without it.
    opened.pop(0).close()
    assert opened[-1].search(photos[8], 1)[0].name == "008"
    monkeypatch.setattr(small_gpu, "MOST_POOLS", 2)
    with Index.open(path, writable=True) as index:
        index.add("009", photos[9])
    before = len(sent)
    with Index.open(path, device="cuda:0") as index:
        # All but the largest pool became one.
        assert sent[before:] == shards_of(index)[2:]
        assert index.search(photos[9], 1)[0].name == "009"
    for one in opened:
        one.close()


def test_memory_is_given_back(small_gpu: Any, make_photos: Any, make_archive: Any) -> None:
    path = make_archive(make_photos(6))
    with Index.open(path, device="cuda:0"):
        assert len(small_gpu.gpu_memory(0)._shards) == 1
    assert len(small_gpu.gpu_memory(0)._shards) == 0


def test_what_does_not_fit_is_refused(small_gpu: Any, make_photos: Any, make_archive: Any, monkeypatch: Any) -> None:
    path = make_archive(make_photos(6))
    monkeypatch.setattr(small_gpu.GpuMemory, "free_bytes", lambda self: 2**29)
    with pytest.raises(BackendError, match=r"6 photos need 0\.\d GiB on cuda:0, which has 0\.5 GiB left: .*--shards"):
        Index.open(path, device="cuda:0")
    assert Index.open(path).search(make_photos(6)[1], 1)


def test_a_state_that_has_grown_too_large_is_searched_on_the_cpu(
    small_gpu: Any, make_photos: Any, make_archive: Any, monkeypatch: Any, capsys: Any
) -> None:
    photos = make_photos(8)
    path = make_archive(photos[:6])
    Display(quiet=False)
    device = SearchDevice("cuda:0")
    with Index.open(path) as index:
        device.take(index)
        with Index.open(path, writable=True) as writer:
            writer.add("006", photos[6])
        monkeypatch.setattr(small_gpu.GpuMemory, "free_bytes", lambda self: 0)
        with Index.open(path) as newer:
            device.take(newer)
            assert (index.device, newer.device) == ("cuda:0", "cpu")
            assert [opened.search_place.device for opened in (index, newer)] == ["cuda:0", "cpu"]
            assert "of the CPU for what is not done there" in index.search_place.label
            assert newer.search(photos[6], 1)[0].name == "006"
    assert "searched on the CPU" in capsys.readouterr().err


class CudaError(Exception):
    """An error of the driver, as numba and cuda-bindings raise them."""


CudaError.__module__ = "numba.cuda.cudadrv.driver"


@pytest.fixture
def failing(small_gpu: Any, monkeypatch: Any) -> Callable[[str], None]:
    """Return a function after which every launch of the loop that scores fails, with this text."""

    def fail(text: str) -> None:
        class Launch:
            def __getitem__(self, grid: Any) -> Any:
                raise CudaError(text)

        made = small_gpu.GpuMemory.loops

        def loops(self: Any, columns: int) -> Any:
            whole = made(self, columns)
            return type(whole)(**{**vars(whole), "score": Launch()})

        monkeypatch.setattr(small_gpu.GpuMemory, "loops", loops)

    return fail


def test_the_cpu_goes_on_where_a_gpu_fails(
    small_gpu: Any, failing: Any, make_photos: Any, make_archive: Any, capsys: Any, monkeypatch: Any
) -> None:
    photos = make_photos(6)
    path = make_archive(photos)
    Display(quiet=False)
    with Index.open(path) as cpu, Index.open(path, device="cuda:0") as index, Index.open(path, device="cuda") as other:
        expected = cpu.search_batch(photos, 3)
        failing("[700] Call to cuLaunchKernel results in CUDA_ERROR_ILLEGAL_ADDRESS")
        assert index.search_batch(photos, 3) == expected and index.device == "cpu"
        # A context that failed fails for all.
        monkeypatch.undo()
        assert other.search_batch(photos, 3) == expected and other.device == "cpu"
    said = capsys.readouterr().err
    assert said.count("searches run on the CPU from now on") == 1 and "CUDA_ERROR_ILLEGAL_ADDRESS" in said


def test_lack_of_memory_is_no_failure_of_the_gpu(
    small_gpu: Any, failing: Any, make_photos: Any, make_archive: Any
) -> None:
    photos = make_photos(6)
    path = make_archive(photos)
    with Index.open(path) as cpu, Index.open(path, device="cuda:0") as index:
        failing("Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY")
        assert index.search_batch(photos, 3) == cpu.search_batch(photos, 3) and index.device == "cpu"
        assert list(index.search_all(2)) == list(cpu.search_all(2))
    assert not small_gpu.gpu_memory(0).failed


def test_a_gpu_that_has_failed_is_refused(small_gpu: Any, make_photos: Any, make_archive: Any) -> None:
    path = make_archive(make_photos(6))
    small_gpu.gpu_memory(0).failed = "cuda:0 has failed (for a test)"
    with pytest.raises(BackendError, match=r"cuda:0 has failed .*leave out --search-device"):
        Index.open(path, device="cuda:0")


def test_what_was_interrupted_leaves_nothing_behind(
    small_gpu: Any, make_photos: Any, make_archive: Any, monkeypatch: Any
) -> None:
    from ctxdeploy.index.gpu.searcher import GpuPostings

    photos = make_photos(9)
    with Index.open(make_archive(photos)) as index:
        expected = index.search(photos[1], 2)
        index.search_on(GPU)
        assert index.search(photos[1], 2) == expected
        hits = GpuPostings._hits

        def interrupted(self: Any, *arguments: Any) -> Any:
            memory = small_gpu.gpu_memory(0)
            memory._work["histogram"].copy_to_device(np.full(memory._work["histogram"].size, 9, np.int32))
            raise KeyboardInterrupt

        monkeypatch.setattr(GpuPostings, "_hits", interrupted)
        with pytest.raises(KeyboardInterrupt):
            index.search(photos[1], 2)
        monkeypatch.setattr(GpuPostings, "_hits", hits)
        assert index.search(photos[1], 2) == expected and index.device == "cuda:0"


def test_damaged_postings_are_not_read_out_of_bounds(small_gpu: Any, make_photos: Any, make_archive: Any) -> None:
    photos = make_photos(14)
    path = make_archive(photos)
    (file,) = (path / "shards").glob("*.safetensors")
    data = bytearray(file.read_bytes())
    length = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8 : 8 + length])["images"]["data_offsets"]
    data[8 + length + begin : 8 + length + end] = np.random.default_rng(0).bytes(end - begin)
    file.write_bytes(data)
    with Index.open(path, device="cuda:0") as index:
        index.search_batch(photos[:3], 5)  # a place outside of an array raises here
        assert index.device == "cuda:0"


def test_what_a_gpu_cannot_search_is_refused(
    small_gpu: Any, make_photos: Any, make_archive: Any, tmp_path: Path
) -> None:
    floats = make_archive(make_photos(3), IndexConfig(binary=False), "floats")
    with pytest.raises(ConfigError, match="float residuals"):
        Index.open(floats, device="cuda:0")
    with Index.create(tmp_path / "global", None, config=IndexConfig(global_vectors="fp32", global_dim=8)) as index:
        index.add("a", None, global_descriptor=np.eye(8)[0])
    with pytest.raises(ConfigError, match="global vectors alone"):
        Index.open(tmp_path / "global", device="cuda:0")
    path = make_archive(make_photos(3))
    with pytest.raises(ConfigError, match="while it is written"):
        Index.open(path, writable=True, device="cuda:0")
    with pytest.raises(ConfigError, match=r"--search-device 'gpu' is unknown"):
        Index.open(path, device="gpu")
    nobody: Any = object()
    with pytest.raises(ConfigError, match="their servers"):
        PhotoIndex.open(path, shards=nobody, device="cuda:0")
    with pytest.raises(ArchiveError, match="closed"):
        index.search_on(GPU)


def test_photo_index_moves_on_to_new_states(
    small_gpu: Any, sent: list[str], make_photos: Any, make_archive: Any
) -> None:
    photos = make_photos(7)
    path = make_archive(photos[:6])
    with PhotoIndex.open(path, device="cuda:0") as opened:
        with opened.reading() as index:
            assert index.device == "cuda:0"
        with Index.open(path, writable=True) as writer:
            writer.add("006", photos[6])
        assert opened.refresh() and len(sent) == 2
        with opened.reading() as index:
            assert index.device == "cuda:0" and index.search_batch([photos[6]], 1)[0][0].name == "006"


def test_shard_servers_and_services_take_a_device(
    small_gpu: Any, sent: list[str], make_photos: Any, make_archive: Any
) -> None:
    from ctxdeploy.service import ServiceConfig
    from ctxdeploy.service.archives import Archives
    from ctxdeploy.service.part_service import Parts
    from ctxdeploy.service.shard_config import ShardingConfig

    path = make_archive(make_photos(7), IndexConfig(shard_images=4))
    with Index.open(path) as index:
        first, second = shards_of(index)
    config = ServiceConfig(search_device="cuda:0", refresh_seconds=3600.0)
    parts = Parts([path], Part(number=2, count=2), config)
    assert sent == [second]
    archives = Archives([path], config)
    (served,) = archives
    with served.photos.reading() as opened:
        assert isinstance(opened, Index) and opened.device == "cuda:0"
    assert sent == [second, first]
    archives.close()
    parts.close()
    with pytest.raises(ConfigError, match="give it to the shard servers"):
        ServiceConfig(search_device="cuda", sharding=ShardingConfig(shard=("http://127.0.0.1:1",)))


def test_numba_cuda_is_named_where_it_is_not_there(make_photos: Any, make_archive: Any, monkeypatch: Any) -> None:
    path = make_archive(make_photos(3))
    monkeypatch.setitem(sys.modules, "numba.cuda", None)
    with pytest.raises(MissingExtraError, match=r"numba-cuda is not installed: run  pip .*cuda"):
        Index.open(path, device="cuda:0")


@pytest.mark.skipif(gpu_present() is not None, reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(make_photos: Any, make_archive: Any, tmp_path: Path) -> None:
    path = make_archive(make_photos(3))
    command = [
        sys.executable,
        "-m",
        "ctxdeploy",
        "pairs",
        path,
        "-o",
        tmp_path / "pairs.txt",
        "--search-device",
        "cuda:1",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 13 and len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr
    assert (
        done.stderr.startswith("ctxdeploy: error: --search-device cuda:1: ") and not (tmp_path / "pairs.txt").exists()
    )


def test_a_search_on_the_cpu_loads_nothing_of_it(make_photos: Any, make_archive: Any) -> None:
    path = make_archive(make_photos(3))
    code = (
        "import sys; from ctxdeploy.photo_index import PhotoIndex\n"
        f"with PhotoIndex.open({str(path)!r}) as photos, photos.reading() as index: index.prepare()\n"
        "print(*[name for name in sys.modules if name.startswith(('numba.cuda', 'ctxdeploy.index.gpu'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
