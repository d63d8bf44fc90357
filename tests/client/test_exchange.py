"""What the clients make of replies: answers, errors, further attempts; and what they send."""

import logging
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

import numpy as np
import pytest
from safetensors.numpy import save

from ctxdeploy.client import AsyncClient, Client, SearchAnswer, SearchOptions
from ctxdeploy.client.conversations import escaped
from ctxdeploy.client.exchange import retry_after
from ctxdeploy.core.errors import ConfigError, CtxdeployError, PhotoError, ServiceError

KEY = "secret-0123456789"
ANSWER = {
    "query": "photo",
    "indexed": False,
    "box": [1.0, 2, 3.5, 4],
    "turn": 90,
    "rank": "local",
    "found": 1,
    "best_probability": None,
    "descriptors": 3,
    "results": [
        {
            "rank": 1,
            "name": "a/b.jpg",
            "score": 1,
            "probability": 0.5,
            "affine": [[1.0, 0, 2], [0, 1.0, 3]],
            "matches": [[1, 2, 3, 4]],
            "size": [640, 480],
        }
    ],
    "seconds": {"extract": 0.1, "search": 0.2, "queue": None},
    "remarks": ["one"],
    "coverage": {"searched": 1, "photos": 2},
    "of a later version": {"x": 1},
}
PROBLEM = {"status": 422, "detail": "photo is cut off\x1b[31m", "code": "PhotoError", "request_id": "abc"}


def test_an_answer_is_read_with_all_its_parts(script: Any, ask: Any) -> None:
    script.say(200, ANSWER)
    answer: SearchAnswer = ask(script.url, lambda c: c.search(b"photo", top=3, box=(1, 2, 3.5, 4)))
    (result,) = answer.results
    assert (answer.query, answer.turn, answer.found, answer.box) == ("photo", 90, 1, (1.0, 2.0, 3.5, 4.0))
    assert (result.name, result.score, result.affine) == ("a/b.jpg", 1.0, ((1.0, 0.0, 2.0), (0.0, 1.0, 3.0)))
    assert (result.matches, result.size, result.inliers) == (((1.0, 2.0, 3.0, 4.0),), (640, 480), None)
    assert answer.seconds == {"extract": 0.1, "search": 0.2}
    assert answer.coverage is not None and answer.coverage.photos == 2
    method, path, headers, body = script.asked[0]
    assert (method, path, body) == ("POST", "/v1/search?top=3&box=1%2C2%2C3.5%2C4", b"photo")
    assert headers["content-type"] == "application/octet-stream"
    assert "authorization" not in headers


def test_every_option_stands_in_the_url(script: Any, ask: Any) -> None:
    script.say(200, ANSWER)
    options = SearchOptions(verify=5, matches=True, prefix=["a/", "b&c"], name=["caf\udce9.jpg"], min_probability=0.5)
    ask(script.url, lambda c: c.search(indexed="cat & dog.jpg", options=options), archive="one two")
    method, path, _, _ = script.asked[0]
    assert method == "GET"
    assert parse_qsl(path.removeprefix("/v1/search?"), errors="surrogateescape") == [
        ("indexed", "cat & dog.jpg"),
        ("verify", "5"),
        ("min_probability", "0.5"),
        ("prefix", "a/"),
        ("prefix", "b&c"),
        ("name", "caf\udce9.jpg"),
        ("matches", "true"),
        ("archive", "one two"),
    ]


@pytest.mark.parametrize(
    "told",
    [
        b"<html>a proxy's page</html>",
        b"[1]",
        b"{}",
        b'{"query": 3, "results": []}',
        b'{"query": "a", "results": {"name": "b"}}',
        b'{"query": "a", "results": [{"name": "b", "rank": 1, "score": true}]}',
        b'{"query": "a", "results": [{"name": "b", "rank": 1, "score": 1, "box": [1, 2]}]}',
        b'{"query": "a", "results": ' + b"[" * 100_000,
    ],
)
def test_what_no_service_says_is_an_error(script: Any, ask: Any, told: bytes) -> None:
    script.say(200, told)
    with pytest.raises(ServiceError, match="the reply is not what a ctxdeploy serve says") as found:
        ask(script.url, lambda c: c.search(b"photo"))
    assert (found.value.code, found.value.status) == ("BadReply", 200)


def test_a_problem_is_an_error_with_its_parts(script: Any, ask: Any) -> None:
    script.say(422, PROBLEM)
    with pytest.raises(ServiceError) as found:
        ask(script.url, lambda c: c.search(b"photo"))
    error = found.value
    assert (error.status, error.code, error.request_id, error.exit_code) == (422, "PhotoError", "abc", 24)
    assert error.detail == r"photo is cut off\x1b[31m"
    assert str(error).endswith(r"/v1/search: 422 PhotoError: photo is cut off\x1b[31m (request abc)")
    assert isinstance(error, CtxdeployError)
    assert len(script.asked) == 1


def test_a_page_of_a_proxy_is_an_error_with_its_status(script: Any, ask: Any) -> None:
    script.say(502, b"<html>bad gateway</html>")
    with pytest.raises(ServiceError, match="502 HTTP: the reply says no more"):
        ask(script.url, lambda c: c.archives())


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_is_asked_again(script: Any, ask: Any, status: int) -> None:
    script.say(status, PROBLEM, {"Retry-After": "0"})
    script.say(status, PROBLEM, {"Retry-After": "0"})
    script.say(200, ANSWER)
    assert ask(script.url, lambda c: c.search(b"photo"), retries=2).found == 1
    assert [body for *_, body in script.asked] == [b"photo"] * 3


def test_attempts_are_bounded_by_their_number(script: Any, ask: Any) -> None:
    script.say(429, PROBLEM, {"Retry-After": "0"})
    with pytest.raises(ServiceError) as found:
        ask(script.url, lambda c: c.search(b"photo"), retries=2)
    assert found.value.status == 429
    assert len(script.asked) == 3


def test_attempts_are_bounded_by_time(script: Any, ask: Any) -> None:
    """Where the service says to come back after the deadline, its refusal is told at once."""
    script.say(503, PROBLEM, {"Retry-After": "100000"})
    with pytest.raises(ServiceError) as found:
        ask(script.url, lambda c: c.search(b"photo"), retries=1000, timeout=3600)
    assert found.value.status == 503
    assert len(script.asked) == 1


def test_a_photo_that_is_refused_is_not_sent_again(script: Any, ask: Any) -> None:
    script.say(504, PROBLEM)
    with pytest.raises(ServiceError):
        ask(script.url, lambda c: c.search(b"photo"), retries=5)
    assert len(script.asked) == 1


def test_a_broken_connection_is_tried_again_where_that_does_no_harm(script: Any, ask: Any) -> None:
    script.say(0, b"")
    script.say(200, ANSWER)
    assert ask(script.url, lambda c: c.search(b"photo")).found == 1
    script.replies[:] = [(0, {}, b"")]
    script.asked.clear()
    with pytest.raises(ServiceError, match="the connection broke") as found:
        ask(script.url, lambda c: c.add_many({"a.jpg": b"photo"}))
    assert (len(script.asked), found.value.code) == (1, "NotReached")


def test_a_service_that_is_not_there_is_said(ask: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ServiceError, match="it is not reached") as found:
            ask(url, lambda c: c.ready(), retries=1)
    assert (found.value.code, found.value.status) == ("NotReached", None)


def test_a_service_that_says_nothing_is_given_up(ask: Any) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ServiceError) as found:
            ask(url, lambda c: c.archives(), timeout=0.2)
    assert found.value.code == "Timeout"


def test_no_redirection_is_followed_and_the_key_goes_nowhere(script: Any, ask: Any) -> None:
    script.say(307, b"", {"Location": f"{script.url}/elsewhere"})
    with pytest.raises(ServiceError, match=r"it sends to http://127.*/elsewhere, and redirections are not") as found:
        ask(script.url, lambda c: c.search(b"photo"), key=KEY)
    assert found.value.code == "Redirected"
    assert len(script.asked) == 1


def test_a_client_of_ones_own_follows_none_either(script: Any) -> None:
    httpx = pytest.importorskip("httpx")
    script.say(307, b"", {"Location": f"{script.url}/elsewhere"})
    with httpx.Client(follow_redirects=True) as own, pytest.raises(ServiceError, match="redirections"):
        Client(script.url, http=own).search(b"photo")
    assert len(script.asked) == 1


def test_the_key_is_sent_and_never_shown(
    script: Any, ask: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    script.say(401, PROBLEM)
    with pytest.raises(ServiceError) as found:
        ask(script.url, lambda c: c.search(b"photo"), key=KEY)
    assert script.asked[-1][2]["authorization"] == f"Bearer {KEY}"
    assert KEY not in script.asked[-1][1]
    client = Client(script.url, key=KEY)
    shown = [str(found.value), repr(found.value), repr(client), repr(client.config), caplog.text]
    assert "httpx" in caplog.text
    assert not [text for text in shown if KEY in text]
    monkeypatch.setenv("CTXDEPLOY_KEY", "from-the-environment")
    with pytest.raises(ServiceError):
        ask(script.url, lambda c: c.archives())
    assert script.asked[-1][2]["authorization"] == "Bearer from-the-environment"


@pytest.mark.parametrize("key", ["a\r\nX-Evil: 1", "a b", "schlüssel"])
def test_a_key_that_would_be_more_than_a_header_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="the key has characters") as found:
        Client("http://127.0.0.1:1", key=key)
    assert key not in str(found.value)


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://host", "http://", "http://h/?a=b", "http://[::1", "file:///x"]
)
def test_what_is_no_url_of_a_service_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        Client(url)


def test_a_password_in_the_url_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError) as found:
        Client("http://user:hunter2@host")
    assert "hunter2" not in str(found.value)


def test_a_reply_without_end_is_cut(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    script.say(200, bytes(1 << 20))
    with Client(script.url) as client:
        object.__setattr__(client.config, "max_bytes", 1000)
        with pytest.raises(ServiceError, match="the reply has more than 1,000 bytes"):
            client.original("a.jpg")


def test_photos_are_paths_bytes_and_open_files(script: Any, ask: Any, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"photo")
    script.say(200, ANSWER)
    for photo in (str(path), path, b"photo", path.open("rb")):
        ask(script.url, lambda c, photo=photo: c.search(photo))
    assert [body for *_, body in script.asked] == [b"photo"] * 4
    with pytest.raises(PhotoError, match="No such file"):
        ask(script.url, lambda c: c.search(tmp_path / "none.jpg"))
    with pytest.raises(PhotoError, match="binary mode"):
        ask(script.url, lambda c: c.search(path.open()))
    with pytest.raises(ConfigError, match="give one of them"):
        ask(script.url, lambda c: c.search())


def test_many_are_asked_in_order_and_a_bad_one_has_its_error(script: Any, ask: Any) -> None:
    script.say(200, {"answers": [ANSWER] * 15 + [PROBLEM]})
    script.say(200, {"answers": [ANSWER]})
    script.say(200, {"answers": [{**ANSWER, "indexed": True}]})
    found = ask(script.url, lambda c: c.search_many([b"%d" % i for i in range(17)], indexed=["a.jpg"]))
    assert [type(one) for one in found] == [SearchAnswer] * 15 + [ServiceError] + [SearchAnswer] * 2
    assert found[15].status == 422 and found[17].indexed
    assert [body.count(b'name="photo"') for *_, body in script.asked] == [16, 1, 0]
    with pytest.raises(ConfigError, match="give a list"):
        ask(script.url, lambda c: c.search_many(b"photo"))


def test_descriptors_are_arrays(script: Any, ask: Any) -> None:
    arrays = {
        "vectors": np.arange(6, dtype=np.float32).reshape(2, 3),
        "attention": np.ones(2, np.float32),
        "positions": np.zeros((2, 2), np.float32),
        "scales": np.ones(2, np.float32),
    }
    facts = {"model": "m", "width": "640", "height": "480"}
    script.say(200, save(arrays, facts), {"Content-Type": "application/x-safetensors"})
    found = ask(script.url, lambda c: c.descriptors(b"photo"))
    assert np.array_equal(found.vectors, arrays["vectors"]) and (found.size, found.model) == ((640, 480), "m")
    assert found.global_vector is None
    assert script.asked[0][2]["accept"] == "application/x-safetensors"
    for told, kind in ((b"{}", "application/json"), (b"no tensors", "application/x-safetensors")):
        script.replies[:] = [(200, {"Content-Type": kind}, told)]
        with pytest.raises(ServiceError, match="not what a ctxdeploy serve says"):
            ask(script.url, lambda c: c.descriptors(b"photo"))


def test_names_come_page_by_page(script: Any, ask: Any) -> None:
    script.say(200, {"photos": ["a", r"caf\udce9"], "photos_bytes": [None, "Y2Fm6Q=="], "next": "b"})
    script.say(200, {"photos": ["c"], "next": None})
    assert ask(script.url, lambda c: c.names("x/")) == ["a", "caf\udce9", "c"]
    assert [path for _, path, *_ in script.asked] == [
        "/v1/photos?prefix=x%2F&limit=1000",
        "/v1/photos?prefix=x%2F&limit=1000&after=b",
    ]


def test_a_job_is_waited_for(script: Any, ask: Any) -> None:
    for state in ("waiting", "running", "done"):
        script.say(200, {"id": "7", "kind": "add", "state": state, "archive_state": 3, "photos": 1})
    job = ask(script.url, lambda c: c.wait("7"))
    assert (job.state, job.archive_state, len(script.asked)) == ("done", 3, 3)
    script.replies[:] = [(200, {}, b'{"id": "7", "kind": "add", "state": "failed", "reason": "disk full"}')]
    with pytest.raises(ServiceError, match="job 7 failed: disk full"):
        ask(script.url, lambda c: c.wait("7"))
    script.replies[:] = [(200, {}, b'{"id": "7", "kind": "add", "state": "waiting"}')]
    with pytest.raises(ServiceError, match="job 7 is waiting after"):
        ask(script.url, lambda c: c.wait("7", timeout=0.2))


def test_adding_sends_the_photo_under_its_name(script: Any, ask: Any, tmp_path: Path) -> None:
    script.say(202, {"id": "7", "kind": "add", "state": "waiting"})
    path = tmp_path / "cat #1.jpg"
    path.write_bytes(b"photo")
    ask(script.url, lambda c: c.add(path))
    ask(script.url, lambda c: c.add(b"photo", name="2024/cafe?.jpg"))
    ask(script.url, lambda c: c.remove("a/../b.jpg"))
    assert [(method, path) for method, path, *_ in script.asked] == [
        ("PUT", "/v1/photos/cat%20%231.jpg"),
        ("PUT", "/v1/photos/2024/cafe%3F.jpg"),
        ("DELETE", "/v1/photos/a/%2E%2E/b.jpg"),
    ]
    with pytest.raises(ConfigError, match="give name="):
        ask(script.url, lambda c: c.add(b"photo"))


def test_a_name_that_a_form_cannot_write_is_sent_in_a_path(script: Any, ask: Any) -> None:
    script.say(202, {"id": "7", "kind": "add", "state": "waiting"})
    odd = ['a"\r\nX-Evil: 1\r\n\r\n.jpg', "\udce9.jpg", "100 %.jpg", "a\\b.jpg"]
    jobs = ask(script.url, lambda c: c.add_many({**dict.fromkeys(odd, b"x"), "a/é.jpg": b"1", "b.jpg": b"2"}))
    paths = [unquote_to_bytes(path).decode("utf-8", "surrogateescape") for _, path, *_ in script.asked]
    assert paths == [*(f"/v1/photos/{name}" for name in odd), "/v1/photos"]
    body = script.asked[-1][3]
    assert 'filename="a/é.jpg"'.encode() in body and body.count(b"Content-Disposition") == 2
    assert len(jobs) == 5


def test_folders_and_archives_are_read(script: Any, ask: Any) -> None:
    script.say(200, {"folders": [{"name": "a/", "photos": 3}], "next": "a/"})
    script.say(200, {"folders": [{"name": "b/", "photos": 1}], "next": None})
    assert [(folder.name, folder.photos) for folder in ask(script.url, lambda c: c.folders())] == [("a/", 3), ("b/", 1)]
    model = {"id": "x", "name": None}
    script.replies[:] = []
    script.say(
        200, {"archives": [{"name": "a", "photos": 3, "state": 2, "global": "fp16", "model": model, "bytes": 9}]}
    )
    (archive,) = ask(script.url, lambda c: c.archives())
    assert (archive.global_vectors, archive.model, archive.bytes) == ("fp16", {"id": "x"}, 9)


def test_readiness_is_no_error(script: Any, ask: Any) -> None:
    script.say(503, {"detail": "compiling"}, {"Retry-After": "1"})
    script.say(200, {"status": "ready"})
    first, second = (ask(script.url, lambda c: c.ready()) for _ in range(2))
    assert (first.ready, first.reason, second.ready) == (False, "compiling", True)


def test_retry_after_is_seconds_or_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    found = retry_after(later)
    assert found is not None and 3000 < found <= 3600
    assert [retry_after(text) for text in ("7", " 7 ", None, "soon", "-3", "²")] == [7.0, 7.0, None, None, None, None]


def test_names_are_escaped_in_paths() -> None:
    assert escaped("a/./b%20c\r\n\udce9é") == "a/%2E/b%2520c%0D%0A%E9%C3%A9"


def test_searches_of_the_async_client_run_side_by_side(script: Any) -> None:
    import asyncio

    script.say(200, ANSWER)

    async def all_of_them() -> list[SearchAnswer]:
        async with AsyncClient(script.url) as client:
            return await asyncio.gather(*(client.search(b"%d" % i) for i in range(8)))

    assert len(asyncio.run(all_of_them())) == 8
    assert {body for *_, body in script.asked} == {b"%d" % i for i in range(8)}


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys; from ctxdeploy.client import Client, AsyncClient; Client('http://127.0.0.1:1'); "
        "print(*sorted({'numba', 'numpy', 'PIL', 'onnxruntime', 'openvino', 'torch', 'fastapi'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_both_clients_have_the_same_methods() -> None:
    public = {name for name in vars(Client) if not name.startswith("_")}
    assert public == {name for name in vars(AsyncClient) if not name.startswith("_")}
    assert {"search", "search_many", "wait"} <= public
