"""Search over shards by processes of their own: one is killed, another one hangs, and all go on."""

import json
import signal
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from ctxdeploy import PhotoIndex, QueryConfig

MINUTES = 300.0


def ask(url: str, photo: bytes) -> Any:
    answer = httpx.post(f"{url}/v1/search", content=photo, params={"top": 100}, timeout=MINUTES)
    assert answer.status_code == 200, answer.text
    return answer.json()


def scores(found: Any) -> dict[str, float]:
    return {one["name"]: one["score"] for one in found["results"]}


def until_missing(url: str, photo: bytes, missing: list[str]) -> Any:
    """Ask until an answer lacks these parts and no others."""
    for _ in range(int(MINUTES)):
        found = ask(url, photo)
        if found["coverage"]["missing"] == missing:
            return found
    raise AssertionError(found["coverage"])


@pytest.mark.slow
def test_servers_are_killed_stopped_and_started_again(start: Any, sharded: Any, album: Any) -> None:
    photo = album.query("chelsea")
    with PhotoIndex.open(sharded) as photos:
        wanted = json.loads(json.dumps(photos.answer(photo, QueryConfig(top=100)).metadata()["results"]))
    whole = {one["name"]: one["score"] for one in wanted}
    # Two servers of part 1, one of part 2.
    servers = [start(sharded, "--shards", part, ready=False) for part in ("1/2", "1/2", "2/2")]
    first = f"{servers[0].url},{servers[1].url}"
    patience = ("--shard-timeout", 15)
    front = start(sharded, "--shard", first, "--shard", servers[2].url, *patience)
    assert scores(ask(front.url, photo)) == whole

    # A replica takes over, whichever of the two was killed: nothing is missing, at any time.
    servers[0].process.kill()
    servers[0].process.wait(MINUTES)
    for _ in range(4):
        found = ask(front.url, photo)
        assert found["coverage"]["missing"] == [] and scores(found) == whole

    # The only server of a part hangs: it is left out at the deadline, and at once from then on.
    servers[2].process.send_signal(signal.SIGSTOP)
    found = until_missing(front.url, photo, ["2/2"])
    assert found["coverage"]["searched"] < found["coverage"]["photos"]
    assert 0 < len(found["results"]) < len(whole)
    assert httpx.get(f"{front.url}/readyz", timeout=MINUTES).status_code == 200
    servers[2].process.send_signal(signal.SIGCONT)
    assert scores(until_missing(front.url, photo, [])) == whole

    # It is killed, and another one takes its place.
    servers[2].process.kill()
    servers[2].process.wait(MINUTES)
    assert until_missing(front.url, photo, ["2/2"])["results"]
    port = urlsplit(servers[2].url).port
    servers[2] = start(sharded, "--shards", "2/2", "--port", port, ready=False)
    assert scores(until_missing(front.url, photo, [])) == whole

    for served in (front, servers[1], servers[2]):
        assert served.end() == 0
        assert not any("Traceback" in line for line in served.log), served.log
