"""Counters: what is there, and that nothing that somebody sent is."""

import re
import threading
from typing import TYPE_CHECKING, Any

from ctxdeploy import PhotoIndex
from ctxdeploy.index import Index
from ctxdeploy.service import ServiceConfig

if TYPE_CHECKING:
    from starlette.testclient import TestClient


def test_every_stage_and_archive_is_counted(client: "TestClient", index: PhotoIndex, album: Any) -> None:
    assert client.post("/v1/search", content=album.query()).status_code == 200
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = answer.text
    for stage in ("body", "queue", "extract", "search", "total"):
        assert re.search(rf'ctxdeploy_stage_seconds_count{{stage="{stage}"}} [1-9]', found), stage
    assert f'ctxdeploy_archive_photos{{archive="album"}} {len(index)}.0' in found
    assert re.search(r'ctxdeploy_archive_state{archive="album"} [0-9]', found)
    assert re.search(r'ctxdeploy_archive_bytes{archive="album"} [1-9]', found)
    assert "ctxdeploy_queue_length 0.0" in found and "ctxdeploy_ready 1.0" in found
    assert "ctxdeploy_build_info{" in found and "process_resident_memory_bytes" in found


def test_labels_hold_nothing_that_was_sent(client: "TestClient") -> None:
    before = len(client.get("/metrics").text.splitlines())
    for word in ("zebra1", "zebra2", "zebra3"):
        client.get(f"/v1/{word}", headers={"X-API-Key": word, "X-Request-ID": word})
        client.get("/v1/search", params={"indexed": word, "archive": word})
        client.request(word.upper(), "/livez")
    found = client.get("/metrics").text
    assert "zebra" not in found.lower()
    assert 'method="other",route="/livez",status="405"' in found
    # A new route, method and code are a line or two each; nine requests of as many words are not nine times as many.
    assert len(found.splitlines()) - before < 16


def test_an_archive_that_cannot_move_on_is_stale(connect: Any, own_album: Any) -> None:
    client = connect(own_album.archive, config=ServiceConfig(refresh_seconds=3600.0), prepare=False)
    (served,) = client.app.state.service.archives
    fresh = client.get("/metrics").text
    assert 'ctxdeploy_archive_stale{archive="album"} 0.0' in fresh
    (own_album.archive / "CURRENT").write_text("nonsense\n")
    served.look()
    assert 'ctxdeploy_archive_stale{archive="album"} 1.0' in client.get("/metrics").text
    own_album.archive.rename(own_album.archive.with_name("moved"))
    found = client.get("/metrics").text
    assert 'ctxdeploy_archive_stale{archive="album"} 1.0' in found
    assert 'ctxdeploy_archive_photos{archive="album"} 17.0' in found  # it answers from them


def test_jobs_are_counted_without_their_names(connect: Any, own_album: Any) -> None:
    client = connect(own_album.archive, config=ServiceConfig(writable=True, write_timeout=0.5))

    states = [("ctxdeploy_jobs", "waiting"), ("ctxdeploy_jobs", "running")]
    states += [("ctxdeploy_jobs_ended_total", "done"), ("ctxdeploy_jobs_ended_total", "failed")]

    def counted() -> list[float]:
        """Return the jobs of each state, of one moment."""
        text = client.get("/metrics").text
        lines = [rf'^{name}{{archive="album",state="{state}"}} (.*)$' for name, state in states]
        return [float(re.findall(line, text, re.MULTILINE)[0]) for line in lines]

    assert counted() == [0, 0, 0, 0]
    with Index.open(own_album.archive, writable=True):
        photo = own_album.query()
        assert client.put("/v1/photos/zebra.jpg", content=photo).status_code == 202
        assert f"ctxdeploy_job_bytes {float(len(photo))}" in client.get("/metrics").text
        while (now := counted())[3] == 0:  # it waits, until its time is over
            assert sum(now) == 1
            threading.Event().wait(0.02)
    assert client.delete("/v1/photos/first/coffee.jpg").status_code == 202
    while not counted()[2]:
        threading.Event().wait(0.02)
    assert counted() == [0, 0, 1, 1]
    found = client.get("/metrics").text
    assert "ctxdeploy_job_bytes 0.0" in found and "zebra" not in found and "coffee" not in found
