"""A service that is killed while it stores a photo: what it leaves goes away, and the photo may be sent again."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from ctxdeploy import PhotoIndex
from ctxdeploy.service import Archives, ServiceConfig, leftovers
from ctxdeploy.service.leftovers import Leftovers

MINUTES = 300.0
# The process is killed where a photo's file is whole and would get its name; and where it has it, before the commit.
BEFORE_NAMING = """
import os, signal
from ctxdeploy.service import photo_files
photo_files.move = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
"""
BEFORE_THE_COMMIT = """
import os, signal
from ctxdeploy.service.write_batch import WriteBatch
WriteBatch._add = lambda self, described: os.kill(os.getpid(), signal.SIGKILL)
"""


def temporary(folder: Path) -> list[Path]:
    return sorted(folder.rglob(".tmp-*"))


def two_hours_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "time", SimpleNamespace(time=lambda: time.time() + 7200.0))


def killed_while_it_adds(start: Any, album: Any, before: str, name: str) -> None:
    served = start(album.archive, "--writable", before=before)
    reply = httpx.put(f"{served.url}/v1/photos/{name}", content=album.query(), timeout=MINUTES)
    assert reply.status_code == 202
    assert served.process.wait(MINUTES) == -9


@pytest.mark.slow
def test_what_a_killed_service_left_is_removed_once_it_is_old(
    start: Any, connect: Any, own_album: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_while_it_adds(start, own_album, BEFORE_NAMING, "new/deep/cat.jpg")
    (left,) = temporary(own_album.photos)
    assert left.parent == own_album.photos / "new" / "deep" and left.read_bytes() == own_album.query()
    config = ServiceConfig(writable=True)
    client = connect(own_album.archive, config=config)
    assert client.get("/v1/originals/new/deep/cat.jpg").status_code == 404
    (served,) = client.app.state.service.archives
    removing = Leftovers([served])
    assert removing.remove(served) == [left] and left.exists()  # another process may be writing it
    two_hours_pass(monkeypatch)
    assert removing.remove(served) == [] and temporary(own_album.photos) == []


@pytest.mark.slow
def test_a_photo_whose_file_was_stored_and_not_committed_may_be_sent_again(
    start: Any, own_album: Any, connect: Any
) -> None:
    killed_while_it_adds(start, own_album, BEFORE_THE_COMMIT, "cat.jpg")
    assert (own_album.photos / "cat.jpg").read_bytes() == own_album.query()
    with PhotoIndex.open(own_album.archive) as index:
        assert "cat.jpg" not in index
    client = connect(own_album.archive, config=ServiceConfig(writable=True))
    other = (own_album.photos / "first/coffee.jpg").read_bytes()
    assert client.put("/v1/photos/cat.jpg", content=other).status_code == 409
    reply = client.put("/v1/photos/cat.jpg", content=own_album.query())
    assert reply.status_code == 202
    while client.get(reply.headers["location"]).json()["state"] not in ("done", "failed"):
        threading.Event().wait(0.1)
    job = client.get(reply.headers["location"]).json()
    assert (job["state"], job["failures"], job["remarks"]) == ("done", [], [])
    assert client.get("/v1/originals/cat.jpg").content == own_album.query()


def test_nothing_else_is_removed(own_album: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, ours = own_album.photos, ".tmp-0123abcd-"
    (folder / "inner.ctxindex").mkdir()
    (folder / ".hidden").mkdir()
    (folder / f"{ours}folder.jpg").mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"not to be removed")
    kept = [
        *(".tmp-mine.jpg", ".tmp-0123ABCD-a.jpg", "tmp-0123abcd-a.jpg", f"{ours}notes.txt", f"{ours}", "photo.jpg"),
        *(f"inner.ctxindex/{ours}a.jpg", f".hidden/{ours}a.jpg", f"{ours}folder.jpg/{ours}a.jpg"),
    ]
    gone = [f"{ours}a.jpg", f"first/{ours}.tmp-89ab4567-b.JPG", f"odd/{ours}line\nend.png"]
    for name in (*kept, *gone):
        (folder / name).write_bytes(b"x")
    (folder / f"{ours}link.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "elsewhere").symlink_to(tmp_path)
    (tmp_path / f"{ours}outside.jpg").write_bytes(b"x")
    archives = Archives([own_album.archive], ServiceConfig())
    (served,) = archives
    removing = Leftovers(archives)
    assert sorted(removing.remove(served)) == sorted(folder / name for name in gone)
    two_hours_pass(monkeypatch)
    assert removing.remove(served) == []
    assert all((folder / name).exists() for name in kept) and not any((folder / name).exists() for name in gone)
    assert (folder / f"{ours}link.jpg").is_symlink() and (tmp_path / f"{ours}outside.jpg").exists()
    archives.close()


def test_they_are_removed_at_the_start_by_a_service_that_stores_photos(
    connect: Any, own_album: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = own_album.photos / ".tmp-0123abcd-cat.jpg"
    left.write_bytes(b"x")
    two_hours_pass(monkeypatch)
    for config in (ServiceConfig(), ServiceConfig(writable=True, store_photos=False)):
        connect(own_album.archive, config=config).app.state.service.close()
        assert left.exists()
    connect(own_album.archive, config=ServiceConfig(writable=True))
    for _ in range(3000):
        if not left.exists():
            return
        threading.Event().wait(0.1)
    raise AssertionError("it stays")


def test_what_is_too_young_is_looked_at_again(own_album: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    left = own_album.photos / ".tmp-0123abcd-cat.jpg"
    left.write_bytes(b"x")
    archives = Archives([own_album.archive], ServiceConfig())
    found: list[list[Path]] = []
    real = Leftovers.remove

    def remove(self: Leftovers, served: Any) -> list[Path]:
        found.append(real(self, served))
        two_hours_pass(monkeypatch)
        return found[-1]

    monkeypatch.setattr(leftovers, "_PAUSE", 0.05)
    monkeypatch.setattr(Leftovers, "remove", remove)
    removing = Leftovers(archives)
    removing.start()
    for _ in range(3000):
        if not left.exists():
            break
        threading.Event().wait(0.1)
    removing.close()
    archives.close()
    assert found[0] == [left] and not left.exists()
