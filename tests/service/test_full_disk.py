"""No room under the service: on a real file system that is full (a small tmpfs), and with files that may not grow."""

import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ctxdeploy import PhotoIndex
from ctxdeploy.archive import store_origin
from ctxdeploy.core.errors import StorageError
from ctxdeploy.index import Index
from ctxdeploy.runtime.sources import list_photos
from ctxdeploy.service import ServiceConfig, accepting

MINUTES = 300.0
WRITABLE = ServiceConfig(writable=True, refresh_seconds=3600.0)


def ended(ask: Any, reply: Any) -> dict[str, Any]:
    """The job of a reply, once it has ended."""
    assert reply.status_code == 202, reply.text
    for _ in range(3000):
        job: dict[str, Any] = ask(reply.headers["location"]).json()
        if job["state"] in ("done", "failed"):
            return job
        threading.Event().wait(0.1)
    raise AssertionError("the job does not end")


def test_what_finds_no_room_is_refused_before_it_is_taken(
    connect: Any, own_album: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(own_album.archive, config=WRITABLE)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(accepting.shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    reply = client.put("/v1/photos/new.jpg", content=own_album.query())
    assert reply.status_code == 507 and reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    assert (problem["code"], problem["exit_code"]) == ("StorageError", StorageError.exit_code)
    assert "1,048,576 bytes are free" in problem["detail"] and str(own_album.photos) not in reply.text
    assert client.delete("/v1/photos/first/coffee.jpg").status_code == 202  # it makes room


def test_a_full_disk_fails_the_job_and_leaves_nothing(connect: Any, own_album: Any, full_disk: Any) -> None:
    """The fault is in ``fsync``, where ``core/files.py`` meets it."""
    client = connect(own_album.archive, config=WRITABLE)
    before = client.get("/v1/archives/album").json()
    with full_disk():
        job = ended(client.get, client.put("/v1/photos/new.jpg", content=own_album.query()))
        assert (job["state"], job["code"]) == ("failed", "StorageError") and "No space left" in job["reason"]
        assert str(own_album.photos) not in job["reason"]
        assert client.post("/v1/search", content=own_album.query()).status_code == 200
        assert client.get("/v1/thumbnails/first/coffee.jpg").status_code == 200
    assert client.get("/v1/archives/album").json() == before
    assert client.get("/v1/originals/new.jpg").status_code == 404
    assert [path for path in own_album.photos.iterdir() if path.is_file()] == []
    assert ended(client.get, client.put("/v1/photos/new.jpg", content=own_album.query()))["state"] == "done"
    metrics = client.get("/metrics").text
    assert 'ctxdeploy_jobs_ended_total{archive="album",state="failed"} 1.0' in metrics


class Logged:
    """A service whose log is a file.

    Args:
        folder: where the log is.
        arguments: of ``serve``.
    """

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.log = folder / "log.jsonl"
        command = [sys.executable, "-m", "ctxdeploy", "serve", *map(str, arguments)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--port", "0", "--log-format", "json"],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # Where no file may grow half of it would be left, and no later import survives that.
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            )
        assert self.process.stdout is not None
        url = self.process.stdout.readline().removeprefix("listening on ").strip()
        self.client = httpx.Client(base_url=url, timeout=MINUTES)
        while self.client.get("/readyz").status_code != 200:
            assert self.process.poll() is None, self.log.read_text()
            threading.Event().wait(0.1)

    def put(self, name: str, data: bytes) -> httpx.Response:
        return self.client.put(f"/v1/photos/{name}", content=data)

    def events(self) -> list[str]:
        """What is in the log. What had no room may be half a line."""
        lines = self.log.read_text().splitlines()
        return [json.loads(line)["event"] for line in lines if line.endswith("}")]

    def close(self) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=MINUTES)


@pytest.fixture
def logged() -> Iterator[Any]:
    """Return a function that starts a ``Logged``."""
    started: list[Logged] = []

    def start(folder: Path, *arguments: object) -> Logged:
        started.append(Logged(folder, *arguments))
        return started[-1]

    yield start
    for one in started:
        one.close()


def whole(archive: Path) -> set[str]:
    """The names of an archive in which nothing is wrong."""
    assert Index.problems(archive) == []
    with PhotoIndex.open(archive) as index:
        return set(index.names())


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of other processes are Linux's")
def test_files_that_may_not_grow(logged: Any, own_album: Any, tmp_path: Path) -> None:
    """Upload, commit and log fail at once in one process; it answers, and goes on once it may write."""
    served = logged(tmp_path, own_album.archive, "--writable")
    limits = resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE)
    size = served.log.stat().st_size
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (16, limits[1]))
    job = ended(served.client.get, served.put("new.jpg", own_album.query()))
    assert (job["state"], job["code"]) == ("failed", "StorageError") and "too large" in job["reason"].lower()
    removed = ended(served.client.get, served.client.delete("/v1/photos/first/coffee.jpg"))
    assert (removed["state"], removed["code"]) == ("failed", "StorageError")
    for path in ("/v1/search?indexed=first/coffee.jpg", "/v1/thumbnails/first/coffee.jpg", "/v1/archives", "/readyz"):
        assert served.client.get(path).status_code == 200
    assert served.log.stat().st_size <= size
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, limits)
    assert ended(served.client.get, served.put("new.jpg", own_album.query()))["state"] == "done"
    assert served.client.get("/v1/originals/new.jpg").content == own_album.query()
    served.close()
    assert any("lines of the log that could not be written: " in event for event in served.events())
    assert "new.jpg" in whole(own_album.archive)
    assert not list(tmp_path.rglob(".tmp-*"))


@pytest.mark.slow
def test_a_file_system_that_is_full(logged: Any, album: Any, tmp_path: Path) -> None:
    """Photos, archive and log on a tmpfs, at several amounts of room."""
    library, place = ctypes.CDLL(None, use_errno=True), tmp_path / "small"
    place.mkdir()
    size = 48 << 20
    if library.mount(b"tmpfs", bytes(place), b"tmpfs", 0, f"size={size}".encode()) != 0:
        pytest.skip(f"a tmpfs cannot be mounted: {os.strerror(ctypes.get_errno())}")
    try:
        photos = Path(shutil.copytree(album.photos, place / "photos"))
        archive = Path(shutil.copytree(album.archive, place / "album.ctxindex"))
        store_origin(archive, list_photos(str(photos)), {}, moved=True)
        served = logged(place, archive, "--writable")
        photo, before = album.query(), whole(archive)
        for number, pages in enumerate((0, 1, 8, 40)):
            fill(place, pages)
            reply = served.put(f"full{number}.jpg", photo)
            assert reply.status_code == 507 and reply.json()["code"] == "StorageError"
            assert served.client.post("/v1/search", content=photo).status_code == 200
            removed = ended(served.client.get, served.client.delete("/v1/photos/first/coffee.jpg"))
            assert removed["state"] == "done" or removed["code"] == "StorageError"
            if removed["state"] == "done":
                before -= {"first/coffee.jpg"}
            assert whole(archive) == before and not (photos / f"full{number}.jpg").exists()
            (place / "ballast").unlink()
            assert ended(served.client.get, served.put("first/coffee.jpg", photo))["state"] == "done"
            before |= {"first/coffee.jpg"}
        assert served.client.get("/v1/originals/first/coffee.jpg").content == photo
        served.close()
        assert served.process.returncode == 0 and whole(archive) == before
    finally:
        library.umount2(bytes(place), 2)


def fill(place: Path, leave: int) -> None:
    """Fill a file system but for some pages."""
    page = os.sysconf("SC_PAGE_SIZE")
    handle = os.open(place / "ballast", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        while True:
            os.write(handle, bytes(page))
    except OSError:
        size = os.fstat(handle).st_size
        os.ftruncate(handle, max(0, size // page - leave) * page)
    finally:
        os.close(handle)
