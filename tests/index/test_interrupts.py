"""Additions survive what happens between two statements: interrupts, failed syncs, other threads, a fork."""

import multiprocessing
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy.core import files as storage
from ctxdeploy.core.errors import ArchiveError, ConfigError, StorageError
from ctxdeploy.index import Codebook, Index, IndexConfig, writer


def _interrupted_at(line_count: int, work: Callable[[], None]) -> bool:
    """Raise KeyboardInterrupt at the n-th line of writer.py or shard.py that ``work`` runs; return whether it came."""
    seen = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal seen
        if Path(frame.f_code.co_filename).name not in ("writer.py", "shard.py"):
            return None
        if event == "line":
            seen += 1
            if seen == line_count:
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


def test_ctrl_c_at_any_line_leaves_every_photo_once_or_for_the_next_run(
    tmp_path: Path, make_photos: Any, make_codebook: Callable[..., Codebook]
) -> None:
    photos = make_photos(6)
    codebook = make_codebook()
    number = interrupted = 0
    while True:
        number += 7
        path = tmp_path / str(number)
        index = Index.create(path, codebook, config=IndexConfig(shard_images=2))

        def work(index: Index = index) -> None:
            for i, vectors in enumerate(photos):
                index.add(f"{i}", vectors)
                if i == 2:
                    index.commit()
            index.commit()

        stopped = _interrupted_at(number, work)
        index.commit()
        index.close()
        with Index.open(path, writable=True) as again:
            names = list(again.names())
            assert len(names) == len(set(names)) == len(again)
            for i, vectors in enumerate(photos):
                if f"{i}" not in again:
                    again.add(f"{i}", vectors)
        with Index.open(path) as done:
            assert sorted(done.names()) == [str(i) for i in range(6)]
            assert done.verify() == []
        interrupted += stopped
        if not stopped:
            break
    assert interrupted > 20


def test_a_failed_last_sync_and_garbage_collection_keep_the_archive(
    make_photos: Any, make_archive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = make_photos(4)
    path = make_archive(photos[:2])
    with Index.open(path, writable=True) as index:
        index.add("new", photos[2])
        real = storage.sync_folder
        calls = 0

        def failing(folder: Path) -> None:
            nonlocal calls
            calls += 1
            if calls == 4:  # names, shard, manifest, and now CURRENT, which has been replaced already
                raise StorageError("the disk went away")
            real(folder)

        monkeypatch.setattr(storage, "sync_folder", failing)
        with pytest.raises(StorageError):
            index.commit()
        monkeypatch.undo()
        index.collect_garbage()
        with Index.open(path) as reader:
            assert list(reader.names()) == ["000", "001", "new"]
        index.add("more", photos[3])
        index.commit()
        index.collect_garbage()
    with Index.open(path) as reader:
        assert list(reader.names()) == ["000", "001", "new", "more"]
        assert reader.verify() == []


def test_adding_and_searching_in_threads(make_photos: Any, make_archive: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = make_photos(60)
    path = make_archive(photos[:1])
    errors: list[BaseException] = []
    stop = threading.Event()
    with Index.open(path, writable=True, threads=2) as index:

        def search() -> None:
            try:
                while not stop.is_set():
                    index.search(photos[1], 3)
            except BaseException as error:
                errors.append(error)

        searchers = [threading.Thread(target=search) for _ in range(3)]
        for thread in searchers:
            thread.start()
        for number, vectors in enumerate(photos[1:], 1):
            index.add(f"{number:03d}", vectors)
        stop.set()
        for thread in searchers:
            thread.join(600)
    assert errors == []
    with Index.open(path) as reader:
        assert list(reader.names()) == [f"{number:03d}" for number in range(60)]
        assert reader.verify() == []


def test_a_large_pending_shard_is_written_early(
    make_photos: Any, make_archive: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = make_photos(12)
    whole = make_archive(photos, name="whole")
    monkeypatch.setattr(writer, "MAX_PENDING_BYTES", 1000)
    early = make_archive(photos, name="early")
    with Index.open(whole) as a, Index.open(early) as b:
        assert b.info()["shards"] > a.info()["shards"] == 1
        assert [a.search(photo, 12) for photo in photos] == [b.search(photo, 12) for photo in photos]


def _hold(started: Any, end: Any) -> None:
    started.set()
    end.wait(600)


def test_a_forked_child_does_not_keep_the_lock(make_photos: Any, make_archive: Any) -> None:
    path = make_archive(make_photos(2))
    context = multiprocessing.get_context("fork")
    started, end = context.Event(), context.Event()
    index = Index.open(path, writable=True)
    child = context.Process(target=_hold, args=(started, end))
    child.start()
    try:
        assert started.wait(600)
        index.close()
        Index.open(path, writable=True).close()
    finally:
        end.set()
        child.join(600)


def test_descriptors_beyond_float32s_squares_are_refused_and_harm_nothing(make_photos: Any, make_archive: Any) -> None:
    photos = make_photos(3)
    path = make_archive(photos[:1])
    with Index.open(path, writable=True) as index:
        index.add("good", photos[1])
        with pytest.raises(ConfigError, match=r"huge: descriptor 1 holds .* beyond 1e\+15"):
            index.add("huge", np.array([np.ones(128), np.full(128, 1e19)]))
        index.add("large", np.full((1, 128), 1e14))
    with Index.open(path) as index:
        assert list(index.names()) == ["000", "good", "large"]


@pytest.mark.parametrize("top", ["3", 1.5, None, True])
def test_top_is_a_whole_number(top: Any, make_photos: Any, make_archive: Any) -> None:
    photos = make_photos(2)
    with Index.open(make_archive(photos)) as index, pytest.raises(ConfigError, match="--top"):
        index.search(photos[0], top)


def test_any_number_of_hits_may_be_asked_for(make_photos: Any, make_archive: Any) -> None:
    photos = make_photos(3)
    with Index.open(make_archive(photos)) as index:
        assert index.search(photos[0], 1 << 70) == index.search(photos[0], np.int64(3))


def test_failures_of_a_reader_stay_when_others_write(make_photos: Any, make_archive: Any) -> None:
    path = make_archive(make_photos(1))
    record = {"name": "bad", "reason": "cut", "stage": "decode"}
    with Index.open(path, writable=True) as index:
        index.record_failures([record])
    with Index.open(path) as reader, Index.open(path, writable=True) as other:
        other.forget_failures(["bad"])
        other.commit()
        other.collect_garbage()
        assert reader.failures() == [record]
        assert other.failures() == []
    with pytest.raises(ArchiveError, match="is closed"):
        other.commit()
