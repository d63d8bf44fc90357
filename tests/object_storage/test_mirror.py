"""Reading from object storage: what is kept here, how much, and that nobody sees half a state."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ctxdeploy.archive import archive_folder, open_state, read_pointer
from ctxdeploy.core.errors import ArchiveError, ConfigError
from ctxdeploy.index import Codebook, Index
from ctxdeploy.object_storage import download, mirror, stores
from ctxdeploy.object_storage.config import CacheConfig
from ctxdeploy.photo_index import PhotoIndex
from ctxdeploy.runtime.sources import RemoteConfig
from tests.reference.s3_proxy import DIM, SECRET, Bucket, Proxy, grow, send, vectors


def opened(url: str, at: str | int | None = None, cache: CacheConfig | None = None) -> Index:
    return open_state(archive_folder(url, cache=cache), at)


def fetched(proxy: Proxy) -> list[str]:
    return [path for method, path in proxy.requests if method == "GET" and "/files/" in path]


def answers(index: Index) -> list[tuple[str, float]]:
    return [(hit.name, hit.score) for hit in index.search(vectors("2"), top=10)]


def test_answers_are_those_of_the_archive(bucket: Bucket, archive: Path, proxy: Proxy) -> None:
    send(archive, bucket.url)
    with Index.open(archive) as here, opened(bucket.url) as there:
        assert answers(there) == answers(here) != []
        assert there.path != archive
        assert (there.path / "model" / "model.onnx").read_bytes() == (archive / "model" / "model.onnx").read_bytes()
    proxy.reset()
    with opened(bucket.url) as again:
        assert len(again) == 5
    assert [method for method, _ in proxy.requests] == ["HEAD"]


def test_a_newer_state_is_taken_as_a_whole(bucket: Bucket, archive: Path, proxy: Proxy) -> None:
    send(archive, bucket.url)
    with PhotoIndex.open(bucket.url) as photos:
        assert len(photos) == 5
        proxy.reset()
        assert not photos.refresh()
        assert proxy.requests == [("HEAD", "/photos/a.ctxindex/CURRENT")]
        with photos.reading() as former:
            grow(archive, 2)
            send(archive, bucket.url)
            proxy.reset()
            assert photos.refresh()
            assert len(fetched(proxy)) == 3  # manifest, shard, names
            assert len(former) == 5
            assert answers(former)
        assert len(photos) == 7


def test_an_unreachable_store_leaves_readers_where_they_are(bucket: Bucket, archive: Path, proxy: Proxy) -> None:
    send(archive, bucket.url)
    with PhotoIndex.open(bucket.url) as photos:
        grow(archive)
        send(archive, bucket.url)
        proxy.reset(lambda number, method, path: 503)
        with pytest.raises(ArchiveError, match=r"^s3://photos/a\.ctxindex/CURRENT cannot be read: .*503.*4 times$"):
            photos.refresh()
        assert len(photos) == 5
        proxy.reset()
        assert photos.refresh()
        assert len(photos) == 6


@pytest.mark.slow
@pytest.mark.parametrize("fault", [503, pytest.param("lost", marks=pytest.mark.long), "cut"])
def test_each_request_of_a_reader_fails(
    bucket: Bucket, archive: Path, proxy: Proxy, tmp_path: Path, fault: object
) -> None:
    """Once: it is tried again. From then on: an error, and the next attempt goes on."""
    send(archive, bucket.url)
    number, count = 0, 1
    while number < count:
        chosen = number
        config = CacheConfig(folder=tmp_path / "caches" / f"once-{number}")
        proxy.reset(lambda n, method, path, chosen=chosen: fault if n == chosen else None)
        with opened(bucket.url, cache=config) as index:
            assert len(index) == 5
        count, number = len(proxy.requests), number + 1
    assert number > 6
    for chosen in range(count - 1):
        config = CacheConfig(folder=tmp_path / "caches" / f"always-{chosen}")
        proxy.reset(lambda n, method, path, chosen=chosen: fault if n >= chosen else None)
        with pytest.raises(ArchiveError, match=r"^s3://photos/a\.ctxindex") as caught:
            opened(bucket.url, cache=config)
        assert SECRET not in str(caught.value)
        proxy.reset()
        with opened(bucket.url, cache=config) as index:
            assert len(index) == 5
            assert answers(index)


def test_a_silent_server_is_given_up(
    bucket: Bucket, archive: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(archive, bucket.url)
    hasty = RemoteConfig(attempts=2, backoff=0.001, timeout=0.5)
    monkeypatch.setattr(mirror, "open_objects", lambda url: stores.open_objects(url, hasty))
    mirror._objects.cache_clear()
    proxy.reset(lambda number, method, path: "silence")
    with pytest.raises(
        ArchiveError, match=r"^s3://photos/a\.ctxindex/CURRENT cannot be read: .*within 0\.5 s, 2 times$"
    ):
        opened(bucket.url)


def test_a_large_file_goes_on_where_it_was(
    bucket: Bucket, archive: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = np.random.default_rng(0).bytes(100_000)
    (archive / "model" / "model.onnx").write_bytes(data)
    send(archive, bucket.url)
    monkeypatch.setattr(download, "PIECE", 10_000)
    large = {"bytes=50000-59999"}
    proxy.reset(lambda n, method, path: 500 if proxy.ranges[n] in large else None)
    with pytest.raises(ArchiveError, match="answered 500"):
        opened(bucket.url)
    proxy.reset()
    with opened(bucket.url) as index:
        assert (index.path / "model" / "model.onnx").read_bytes() == data
    assert sorted(text for text in proxy.ranges if text.endswith("9999")) == [
        f"bytes={start}-{start + 9999}" for start in range(50_000, 100_000, 10_000)
    ]


def test_what_is_damaged_there(bucket: Bucket, archive: Path) -> None:
    send(archive, bucket.url)
    shard = next((archive / "shards").iterdir())
    bucket.put(f"a.ctxindex/files/{shard.stem}", b"x" * shard.stat().st_size)
    with pytest.raises(ArchiveError, match=rf"files/{shard.stem} \(shards/.*is damaged there.*push --check"):
        opened(bucket.url)
    send(archive, bucket.url, check=True)
    with opened(bucket.url) as index:
        assert len(index) == 5


def test_what_is_missing_there(bucket: Bucket, archive: Path) -> None:
    send(archive, bucket.url)
    shard = next((archive / "shards").iterdir())
    bucket.delete(f"a.ctxindex/files/{shard.stem}")
    with pytest.raises(ArchiveError, match=rf"files/{shard.stem} is not there"):
        opened(bucket.url)
    with pytest.raises(ArchiveError, match=r"^s3://photos/none is not an archive"):
        opened("s3://photos/none")


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _flip_unseen(path: Path) -> None:
    """Change a byte of the header, which opening reads, as a failing disk does: times stay."""
    found = path.stat()
    data = bytearray(path.read_bytes())
    data[9] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def _cut(path: Path) -> None:
    found = path.stat()
    path.write_bytes(path.read_bytes()[:-1])
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize(
    "file", ["shards/*", "names/*", "model/model.onnx", "codebook.safetensors", "manifest-*", "origin.json"]
)
@pytest.mark.parametrize("damage", [_flip, _cut, Path.unlink], ids=["flipped", "cut", "gone"])
def test_what_is_damaged_here_is_fetched_again(
    bucket: Bucket, archive: Path, proxy: Proxy, file: str, damage: Callable[[Path], None]
) -> None:
    (archive / "origin.json").write_text("{}")
    send(archive, bucket.url)
    with opened(bucket.url) as index:
        (path,) = index.path.glob(file)
    sound = path.read_bytes()
    damage(path)
    proxy.reset()
    with opened(bucket.url) as index:
        assert len(index) == 5
        assert answers(index)
    assert path.read_bytes() == sound
    assert len(fetched(proxy)) == 1


def test_a_failing_disk_is_seen_when_it_is_opened(bucket: Bucket, archive: Path, proxy: Proxy) -> None:
    send(archive, bucket.url)
    with opened(bucket.url) as index:
        (path,) = index.path.glob("shards/*")
    sound = path.read_bytes()
    _flip_unseen(path)
    proxy.reset()
    with opened(bucket.url) as index:
        assert answers(index)
    assert path.read_bytes() == sound
    assert len(fetched(proxy)) == 1


def size_of(url: str) -> int:
    """Return the bytes that an archive has here."""
    with opened(url) as index:
        return sum(path.stat().st_size for path in index.path.rglob("*") if path.is_file())


@pytest.fixture
def three(bucket: Bucket, codebook: Codebook, tmp_path: Path) -> list[str]:
    """Publish three archives of the same size."""
    urls = []
    for name in "abc":
        folder = tmp_path / "three" / f"{name}.ctxindex"
        with Index.create(folder, codebook) as index:
            for number in range(40):
                index.add(f"{name}{number:02d}.jpg", vectors(f"{name}{number}"))
        urls.append(f"s3://photos/{name}.ctxindex")
        send(folder, urls[-1])
    return urls


def kept(cache: Path) -> set[str]:
    return {path.parents[1].name[:1] for path in cache.glob("*/*/shards/*")}


def test_what_was_not_used_for_the_longest_time_goes_first(three: list[str], tmp_path: Path) -> None:
    cache = CacheConfig(folder=tmp_path / "small", size=int(size_of(three[0]) * 2.5))
    for number, url in enumerate([three[0], three[1], three[0], three[2]]):
        with opened(url, cache=cache) as index:
            assert len(index) == 40
            manifest = index.path / "manifest-000001.json"
        # A test takes less time than a clock may resolve.
        os.utime(manifest, (number + 1, number + 1))
    assert kept(cache.path) == {"a", "c"}
    with opened(three[1], cache=cache) as index:
        assert len(index) == 40
    assert kept(cache.path) == {"b", "c"}


def test_what_is_open_stays(three: list[str], tmp_path: Path) -> None:
    cache = CacheConfig(folder=tmp_path / "small", size=int(size_of(three[0]) * 1.5))
    with opened(three[0], cache=cache) as index:
        before = answers(index)
        with pytest.raises(
            ConfigError, match=r"s3://photos/b\.ctxindex needs \d+KB more .* that cannot go: give  --cache-size \d+KB"
        ):
            opened(three[1], cache=cache)
        assert answers(index) == before
        assert kept(cache.path) == {"a"}
        assert len(list(index.path.glob("shards/*"))) == 1
    with opened(three[1], cache=cache) as index:
        assert len(index) == 40
    assert kept(cache.path) == {"b"}
    assert not list(cache.path.glob("*/*/.tmp-*"))


def test_a_cache_that_is_smaller_than_the_state(bucket: Bucket, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    send(archive, bucket.url)
    monkeypatch.setenv("CTXDEPLOY_CACHE_SIZE", "3KB")
    with pytest.raises(ConfigError, match=r"^s3://photos/a\.ctxindex needs .* may have 3KB .*CTXDEPLOY_CACHE_SIZE"):
        opened(bucket.url)
    # What the message says is enough.
    monkeypatch.setenv("CTXDEPLOY_CACHE_SIZE", "20KB")
    with opened(bucket.url) as index:
        assert len(index) == 5
    monkeypatch.setenv("CTXDEPLOY_CACHE_SIZE", "much")
    with pytest.raises(ConfigError, match="CTXDEPLOY_CACHE_SIZE 'much' is not an amount"):
        opened(bucket.url)


def test_former_states_make_room_for_the_newest(bucket: Bucket, archive: Path, tmp_path: Path) -> None:
    send(archive, bucket.url)
    cache = CacheConfig(folder=tmp_path / "small", size=60_000)
    for _ in range(12):
        with opened(bucket.url, cache=cache) as index:
            assert len(index) >= 5
        grow(archive, 20)
        with Index.open(archive, writable=True) as index:
            index.compact()
            index.collect_garbage()
        send(archive, bucket.url)
        bytes_here = sum(path.stat().st_size for path in cache.path.rglob("*") if path.is_file())
        assert bytes_here <= 60_000


def test_files_of_one_content_are_fetched_once(bucket: Bucket, archive: Path, proxy: Proxy) -> None:
    send(archive, bucket.url)
    send(archive, "s3://photos/b.ctxindex")
    opened(bucket.url).close()
    proxy.reset()
    with opened("s3://photos/b.ctxindex") as index:
        assert answers(index)
        assert next(index.path.glob("shards/*")).stat().st_nlink == 2
    shard = next((archive / "shards").iterdir())
    assert not [path for path in fetched(proxy) if shard.stem in path]


def test_threads_and_processes_fetch_once(bucket: Bucket, archive: Path, proxy: Proxy) -> None:
    send(archive, bucket.url)
    proxy.reset()
    with ThreadPoolExecutor(8) as pool:
        opened_all = list(pool.map(lambda _: opened(bucket.url), range(8)))
    assert {len(index) for index in opened_all} == {5}
    for index in opened_all:
        index.close()
    paths = fetched(proxy)
    assert len(paths) == len(set(paths)) == 6


def test_readers_see_whole_states_while_others_are_published(bucket: Bucket, archive: Path, tmp_path: Path) -> None:
    """State n has 4 + n photos: each opened state is one of them, and they never go back."""
    send(archive, bucket.url)
    done = threading.Event()

    def read(number: int) -> list[int]:
        cache = CacheConfig(folder=tmp_path / "readers" / str(number % 2))
        seen = []
        while True:
            last = done.is_set()
            with opened(bucket.url, cache=cache) as index:
                state = index.state.manifest.number
                assert len(index) == len(set(index.names())) == 4 + state
                assert len(index.search(vectors("2"), top=100)) <= len(index)
                seen.append(state)
            if last:
                return seen

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read, number) for number in range(4)]
        for _ in range(8):
            grow(archive)
            send(archive, bucket.url)
        done.set()
        for reader in readers:
            seen = reader.result()
            assert seen == sorted(seen)
            assert seen[-1] == 9


def test_it_is_only_read(bucket: Bucket, archive: Path, tmp_path: Path) -> None:
    send(archive, bucket.url)
    advice = (
        r"^s3://photos/a\.ctxindex is read only here: add photos with  ctxdeploy index PLACE -o s3://photos/a\.ctxindex"
    )
    for given in (bucket.url, archive_folder(bucket.url)):
        with pytest.raises(ArchiveError, match=advice):
            PhotoIndex.open(given, writable=True)
        with pytest.raises(ArchiveError, match=advice):
            PhotoIndex.create(given)
    with PhotoIndex.open(bucket.url) as photos, pytest.raises(ArchiveError, match="opened for reading"):
        photos.remove("0.jpg")


def test_snapshots(bucket: Bucket, archive: Path) -> None:
    with Index.open(archive, writable=True) as index:
        index.snapshot("before")
    grow(archive, 3)
    send(archive, bucket.url)
    with opened(bucket.url, at="before") as index:
        assert len(index) == 5
    with opened(bucket.url) as index:
        assert len(index) == 8
        assert [info.name for info in index.snapshots()] == ["before"]
    with opened(bucket.url, at=1) as index:
        assert len(index) == 5
    with pytest.raises(ConfigError, match="no snapshot 'after'"):
        opened(bucket.url, at="after")
    with pytest.raises(ArchiveError, match="has no state 7"):
        opened(bucket.url, at="7")


def test_a_service_moves_on(bucket: Bucket, archive: Path, proxy: Proxy) -> None:
    pytest.importorskip("fastapi")
    from ctxdeploy.service.archives import ServedArchive
    from ctxdeploy.service.config import ArchivePlace

    send(archive, bucket.url)
    served = ServedArchive(ArchivePlace(path=archive_folder(bucket.url)))
    try:
        assert served.name == "a"
        assert not served.look()
        grow(archive)
        send(archive, bucket.url)
        proxy.reset(lambda number, method, path: 503 if "/files/" in path else None)
        assert not served.look()
        assert served.stale is not None
        assert len(served.photos) == 5
        proxy.reset()
        assert served.look()
        assert (served.stale, len(served.photos)) == (None, 6)
    finally:
        served.close()


def test_pointers(bucket: Bucket, archive: Path) -> None:
    send(archive, bucket.url)
    folder = archive_folder(bucket.url)
    first = read_pointer(folder)
    assert first == bucket.get("a.ctxindex/CURRENT")
    grow(archive)
    send(archive, bucket.url)
    assert read_pointer(folder) != first
    assert read_pointer(archive) == (archive / "CURRENT").read_bytes()
    assert DIM == 16
