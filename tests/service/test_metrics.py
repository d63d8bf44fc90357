"""Counters: what is there, and that nothing that somebody sent is."""

import re
from typing import TYPE_CHECKING, Any

from ctxdeploy import PhotoIndex

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
