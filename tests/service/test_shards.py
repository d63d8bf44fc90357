"""Search over shards: fronts and shard servers over HTTP, all in this process; ``test_shard_processes`` has others."""

import json
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn

from ctxdeploy import PhotoIndex
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.part import Part
from ctxdeploy.service import ServiceConfig, create_app
from ctxdeploy.service.front import shard_key
from ctxdeploy.service.front_service import service_of
from ctxdeploy.service.keys import Keys
from ctxdeploy.service.shard_config import ShardingConfig

MINUTES = 300.0
KEY = "0123456789abcdef0123456789abcdef"


class Live:
    """A service on a port, in a thread."""

    def __init__(self, archive: Path, config: ServiceConfig, keys: Keys | None = None, port: int = 0) -> None:
        self.service = service_of([archive], config, None, keys or Keys())
        self.bound = socket.create_server(("127.0.0.1", port))
        self.port = self.bound.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        settings = uvicorn.Config(create_app(self.service), log_config=None, access_log=False, lifespan="on")
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self.bound]}, daemon=True)
        self._thread.start()

    def prepare(self) -> "Live":
        self.service.prepare()
        assert self.service.readiness.failure is None
        return self

    def get(self, path: str, **parameters: Any) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", params=parameters, timeout=MINUTES)

    def post(self, path: str, content: bytes, **parameters: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", content=content, params=parameters, timeout=MINUTES)

    def close(self) -> None:
        self.service.readiness.end()
        self._server.should_exit = True
        self._thread.join(MINUTES)
        self.bound.close()


@pytest.fixture(scope="module")
def whole(sharded: Path) -> Iterator[Live]:
    """The archive, searched by one service."""
    live = Live(sharded, ServiceConfig()).prepare()
    yield live
    live.close()


@pytest.fixture
def begin() -> Iterator[Callable[..., Live]]:
    """Return a function that starts a service in this process, from an archive and settings of a ``ServiceConfig``."""
    started: list[Live] = []

    def begin(archive: Path, *, prepare: bool = True, keys: Keys | None = None, port: int = 0, **settings: Any) -> Live:
        started.append(Live(archive, ServiceConfig(**settings), keys, port))
        return started[-1].prepare() if prepare else started[-1]

    yield begin
    for live in reversed(started):
        live.close()


def serve_parts(
    begin: Callable[..., Live], archive: Path, count: int, ports: Sequence[int] = (), **settings: Any
) -> list[Live]:
    """Return a server of each part."""
    return [
        begin(archive, sharding=ShardingConfig(shards=Part(number=number, count=count)), port=port, **settings)
        for number, port in zip(range(1, count + 1), ports or [0] * count, strict=True)
    ]


def front_of(servers: list[Live], **settings: Any) -> ShardingConfig:
    return ShardingConfig(shard=tuple(one.url for one in servers), **settings)


def told(answer: httpx.Response) -> Any:
    """Return what an answer says, without what is another thing each time."""
    found = answer.json()
    for one in found.get("answers", [found]):
        one.pop("seconds", None)
        one.pop("request_id", None)
    return answer.status_code, json.dumps(found, sort_keys=True)


# Asked by name, and, the first ones, with a photo as well, which takes the network.
BY_PHOTO = 3
OPTIONS: tuple[dict[str, Any], ...] = (
    {"top": 3, "verify": 5, "matches": True},
    {"box": "20,20,200,180", "min_probability": 0.2},
    {"prefix": ["first/", "nothing/"], "expand": 2},
    {},
    {"top": 100, "expand": 0},
    {"expand": 4, "verify": 3},
    {"name": ["second/coffee.jpg", "first/coffee.jpg", "no such.jpg"]},
    {"rank": "global"},
    {"rank": "global-then-local", "rerank": 4, "expand": 2},
    {"rank": "global-then-local", "rerank": 6, "rerank_by": "geometry"},
    {"top": 0},
)
LOOKS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/search", {"indexed": "second/camera.jpg"}),
    ("/v1/photos", {"limit": 5}),
    ("/v1/folders", {}),
    ("/v1/photos/first/rocket.jpg", {}),
    ("/v1/photos/second/camera.jpg", {}),
    ("/v1/archives/album", {}),
)


def all_told(live: Live, album: Any) -> list[Any]:
    """Return what a service says to everything that is asked here."""
    found = [told(live.post("/v1/search", album.query(), **options)) for options in OPTIONS[:BY_PHOTO]]
    for options in OPTIONS:
        if "box" not in options:
            found.append(told(live.get("/v1/search", indexed="first/coffee.jpg", **options)))
    found += [told(live.get(path, **parameters)) for path, parameters in LOOKS]
    files = [("photo", ("a.jpg", album.query("rocket"))), ("photo", ("b.jpg", b"no photo"))]
    asked = {"indexed": ["first/coins.jpg", "no.jpg"], "verify": 2}
    batch = httpx.post(f"{live.url}/v1/search/batch", files=files, params=asked, timeout=MINUTES)
    return [*found, told(batch)]


@pytest.fixture(scope="module")
def wanted(whole: Live, album: Any) -> list[Any]:
    """What the archive says, searched by one service."""
    return all_told(whole, album)


@pytest.mark.slow
@pytest.mark.parametrize("count", [8, *(pytest.param(count, marks=pytest.mark.long) for count in (1, 2, 4))])
def test_answers_are_those_of_one_archive(begin: Any, sharded: Path, album: Any, wanted: Any, count: int) -> None:
    front = begin(sharded, sharding=front_of(serve_parts(begin, sharded, count)))
    assert len(wanted) == BY_PHOTO + len(OPTIONS) - 1 + len(LOOKS) + 1
    assert all_told(front, album) == wanted


def test_what_goes_over_the_wire_is_the_aggregated_query(begin: Any, sharded: Path, album: Any) -> None:
    front = begin(sharded, sharding=front_of(serve_parts(begin, sharded, 2)))
    before = sent_bytes(front)
    photo = album.query("chelsea")
    answer = front.post("/v1/search", photo, expand=0, turn="none").json()
    sent = {part: bytes_ - before[part] for part, bytes_ in sent_bytes(front).items()}
    # 2 bytes a word and 16 a code; a request to search, and one for the sizes of the photos that were found. The
    # descriptors themselves would be 512 bytes each, five times as much.
    words = answer["descriptors"] * 5
    assert set(sent) == {"1/2", "2/2"} and all(1000 < one < 18 * words + 12_000 for one in sent.values()), sent
    text = front.get("/metrics").text
    assert 'ctxdeploy_front_part_servers{part="2/2"} 1.0' in text
    assert "ctxdeploy_front_partial_total 0.0" in text


def sent_bytes(front: Live) -> dict[str, float]:
    text = front.get("/metrics").text
    found = re.findall(r'front_part_bytes_total\{direction="out",part="(\S+)"\} (\S+)', text)
    return {part: float(value) for part, value in found}


def test_a_part_that_is_gone_is_said_and_comes_back(begin: Any, sharded: Path, whole: Live, album: Any) -> None:
    first, second = serve_parts(begin, sharded, 2)
    front = begin(sharded, sharding=front_of([first, second], shard_timeout=MINUTES))
    everything = whole.post("/v1/search", album.query("chelsea"), top=100, expand=0).json()
    photos = json.loads(second.get("/v1/archives").text)["archives"][0]["photos"]
    second.close()
    partial = front.post("/v1/search", album.query("chelsea"), top=100, expand=0).json()
    total = everything["coverage"]["photos"]
    assert partial["coverage"] == {"searched": total - photos, "photos": total, "missing": ["2/2"]}
    names = [one["name"] for one in partial["results"]]
    scores = {one["name"]: one["score"] for one in everything["results"]}
    assert 0 < len(names) < len(scores)
    assert {one["name"]: one["score"] for one in partial["results"]} == {name: scores[name] for name in names}
    assert "ctxdeploy_front_partial_total 1.0" in front.get("/metrics").text
    assert front.get("/readyz").status_code == 200
    first.close()
    nothing = front.post("/v1/search", album.query("chelsea"))
    assert (nothing.status_code, nothing.json()["code"]) == (503, "ShardError")
    assert "part 1/2" in nothing.json()["detail"] and "Retry-After" in nothing.headers
    serve_parts(begin, sharded, 2, ports=[first.port, second.port])
    answers = [told(one.post("/v1/search", album.query("chelsea"))) for one in (front, whole)]
    assert answers[0] == answers[1]


def test_a_front_is_ready_when_each_part_has_a_server(begin: Any, sharded: Path) -> None:
    first, second = serve_parts(begin, sharded, 2)
    # The servers are named in the wrong order: each refuses, and says what it is.
    front = begin(sharded, sharding=front_of([second, first]), prepare=False)
    preparing = threading.Thread(target=front.service.prepare)
    preparing.start()
    for _ in range(3000):
        answer = front.get("/readyz")
        if "waiting" in answer.json()["detail"]:
            break
        threading.Event().wait(0.1)
    assert answer.status_code == 503
    assert "waiting for part 1/2" in answer.json()["detail"]
    assert "this server searches part 2/2 of album, not 1/2" in answer.json()["detail"]
    assert front.get("/v1/archives").status_code == 503
    front.service.readiness.end()
    preparing.join(MINUTES)
    assert not preparing.is_alive()


def test_a_shard_server_answers_fronts_and_nobody_else(begin: Any, sharded: Path) -> None:
    (live,) = serve_parts(begin, sharded, 1)
    assert live.get("/readyz").status_code == 200 and live.get("/livez").status_code == 200
    facts = live.get("/v1/archives").json()
    assert facts["archives"][0]["part"] == "1/1" and facts["archives"][0]["photos"] == 16
    assert str(sharded) not in json.dumps(facts)
    for path in ("/", "/v1/search", "/v1/photos", "/v1/jobs"):
        assert live.get(path).status_code == 404, path
    paths = set(live.get("/openapi.json").json()["paths"])
    assert paths == {"/v1/shard", "/v1/archives", "/livez", "/readyz", "/metrics"}
    text = live.get("/metrics").text
    assert 'ctxdeploy_part_photos{archive="album",part="1/1"} 16.0' in text


def test_requests_that_are_none_are_refused(begin: Any, sharded: Path) -> None:
    (live,) = serve_parts(begin, sharded, 1, max_bytes=1 << 20)
    random = np.random.default_rng(3)
    for body, status in (
        (b"x", 422),
        (random.bytes(5000), 422),
        (b"\xff" * 8 + b"{}", 422),
        (b"", 422),
        (bytes((1 << 20) + 1), 413),
    ):
        answer = live.post("/v1/shard", body)
        assert answer.status_code == status, answer.text
        assert str(sharded) not in answer.text
    assert live.post("/v1/shard", b"x", part="1/2").status_code == 409
    assert live.post("/v1/shard", b"x", part="x" * 5000).status_code == 409
    assert live.post("/v1/shard", b"x", archive="other").json()["code"] == "NoSuchArchive"
    late = httpx.post(f"{live.url}/v1/shard", content=b"x", headers={"X-Seconds-Left": "0"}, timeout=MINUTES)
    assert late.status_code in (408, 504)
    for given in ("nan", "-1", "x" * 100, "1e999"):
        answer = httpx.post(f"{live.url}/v1/shard", content=b"x", headers={"X-Seconds-Left": given}, timeout=MINUTES)
        assert answer.status_code == 422
    assert live.get("/readyz").status_code == 200


def test_a_shard_server_asks_for_keys_and_a_front_gives_one(
    begin: Any, sharded: Path, album: Any, tmp_path: Path
) -> None:
    file = tmp_path / "keys.txt"
    file.write_text(f"# of the shards\n{KEY}\n")
    keys = Keys.load(ServiceConfig(read_key_file=file), {})
    (live,) = serve_parts(begin, sharded, 1, keys=keys)
    assert live.post("/v1/shard", b"x").status_code == 401
    front = begin(sharded, sharding=front_of([live], shard_key_file=file))
    assert front.post("/v1/search", album.query()).status_code == 200


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no key"),
        ("# none\n\n", "holds no key"),
        ("a b\n", "not one word"),
        ("\u00e9" * 20, "not plain text"),
    ],
)
def test_a_file_without_a_key_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "key.txt"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        shard_key(file, {})
    with pytest.raises(ConfigError, match="cannot be read"):
        shard_key(tmp_path / "none.txt", {})


def test_the_key_may_stand_in_the_environment() -> None:
    assert shard_key(None, {"CTXDEPLOY_SHARD_KEY": f" {KEY}\n"}) == KEY
    assert shard_key(None, {}) is None and shard_key(None, {"CTXDEPLOY_SHARD_KEY": " "}) is None


def test_what_is_set_wrong_is_said() -> None:
    a, b = "http://a:8001", "http://b:8001"
    config = ShardingConfig(shard=(f"{a}, {b}/", "http://c|https://d/x"))
    assert config.servers == ((a, b), ("http://c", "https://d/x"))
    for settings, said in (
        ({"shards": Part(number=1, count=2), "shard": (a,)}, "exclude each other"),
        ({"shard": (a, a)}, "names http://a:8001 twice"),
        ({"shard": (f"{a},{a}",)}, "twice"),
        ({"shard": (a, " ")}, "--shard: a part of the shards has no server"),
        ({"shard": ("a:8001",)}, "is not the URL of a shard server"),
        ({"shard": ("http://u:p@a",)}, "holds a user or a password"),
        ({"shard": [a]}, "is not a list of texts"),
        ({"shard_key_file": Path("x")}, "--shard-key-file is of a front"),
        ({"shard": (a,), "shard_timeout": 0}, "--shard-timeout 0"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            ShardingConfig(**settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="--shards and --writable exclude each other"):
        ServiceConfig(writable=True, sharding=ShardingConfig(shards=Part(number=1, count=2)))


@pytest.mark.slow
def test_commits_while_many_ask_each_answer_is_of_one_state(
    begin: Any, sharded: Path, album: Any, tmp_path: Path
) -> None:
    archive = Path(shutil.copytree(sharded, tmp_path / "album.ctxindex"))
    servers = serve_parts(begin, archive, 2, refresh_seconds=0.1)
    front = begin(archive, sharding=front_of(servers), refresh_seconds=0.1)
    with PhotoIndex.open(archive) as photos:
        known = {photos.state: frozenset(photos.names())}
    over = threading.Event()

    def ask(_: int) -> list[Any]:
        found = []
        with httpx.Client(timeout=MINUTES) as client:
            while not over.is_set():
                wanted = {"indexed": "first/chelsea.jpg", "top": 500, "expand": 0}
                found.append(client.get(f"{front.url}/v1/search", params=wanted))
        return found

    with ThreadPoolExecutor(8) as threads:
        asking = [threads.submit(ask, number) for number in range(8)]
        try:
            with PhotoIndex.open(archive, writable=True) as photos:
                for number in range(6):
                    photos.add([(f"new/{number}.jpg", album.query("coffee"))])
                    known[photos.state] = frozenset(photos.names())
                    wait_until(lambda state=photos.state: front.service.archives.named(None).photos.state == state)
        finally:
            over.set()
        answers = [answer for one in asking for answer in one.result()]
    assert {answer.status_code for answer in answers} == {200}
    by_state: dict[int, set[str]] = {}
    for answer in answers:
        found = answer.json()
        # Many small shards become one when photos are added: a commit of its own, with the same photos.
        names = known[min(state for state in known if state >= found["state"])]
        assert found["coverage"]["missing"] == [] and found["coverage"]["photos"] == len(names)
        assert {one["name"] for one in found["results"]} <= names
        scores = str([(one["name"], one["score"]) for one in found["results"]])
        by_state.setdefault(found["state"], set()).add(scores)
    assert len(by_state) > 2 and all(len(one) == 1 for one in by_state.values())


def wait_until(condition: Callable[[], bool]) -> None:
    """Return when a condition holds."""
    for _ in range(int(MINUTES / 0.02)):
        if condition():
            return
        threading.Event().wait(0.02)
    raise AssertionError("it has not come to it")


def test_a_front_may_add_and_remove(begin: Any, sharded: Path, album: Any, tmp_path: Path) -> None:
    archive = Path(shutil.copytree(sharded, tmp_path / "album.ctxindex"))
    servers = serve_parts(begin, archive, 2)
    front = begin(archive, sharding=front_of(servers), writable=True)
    job = httpx.put(f"{front.url}/v1/photos/new.jpg", content=album.query("coffee"), timeout=MINUTES)
    assert job.status_code == 202, job.text
    wait_until(lambda: front.get(job.headers["location"]).json()["state"] in ("done", "failed"))
    done = front.get(job.headers["location"]).json()
    assert done["state"] == "done", done
    answer = front.get("/v1/search", indexed="new.jpg").json()
    assert answer["state"] >= done["archive_state"] and answer["coverage"]["missing"] == []
    assert answer["results"][0]["name"] == "new.jpg"
