"""What is read by threads of this process holds a bounded number of bytes, and everything comes in some time."""

import io
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from queue import SimpleQueue

import pytest
from PIL import Image

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.types import FileState, PhotoDescriptors
from ctxdeploy.runtime import Extractor, ExtractorConfig
from ctxdeploy.runtime.decode.decode import TooLargeError
from ctxdeploy.runtime.memory import share_memory
from ctxdeploy.runtime.photo import PhotoFailure, PhotoReader, PhotoSource, WorkItem
from ctxdeploy.runtime.reading import ReadingRoom, ReadPool


@dataclass(kw_only=True)
class Known:
    """Reads bytes whose number is known, as that of a member of a tar file is."""

    data: bytes
    limits: list[int] = field(default_factory=list)

    def read(self) -> bytes:
        return self.data

    def state(self) -> FileState | None:
        return FileState(size=len(self.data), mtime_ns=1)


@dataclass(kw_only=True)
class Unknown(Known):
    """Reads bytes whose number a server may tell when it is asked."""

    told: bool = False

    def read_at_most(self, limit: int) -> bytes:
        self.limits.append(limit)
        if len(self.data) > limit:
            raise TooLargeError(limit, len(self.data) if self.told else None)
        return self.data

    def state(self) -> FileState | None:
        return None


def item(reader: PhotoReader) -> WorkItem:
    return WorkItem(source=PhotoSource(name="photo", reader=reader), file=reader.state())


class Pool(ReadPool):
    """A pool whose photos are waited for."""

    def __init__(self, total: int, threads: int = 4) -> None:
        self.came: SimpleQueue[WorkItem] = SimpleQueue()
        super().__init__(threads, 60.0, ReadingRoom(total), self.came.put)

    def next(self) -> WorkItem:
        return self.came.get(timeout=60)


def test_who_wants_more_than_is_left_waits_and_that_is_not_his_time() -> None:
    readers = Pool(100)
    readers.submit(item(Known(data=bytes(40))))
    first = readers.next()
    assert first.room == 80, "packed and unpacked"
    readers.submit(item(Unknown(data=bytes(70), told=True)))
    readers.submit(item(Unknown(data=bytes(1))))
    for _ in range(3):
        readers.advance(1000.0)
    assert readers.came.empty()
    readers.release(first)
    readers.release(first)
    second = readers.next()
    readers.release(second)
    third = readers.next()
    assert {len(second.content or b""), len(third.content or b"")} == {70, 1}
    readers.close()


@pytest.mark.parametrize(("told", "limits"), [(True, [4 << 20, 50 << 20]), (False, [4 << 20, 32 << 20, 100 << 20])])
def test_a_photo_of_unknown_size_is_asked_for_again(told: bool, limits: list[int]) -> None:
    readers, reader = Pool(100 << 20), Unknown(data=bytes(50 << 20), told=told)
    readers.submit(item(reader))
    found = readers.next()
    assert found.content == reader.data and reader.limits == limits
    readers.release(found)
    readers.close()


@pytest.mark.parametrize(
    "reader", [Known(data=bytes(101)), Unknown(data=bytes(101)), Unknown(data=bytes(101), told=True)]
)
def test_a_photo_for_which_there_is_no_room(reader: PhotoReader) -> None:
    readers = Pool(100)
    readers.submit(item(reader))
    failure = readers.next().result
    assert isinstance(failure, PhotoFailure)
    assert failure.stage == "memory" and failure.reason.endswith("there are to read it: raise --memory-limit")
    readers.close()


def test_closing_sends_away_who_waits() -> None:
    before = threading.active_count()
    readers = Pool(100)
    readers.submit(item(Known(data=bytes(50))))
    readers.next()
    for _ in range(3):
        readers.submit(item(Known(data=bytes(50))))
    readers.close()
    for thread in threading.enumerate():
        if thread.name.startswith("ctxdeploy-read"):
            thread.join(60)
    assert threading.active_count() <= before


def test_many_large_photos_come_one_after_the_other(make_bundle: Callable[[], Bundle]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40), (200, 30, 90)).save(buffer, "JPEG")
    jpeg = buffer.getvalue()
    extractor = Extractor(make_bundle(), config=ExtractorConfig(workers=2, read_threads=8))
    extractor._decoding = replace(extractor._decoding, reading=3 * len(jpeg))
    photos = [PhotoSource(name=str(n), reader=(Unknown if n % 2 else Known)(data=jpeg)) for n in range(24)]
    results = list(extractor.extract(photos))
    assert [result.name for result in results] == [photo.name for photo in photos]
    assert all(isinstance(result, PhotoDescriptors) for result in results)


def test_a_limit_of_memory_is_for_what_is_read_too() -> None:
    shares = share_memory(8 << 30, 2)
    assert 200 << 20 < shares.reading < 512 << 20
    assert shares.reading + shares.waiting + 2 * shares.worker + shares.network <= 8 << 30
