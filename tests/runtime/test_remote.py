"""Photos of servers, well and unwell: a web server, an S3 server, and one in front of it that fails as it is told."""

import http.client
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, unquote

import pytest

from ctxdeploy.core.errors import ConfigError, MissingExtraError, NoPhotosError, PhotoError
from ctxdeploy.runtime.photo import PhotoReader
from ctxdeploy.runtime.sources import PhotoList, RemoteConfig, list_photos
from ctxdeploy.runtime.sources.remote import change_of
from ctxdeploy.runtime.sources.server import RemotePhoto

for _package in ("fsspec", "aiohttp"):
    pytest.importorskip(_package, reason="the extra remote is not installed")

# A machine may be busy: only where a server keeps silent is the time short.
QUICK = RemoteConfig(attempts=5, backoff=0.001, connect_timeout=60, timeout=60)
HASTY = RemoteConfig(attempts=2, backoff=0.001, timeout=0.5)


class Server(ThreadingHTTPServer):
    """Serves ``files`` (path, bytes), or what ``upstream`` (a port) serves.

    ``faults`` has for a path what happens to its next requests: a status, or ``trickle``, ``silence``, ``cut``.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[int | str]] = {}
        self.upstream: int | None = None
        self.requests: list[str] = []
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about clients that gave up."""


class SilentHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Write no log."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0], errors="surrogateescape")
        self.server.requests.append(self.path)
        faults = self.server.faults.get(path, [])
        fault = faults.pop(0) if faults else 200
        if isinstance(fault, str):
            self.misbehave(fault)
        elif fault != 200:
            self.answer(fault, b"<Error><Code>SlowDown</Code><Message>no</Message></Error>")
        elif self.server.upstream is not None:
            self.forward()
        else:
            data = self.server.files.get(path)
            self.answer(404 if data is None else 200, data or b"")

    def answer(self, status: int, data: bytes, headers: tuple[tuple[str, str], ...] = ()) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def forward(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)
        connection.request("GET", self.path, headers=dict(self.headers))
        response = connection.getresponse()
        skipped = ("content-length", "transfer-encoding", "connection")
        kept = tuple((name, value) for name, value in response.getheaders() if name.lower() not in skipped)
        self.answer(response.status, response.read(), kept)
        connection.close()

    def misbehave(self, fault: str) -> None:
        self.close_connection = True
        if fault == "silence":
            self.server.closing.wait(600)
            return
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        while fault == "trickle" and not self.server.closing.wait(0.02):
            self.wfile.write(b"x")
        self.wfile.write(b"cut")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Write no log."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.closing.set()
        running.shutdown()
        thread.join()


def page(*links: str) -> bytes:
    return "".join(f'<a class=x href="{link}">{link}</a>\n' for link in links).encode()


def reader(listing: PhotoList, name: str) -> PhotoReader:
    (photo,) = (photo for photo in listing.photos if photo.name == name)
    assert photo.reader is not None
    return photo.reader


def hasty(listing: PhotoList, name: str) -> PhotoReader:
    """Return a reader that has half a second from now on, and two attempts."""
    found = reader(listing, name)
    assert isinstance(found, RemotePhoto)
    found.server._config = HASTY
    return found


def contents(listing: PhotoList) -> dict[str, bytes]:
    return {photo.name: reader(listing, photo.name).read() for photo in listing.photos}


# ------------------------------------------------------------------ the web


def test_index_pages(server: Server) -> None:
    name = "caf\u00e9 & #1\udce9.jpg"
    link = quote(name, errors="surrogateescape")
    server.files = {
        "/photos/": page("a.jpg", "a%2Ejpg", "../", "/", "?C=N;O=D", "notes.txt", ".hidden.jpg", "sub/", "/photos/sub/")
        + page("/other/x.jpg", "http://elsewhere.invalid/photos/y.jpg", f"{server.url}/photos/b.png?v=1&amp;w=2", link)
        + page("http://[broken/", "sub/deeper/d.jpg", "/photos/", "ftp://127.0.0.1/photos/z.jpg"),
        "/photos/sub/": page("c.jpg", "../a.jpg", "../../", "loop/"),
        "/photos/sub/loop/": page("../", "/photos/sub/loop/", "e.jpg"),
        **{f"/photos/{path}": path.encode() for path in ("a.jpg", "b.png", "sub/c.jpg", "sub/loop/e.jpg")},
        f"/photos/{name}": b"odd",
        "/photos/sub/deeper/d.jpg": b"d",
    }
    listing = list_photos(f"{server.url}/photos", remote=QUICK)
    assert contents(listing) == {
        "a.jpg": b"a.jpg",
        "b.png": b"b.png",
        name: b"odd",
        "sub/c.jpg": b"sub/c.jpg",
        "sub/deeper/d.jpg": b"d",
        "sub/loop/e.jpg": b"sub/loop/e.jpg",
    }
    assert "/photos/b.png?v=1&w=2" in server.requests
    assert not any(request.startswith("/other") or request == "/" for request in server.requests)
    assert listing.place == f"{server.url}/photos"
    assert listing.folder is None
    assert listing.photos[0].state() is None
    flat = list_photos(f"{server.url}/photos/", recursive=False, remote=QUICK)
    assert [photo.name for photo in flat.photos] == sorted(["a.jpg", "b.png", name])
    assert not flat.is_gone("sub/c.jpg"), "where nobody has looked"
    assert flat.is_gone("c.jpg") and listing.is_gone("sub/gone.jpg")


def test_a_folder_that_fails_hides_what_is_in_it_and_no_more(server: Server) -> None:
    server.files = {"/": page("a.jpg", "sub/"), "/a.jpg": b"a"}
    server.faults = {"/sub/": [403]}
    listing = list_photos(server.url, remote=QUICK)
    (failure,) = listing.unreadable
    assert (failure.name, failure.reason) == ("sub/", "the folder cannot be listed: the server answered 403")
    assert not listing.is_gone("sub/b.jpg")
    assert listing.is_gone("b.jpg")


@pytest.mark.parametrize(
    ("path", "faults", "message"),
    [
        ("/nowhere/", [], "/nowhere cannot be listed: it is not there$"),
        ("/denied/", [401], "/denied cannot be listed: the server answered 401$"),
        ("/down/", [503] * 5, "/down cannot be listed: the server answered 503, 5 times$"),
    ],
)
def test_a_place_that_cannot_be_listed(server: Server, path: str, faults: list[int | str], message: str) -> None:
    server.faults = {path: faults}
    place = server.url.replace("//", "//me:secret@") + path.rstrip("/") + "?token=secret"
    with pytest.raises(ConfigError, match=message) as caught:
        list_photos(place, remote=QUICK)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_that_is_down(server: Server) -> None:
    with pytest.raises(ConfigError, match=r"127.0.0.1:1 cannot be listed: the connection failed \(.*\), 2 times"):
        list_photos("http://127.0.0.1:1", remote=RemoteConfig(attempts=2, backoff=0.001))


def test_a_page_without_photos(server: Server) -> None:
    server.files = {"/": page("notes.txt"), "/empty/": b""}
    with pytest.raises(NoPhotosError, match="holds no photos"):
        list_photos(server.url, remote=QUICK)
    with pytest.raises(ConfigError, match="there is nothing"):
        list_photos(f"{server.url}/empty/", remote=QUICK)


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_twice_unavailable_then_there(server: Server, status: int) -> None:
    server.files = {"/": page("a.jpg"), "/a.jpg": b"photo"}
    server.faults = {"/a.jpg": [status, status]}
    photo = reader(list_photos(server.url, remote=QUICK), "a.jpg")
    assert photo.read() == b"photo"
    assert server.requests.count("/a.jpg") == 3


@pytest.mark.parametrize(
    ("faults", "requests", "reason"),
    [
        ([503] * 9, 5, "the server answered 503, 5 times"),
        ([404], 1, "it is not there"),
        ([403], 1, "the server answered 403"),
        (["cut"] * 9, 5, r"the connection failed \(\w+\), 5 times"),
    ],
)
def test_unavailable_for_good(server: Server, faults: list[int | str], requests: int, reason: str) -> None:
    server.files = {"/": page("a.jpg?X-Amz-Signature=secret"), "/a.jpg": b"photo"}
    server.faults = {"/a.jpg": faults}
    photo = reader(list_photos(server.url.replace("//", "//me:secret@"), remote=QUICK), "a.jpg")
    with pytest.raises(PhotoError, match=f"^{reason}$"):
        photo.read()
    assert server.requests.count("/a.jpg?X-Amz-Signature=secret") == requests


@pytest.mark.parametrize("fault", ["trickle", "silence"])
def test_a_slow_server_has_a_time_limit(server: Server, fault: str) -> None:
    server.files = {"/": page("a.jpg")}
    server.faults = {"/a.jpg": [fault, fault]}
    photo = hasty(list_photos(server.url, remote=QUICK), "a.jpg")
    with pytest.raises(PhotoError, match=r"^there was no complete answer within 0.5 s, 2 times$"):
        photo.read()


def test_pauses_double(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    pauses: list[float] = []
    server.files = {"/": page("a.jpg")}
    server.faults = {"/a.jpg": [503] * 5}
    photo = reader(list_photos(server.url, remote=RemoteConfig()), "a.jpg")
    # The name in that module alone: other threads of this process sleep too.
    monkeypatch.setattr("ctxdeploy.runtime.sources.server.time", SimpleNamespace(sleep=pauses.append))
    with pytest.raises(PhotoError):
        photo.read()
    assert len(pauses) == 4
    assert all(0.25 * 2**n <= pause <= 0.5 * 2**n for n, pause in enumerate(pauses))


def test_lists_on_a_server_and_lists_of_urls(server: Server, tmp_path: Path) -> None:
    server.files = {
        "/in/list.txt": b"a.jpg\nsub/b c#%.jpg\n/top.jpg\n",
        "/in/a.jpg": b"a",
        "/in/sub/b c#%.jpg": b"b",
        "/top.jpg": b"top",
    }
    listing = list_photos(f"{server.url}/in/list.txt?signature=secret", remote=QUICK)
    assert contents(listing) == {"a.jpg": b"a", "sub/b c#%.jpg": b"b", "/top.jpg": b"top"}
    assert listing.place == f"{server.url}/in/list.txt"
    (tmp_path / "l.csv").write_text(
        f'path,box\n{server.url}/top.jpg?X-Amz-Signature=a%2Fb%2Bc%3D%7e,"1,2,3,4"\nlocal.jpg,\n'
    )
    mixed = list_photos(str(tmp_path / "l.csv"), remote=QUICK)
    assert [photo.name for photo in mixed.photos] == [f"{server.url}/top.jpg#1,2,3,4", "local.jpg"]
    assert reader(mixed, f"{server.url}/top.jpg#1,2,3,4").read() == b"top"
    assert server.requests[-1] == "/top.jpg?X-Amz-Signature=a%2Fb%2Bc%3D%7e"
    with pytest.raises(ConfigError, match=r"gone.csv cannot be listed: it is not there"):
        list_photos(f"{server.url}/gone.csv", remote=QUICK)


def test_pythons_own_server(tmp_path: Path) -> None:
    names = sorted(["a.jpg", 'sub/b & <c> "d" é.png', "sub/deep/50%.jpg", "sub/#1?x=y;z.jpg"])
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    handler = partial(SilentHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            listing = list_photos(f"http://127.0.0.1:{running.server_address[1]}/", remote=QUICK)
            assert contents(listing) == {name: name.encode() for name in names}
        finally:
            running.shutdown()
            thread.join()


def test_links_that_lead_back_up_end(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("p.jpg", "a/q.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    for name, target in (("self", "."), ("again", "."), ("a/up", "..")):
        (tmp_path / name).symlink_to(target)
    handler = partial(SilentHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            listing = list_photos(f"http://127.0.0.1:{running.server_address[1]}/", remote=QUICK)
            assert contents(listing) == {"p.jpg": b"p.jpg", "a/q.jpg": b"a/q.jpg"}
        finally:
            running.shutdown()
            thread.join()


def test_folders_of_the_same_names_are_no_circle(server: Server) -> None:
    server.files = {f"/{'0/' * depth}": page("0/", "1/") for depth in range(4)}
    server.files |= {f"/{'0/' * depth}1/": page("a.jpg") for depth in range(4)} | {"/0/0/0/0/": page("b.jpg")}
    names = [photo.name for photo in list_photos(server.url, remote=QUICK).photos]
    assert names == ["0/0/0/0/b.jpg", "0/0/0/1/a.jpg", "0/0/1/a.jpg", "0/1/a.jpg", "1/a.jpg"]


def test_a_server_that_has_one_page_for_everything_ends(server: Server) -> None:
    server.files = {f"/{'x/' * depth}": page("x/") for depth in range(100)}
    with pytest.raises(NoPhotosError):
        list_photos(server.url, remote=QUICK)
    assert len(server.requests) < 10


# ------------------------------------------------------------------ S3


@pytest.fixture(scope="module")
def moto() -> Iterator[int]:
    """Start moto's server; give its port."""
    pytest.importorskip("s3fs", reason="the extra remote is not installed")
    module = pytest.importorskip("moto.server", reason="moto is not installed")
    running = module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    yield running.get_host_and_port()[1]
    running.stop()


@pytest.fixture
def bucket(moto: int, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Give a client of an empty bucket ``photos``; what is under test goes through ``server``, by the environment."""
    import boto3

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    server.upstream = moto
    endpoint = f"http://127.0.0.1:{moto}"
    made = boto3.resource("s3", endpoint_url=endpoint).create_bucket(Bucket="photos")
    yield made
    made.objects.all().delete()
    made.delete()


KEYS = (
    "2024/a.jpg",
    "2024/b c+é%.png",
    "2024/deep/d.JPG",
    "2024/notes.txt",
    "2024/.hidden.jpg",
    "20245/x.jpg",
    "top.jpg",
)


def fill(bucket: Any, *keys: str) -> None:
    for key in keys:
        bucket.put_object(Key=key, Body=key.encode())


def test_a_bucket(bucket: Any) -> None:
    fill(bucket, *KEYS, "2024/folder.jpg/")
    listing = list_photos("s3://photos/2024", remote=QUICK)
    assert contents(listing) == {
        "a.jpg": b"2024/a.jpg",
        "b c+é%.png": "2024/b c+é%.png".encode(),
        "deep/d.JPG": b"2024/deep/d.JPG",
    }
    assert listing.place == "s3://photos/2024"
    state = listing.photos[0].state()
    assert state is not None
    assert state.size == len("2024/a.jpg")
    assert abs(state.mtime_ns / 1e9 - time.time()) < 3600
    again = list_photos("s3://photos/2024/", remote=QUICK)
    assert [photo.state() for photo in again.photos] == [photo.state() for photo in listing.photos]
    assert [photo.name for photo in list_photos("s3://photos/2024", recursive=False, remote=QUICK).photos] == [
        "a.jpg",
        "b c+é%.png",
    ]
    assert len(list_photos("s3://photos", remote=QUICK).photos) == 5
    assert listing.is_gone("deep/gone.jpg")


def test_a_bucket_of_many_pages(bucket: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctxdeploy.runtime.sources.remote.PAGE", 50)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: fill(bucket, f"many/{number:04d}.jpg"), range(220)))
    server.faults = {"/photos": [200, 503, 503]}
    listing = list_photos("s3://photos/many", remote=QUICK)
    assert [photo.name for photo in listing.photos] == [f"{number:04d}.jpg" for number in range(220)]
    with ThreadPoolExecutor(16) as pool:
        data = list(pool.map(lambda photo: photo.reader.read() if photo.reader else None, listing.photos))
    assert data == [f"many/{number:04d}.jpg".encode() for number in range(220)]
    assert sum(request.startswith("/photos?") for request in server.requests) == 5 + 2


def test_a_list_of_objects_and_a_list_that_is_one(bucket: Any, tmp_path: Path) -> None:
    fill(bucket, "in/a.jpg", "in/b#?.jpg")
    bucket.put_object(Key="in/list.csv", Body=b'path,box\na.jpg,"0,0,5,5"\nb#?.jpg,\n')
    there = list_photos("s3://photos/in/list.csv", remote=QUICK)
    assert contents(there) == {"a.jpg#0,0,5,5": b"in/a.jpg", "b#?.jpg": b"in/b#?.jpg"}
    assert there.place == "s3://photos/in/list.csv"
    (tmp_path / "list.txt").write_text("s3://key:secret@photos/in/a.jpg\ns3://photos/in/b#?.jpg\n")
    here = list_photos(str(tmp_path / "list.txt"), remote=QUICK)
    assert contents(here) == {"s3://photos/in/a.jpg": b"in/a.jpg", "s3://photos/in/b#?.jpg": b"in/b#?.jpg"}


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("s3://photos/nowhere", "^s3://photos/nowhere: there is nothing, or no such place$"),
        ("s3://no-bucket/x", r"^s3://no-bucket/x cannot be listed: the server answered 404 \(NoSuchBucket\)$"),
        ("s3://key:secret@no-bucket/x", r"^s3://no-bucket/x cannot be listed: the server answered 404"),
    ],
)
def test_a_prefix_that_is_not_there(bucket: Any, place: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        list_photos(place, remote=QUICK)


def test_a_prefix_without_photos(bucket: Any) -> None:
    fill(bucket, "2024/notes.txt")
    with pytest.raises(NoPhotosError, match="s3://photos/2024 holds no photos"):
        list_photos("s3://photos/2024", remote=QUICK)


@pytest.mark.parametrize(
    ("faults", "requests", "reason"),
    [
        ([503, 503], 3, None),
        ([503] * 9, 5, r"the server answered 503 \(SlowDown\), 5 times"),
        ([403], 1, r"the server answered 403.*"),
        (["cut"], 2, None),
    ],
)
def test_an_object_that_fails(
    bucket: Any, server: Server, faults: list[int | str], requests: int, reason: str | None
) -> None:
    fill(bucket, "a.jpg")
    photo = reader(list_photos("s3://photos", remote=QUICK), "a.jpg")
    server.faults = {"/photos/a.jpg": faults}
    if reason is None:
        assert photo.read() == b"a.jpg"
    else:
        with pytest.raises(PhotoError, match=f"^{reason}$"):
            photo.read()
    assert sum(request.startswith("/photos/a.jpg") for request in server.requests) == requests


def test_an_object_that_vanished_or_trickles(bucket: Any, server: Server) -> None:
    fill(bucket, "a.jpg", "b.jpg")
    listing = list_photos("s3://photos", remote=QUICK)
    bucket.Object("a.jpg").delete()
    with pytest.raises(PhotoError, match=r"^(it is not there|the server answered 404.*)$"):
        reader(listing, "a.jpg").read()
    assert sum(request.startswith("/photos/a.jpg") for request in server.requests) == 1
    server.faults = {"/photos/b.jpg": ["trickle", "silence"]}
    with pytest.raises(PhotoError, match=r"^there was no complete answer within 0.5 s, 2 times$"):
        hasty(listing, "b.jpg").read()


def test_an_s3_server_that_is_down(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"^s3://photos cannot be listed: the connection failed \(.*\), 2 times$"):
        list_photos("s3://photos", remote=RemoteConfig(attempts=2, backoff=0.001))


def test_no_credentials(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ConfigError, match="there are no credentials"):
        list_photos("s3://photos", remote=QUICK)


# ------------------------------------------------------------------ other file systems


def test_any_file_system_of_fsspec() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in ("/test-listing/a.jpg", "/test-listing/sub/b.jpg", "/test-listing/.c.jpg", "/test-listing/n.txt"):
        memory.pipe_file(path, path.encode())
    try:
        listing = list_photos("memory://test-listing", remote=QUICK)
        assert contents(listing) == {"a.jpg": b"/test-listing/a.jpg", "sub/b.jpg": b"/test-listing/sub/b.jpg"}
        assert listing.photos[0].state() is not None
        memory.rm("/test-listing/a.jpg")
        with pytest.raises(PhotoError, match=r"^it is not there$"):
            reader(listing, "a.jpg").read()
        with pytest.raises(ConfigError, match="cannot be listed: it is not there"):
            list_photos("memory://nowhere-at-all", remote=QUICK)
    finally:
        memory.rm("/test-listing", recursive=True)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nonsense://me:secret@host/x", "nonsense:// cannot be read"),
        ("http://me:secret@[::1/x", r"http://\[::1/x is not an address \(Invalid IPv6 URL\)"),
        ("simplecache::http://me:secret@host/x", "simplecache::http://host/x is not a folder"),
    ],
)
def test_what_no_file_system_reads(place: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        list_photos(place, remote=QUICK)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "package", "extra"),
    [
        ("s3://b/x", "s3fs", "remote"),
        ("http://h/x", "aiohttp", "remote"),
        ("gs://b/x", "gcsfs", "gcs"),
        ("ftp://h/x", "fsspec", "remote"),
    ],
)
def test_the_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch, place: str, package: str, extra: str) -> None:
    import importlib

    real = importlib.import_module

    def missing(name: str) -> Any:
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name)

    monkeypatch.setattr("ctxdeploy.core.extras.importlib.import_module", missing)
    with pytest.raises(MissingExtraError, match=rf"{package} is not installed: run .*\[{extra}\]'"):
        list_photos(place, remote=QUICK)


def test_the_time_of_change_as_file_systems_tell_it() -> None:
    from datetime import UTC, datetime, timedelta, timezone

    moment = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    expected = 1_714_979_289_123_456_000
    assert change_of({"LastModified": moment}) == expected
    assert change_of({"updated": moment.isoformat()}) == expected
    assert change_of({"mtime": moment.astimezone(timezone(timedelta(hours=5)))}) == expected
    assert change_of({"created": moment.replace(tzinfo=None)}) == expected
    assert change_of({"mtime": 1.5}) == 1_500_000_000
    assert change_of({"size": 5}) is None
    for nothing in (float("inf"), float("nan"), -1.0, True, "yesterday", [5]):
        assert change_of({"mtime": nothing}) is None
    tag = change_of({"ETag": '"abc"'})
    assert tag is not None
    assert 1 << 62 <= tag < 1 << 63
    assert tag == change_of({"ETag": '"abc"', "mtime": None})
    assert tag != change_of({"ETag": '"abd"'})


def test_the_patience_that_makes_no_sense() -> None:
    for setting in ({"attempts": 0}, {"timeout": 0.0}, {"backoff": -1.0}):
        with pytest.raises(ConfigError):
            RemoteConfig(**setting)  # type: ignore[arg-type]
