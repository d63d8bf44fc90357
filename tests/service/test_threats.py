"""The lines of docs/serving-security.md, each with the test that it names."""

import hashlib
import io
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from PIL import Image

from ctxdeploy.archive import store_origin
from ctxdeploy.core.errors import ArchiveError, ConfigError
from ctxdeploy.runtime.sources import list_photos
from ctxdeploy.service import ServiceConfig

pytestmark = pytest.mark.slow
MINUTES = 300.0
READ_KEY, WRITE_KEY = "read-0123456789abcdef", "write-0123456789abcdef"
EVIL = "http://evil.example"
SECRET = b"the secret of another file"
# Ways out of a folder, as they stand in a path of HTTP.
WAYS_OUT = (
    "../secret.jpg",
    "%2e%2e/secret.jpg",
    "%2E%2E%2Fsecret.jpg",
    "first/../../secret.jpg",
    "first/%2e%2e/%2e%2e/secret.jpg",
    "..%5csecret.jpg",
    "....//secret.jpg",
    "%252e%252e/secret.jpg",
    "/etc/passwd",
    "//etc/passwd",
    "%2fetc%2fpasswd",
    "file:///etc/passwd",
    "first/chelsea.jpg%00.png",
    "..%c0%afsecret.jpg",
    ".",
    "..",
    "%00",
    "C:%5Cwindows%5Cwin.ini",
)


class Album:
    """A copy of the album: its photos, archive, and a secret beside them."""

    def __init__(self, album: Any, folder: Path) -> None:
        self.query = album.query
        self.folder = folder
        self.photos = Path(shutil.copytree(album.photos, folder / "photos"))
        self.archive = Path(shutil.copytree(album.archive, folder / "album.ctxindex"))
        store_origin(self.archive, list_photos(str(self.photos)), {}, moved=True)
        (folder / "secret.jpg").write_bytes(SECRET)


@pytest.fixture(scope="module")
def mine(album: Any, tmp_path_factory: pytest.TempPathFactory) -> Album:
    """An album of this module."""
    return Album(album, tmp_path_factory.mktemp("a-folder-of-the-server"))


@pytest.fixture(scope="module")
def guarded(mine: Album, start_for_module: Any) -> Any:
    """A service that writes, with keys."""
    keys = {"CTXDEPLOY_READ_KEYS": READ_KEY, "CTXDEPLOY_WRITE_KEYS": WRITE_KEY}
    return start_for_module(mine.archive, "--writable", env=keys)


@pytest.fixture(scope="module")
def unguarded(album: Any, tmp_path_factory: pytest.TempPathFactory, start_for_module: Any) -> Any:
    """A service that writes, on loopback, without keys."""
    own = Album(album, tmp_path_factory.mktemp("another"))
    return start_for_module(own.archive, "--writable")


def ask(served: Any, method: str, path: str, key: str | None = READ_KEY, **more: Any) -> httpx.Response:
    """Ask a service that runs as a process."""
    headers = {**({} if key is None else {"Authorization": f"Bearer {key}"}), **more.pop("headers", {})}
    return httpx.request(method, f"{served.url}{path}", headers=headers, timeout=MINUTES, **more)


def raw(served: Any, head: str, body: bytes = b"") -> bytes:
    """Send bytes that no library would write, and return the reply."""
    host, _, port = served.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=MINUTES) as connection:
        connection.sendall(head.encode("latin-1") + body)
        reply = b""
        while piece := connection.recv(1 << 16):
            reply += piece
        return reply


def get(served: Any, path: str, more: str = "", key: str = READ_KEY) -> bytes:
    """Return the whole reply to a path that is sent as it is."""
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n{more}Connection: close\r\n\r\n"
    return raw(served, head)


def status(reply: bytes) -> int:
    """Return the status of a reply."""
    return int(reply.split(b" ", 2)[1])


def operations(served: Any) -> Iterator[tuple[str, str]]:
    """Yield method and path of everything that ``openapi.json`` lists."""
    for path, methods in ask(served, "GET", "/openapi.json").json()["paths"].items():
        for method in methods:
            yield method.upper(), re.sub(r"\{\w+(:path)?\}", "x", path)


def names(served: Any, key: str = READ_KEY) -> list[Any]:
    """Return what the archive holds."""
    found: list[Any] = ask(served, "GET", "/v1/photos", key).json()["photos"]
    return found


def digest(folder: Path) -> str:
    """Return a hash of all files of a folder but those of writers."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and "lock" not in path.name.lower()]
    files = [path for path in files if "lease" not in path.parts]
    return hashlib.sha256(b"".join(str(path).encode() + path.read_bytes() for path in files)).hexdigest()


# ---- who may


def test_without_a_key_nothing_answers(guarded: Any) -> None:
    asked = 0
    for method, path in operations(guarded):
        if path.startswith("/v1/"):
            for key in (None, "wrong-0123456789abcdef", READ_KEY[:-1], READ_KEY + "x", f"{READ_KEY},{READ_KEY}"):
                found = ask(guarded, method, path, key)
                assert found.status_code == 401, (method, path, key)
                assert found.headers["www-authenticate"] == "Bearer"
                asked += 1
            assert ask(guarded, method, path, None, headers={"X-API-Key": ""}).status_code == 401
            for way in (f"?key={READ_KEY}", f"?api_key={READ_KEY}", f"?access_token={READ_KEY}"):
                assert ask(guarded, method, path + way, None).status_code == 401
    assert asked > 30
    assert ask(guarded, "GET", "/v1/photos").status_code == 200
    assert ask(guarded, "GET", "/v1/photos", None, headers={"X-API-Key": READ_KEY}).status_code == 200
    for path in ("//v1/photos", "/V1/photos", "/v1//photos", "/./v1/photos", "/x/../v1/photos", "/%76%31/photos"):
        reply = get(guarded, path, key="wrong-0123456789abcdef")
        assert status(reply) in (401, 404) and b"chelsea" not in reply, path


def test_a_read_key_changes_nothing(guarded: Any, mine: Album) -> None:
    before = names(guarded)
    photo = mine.query()
    for found in (
        ask(guarded, "PUT", "/v1/photos/new.jpg", content=photo),
        ask(guarded, "POST", "/v1/photos", files={"photo": ("new.jpg", photo)}),
        ask(guarded, "DELETE", "/v1/photos/first/coffee.jpg"),
    ):
        assert found.status_code == 403, found.text
    for header in ("X-HTTP-Method-Override", "X-Method-Override", "X-HTTP-Method"):
        ask(guarded, "POST", "/v1/photos/first/coffee.jpg", headers={header: "DELETE"})
        ask(guarded, "GET", "/v1/photos/first/coffee.jpg?_method=DELETE", headers={header: "DELETE"})
    assert ask(guarded, "GET", "/v1/jobs").json().get("jobs") == []
    assert names(guarded) == before


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_open_address_needs_keys(album: Any, host: str) -> None:
    command = [sys.executable, "-m", "ctxdeploy", "serve", str(album.archive), "--host", host, "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=MINUTES)
    assert done.returncode == ConfigError.exit_code
    assert "--allow-no-keys" in done.stderr and "listening" not in done.stdout


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key is compared, by their hashes, whichever is given; the keys themselves are not kept."""
    from ctxdeploy.service import keys as module

    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    given = {"CTXDEPLOY_READ_KEYS": f"{READ_KEY} {READ_KEY}2", "CTXDEPLOY_WRITE_KEYS": WRITE_KEY}
    keys = module.Keys.load(ServiceConfig(), given)
    monkeypatch.setattr(module.hmac, "compare_digest", compare)
    for key in (READ_KEY, f"{READ_KEY}2", WRITE_KEY, "wrong", ""):
        compared.clear()
        keys.allows(key, module.READ)
        assert len(compared) == 3
        assert {len(hashed) for pair in compared for hashed in pair} == {32}
    assert READ_KEY not in repr(keys) + repr(vars(keys))


def test_keys_stand_nowhere(guarded: Any) -> None:
    wrong = "wrong-fedcba9876543210"
    shown = []
    for key in (READ_KEY, WRITE_KEY, wrong):
        for path in ("/v1/archives", f"/v1/photos?prefix={key}", f"/v1/nothing/{key}x", f"/v1/search?{key}=1"):
            reply = ask(guarded, "GET", path, key)
            if key not in path:
                shown.append(reply.text + str(reply.headers))
    shown += [ask(guarded, "GET", "/metrics").text, "".join(guarded.log)]
    assert "/v1/archives" in shown[-1]
    for key in (READ_KEY, WRITE_KEY, wrong):
        assert not [text for text in shown if key in text]


# ---- what may be reached


def test_names_do_not_lead_out_of_the_place(guarded: Any, mine: Album) -> None:
    for way in WAYS_OUT:
        for kind in ("originals", "thumbnails", "photos"):
            reply = get(guarded, f"/v1/{kind}/{way}")
            # Dots that the path of HTTP itself resolves may lead to another endpoint, which is one of ours.
            assert SECRET not in reply and b"root:" not in reply, (kind, way)
            assert status(reply) in (200, 301, 307, 400, 401, 404, 405, 422), (kind, way, reply)
            assert status(reply) != 200 or reply.count(b"application/json"), (kind, way, reply[:500])
        head = f"PUT /v1/photos/{way} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {WRITE_KEY}\r\n"
        photo = mine.query()
        reply = raw(guarded, f"{head}Connection: close\r\nContent-Length: {len(photo)}\r\n\r\n", photo)
        assert status(reply) < 500, (way, reply)
    assert (mine.folder / "secret.jpg").read_bytes() == SECRET
    known = {"photos", "album.ctxindex", "secret.jpg"}
    assert {path.name for path in mine.folder.iterdir()} == known


def test_links_out_of_the_place_are_not_followed(album: Any, tmp_path: Path, start: Any) -> None:
    own = Album(album, tmp_path)
    outside = tmp_path / "outside"
    outside.mkdir()
    Image.new("RGB", (64, 48), (1, 2, 3)).save(outside / "coffee.jpg")
    foreign = (outside / "coffee.jpg").read_bytes()
    (own.photos / "first/coffee.jpg").unlink()
    (own.photos / "first/coffee.jpg").symlink_to(outside / "coffee.jpg")
    shutil.rmtree(own.photos / "second")
    (own.photos / "second").symlink_to(outside)
    served = start(own.archive)
    for name in ("first/coffee.jpg", "second/coffee.jpg"):
        original = ask(served, "GET", f"/v1/originals/{name}", None)
        assert original.status_code in (403, 404) and original.content != foreign, name
        assert ask(served, "GET", f"/v1/thumbnails/{name}", None).status_code in (403, 404), name
    assert ask(served, "GET", "/v1/originals/first/rocket.jpg", None).status_code == 200


def test_problems_name_no_path_of_the_server(guarded: Any, mine: Album, connect: Callable[..., Any]) -> None:
    (mine.photos / "second/camera.jpg").unlink()
    photo = mine.query()
    replies = [
        ask(guarded, "POST", "/v1/search", content=photo[:500]),
        ask(guarded, "POST", "/v1/search", content=b"no photo"),
        ask(guarded, "POST", "/v1/search?rank=global", content=photo),
        ask(guarded, "POST", "/v1/search?box=0,0,1e9,1e9", content=photo),
        ask(guarded, "GET", "/v1/search?indexed=none.jpg"),
        ask(guarded, "GET", "/v1/search?indexed=first/coffee.jpg&archive=none"),
        ask(guarded, "GET", "/v1/search?indexed=second/camera.jpg&turn=all"),
        ask(guarded, "GET", "/v1/originals/second/camera.jpg"),
        ask(guarded, "GET", "/v1/thumbnails/second/camera.jpg"),
        ask(guarded, "GET", "/v1/photos/none.jpg"),
        ask(guarded, "GET", "/v1/jobs/none"),
    ]
    assert [reply.status_code for reply in replies if reply.status_code >= 500] == []
    assert sum(reply.status_code >= 400 for reply in replies) >= 9
    facts = [ask(guarded, "GET", path) for path in ("/v1/archives", "/v1/archives/album", "/metrics", "/openapi.json")]
    for reply in [*replies, *facts]:
        assert str(mine.folder) not in reply.text and mine.folder.name not in reply.text, reply.text
        assert "site-packages" not in reply.text and str(Path.home()) + "/" not in reply.text, reply.text
    service = connect(mine.archive).app.state.service
    told = service.problem(ArchiveError(f"{mine.archive}/shard-000001: the postings are damaged"))
    assert mine.folder.name not in told.detail and "damaged" in told.detail


def test_a_defect_is_told_without_its_traceback(
    album: Any, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(album.archive)

    def defect(*_: object) -> None:
        raise RuntimeError("of the inside: /srv/photos")

    monkeypatch.setattr(type(client.app.state.service.archives), "named", defect)
    reply = client.get("/v1/search", params={"indexed": "first/coffee.jpg"})
    assert reply.status_code == 500
    assert "inside" not in reply.text and "RuntimeError" not in reply.text and "Traceback" not in reply.text
    assert reply.json()["request_id"] == reply.headers["x-request-id"]


def test_reading_changes_no_file_of_the_archive(album: Any, tmp_path: Path, start: Any) -> None:
    own = Album(album, tmp_path)
    before = digest(own.archive), digest(own.photos)
    served = start(own.archive)
    photo = own.query()
    for method, path, body in (
        ("POST", "/v1/search?verify=5", photo),
        ("GET", "/v1/search?indexed=first/coffee.jpg", None),
        ("GET", "/v1/thumbnails/first/coffee.jpg", None),
        ("GET", "/v1/photos", None),
    ):
        assert ask(served, method, path, None, content=body).status_code == 200, path
    for method, path in (("PUT", "new.jpg"), ("DELETE", "first/coffee.jpg")):
        found = ask(served, method, f"/v1/photos/{path}", None, content=photo if method == "PUT" else None)
        assert found.status_code == 403, found.text
    assert served.end() == 0
    assert (digest(own.archive), digest(own.photos)) == before


# ---- what people's browsers get


def test_markup_in_names_stays_data(guarded: Any) -> None:
    odd = "odd/<i>café & 'x'.png"
    replies = [
        ask(guarded, "GET", "/v1/search", params={"indexed": odd}),
        ask(guarded, "GET", "/v1/photos", params={"prefix": "odd/"}),
        ask(guarded, "GET", "/v1/search", params={"indexed": "<script>alert(1)</script>"}),
        ask(guarded, "GET", "/v1/archives/<script>alert(1)<%2Fscript>"),
        ask(guarded, "GET", "/<script>alert(1)</script>"),
    ]
    assert odd in replies[1].text or json.dumps(odd)[1:-1] in replies[1].text
    for reply in replies:
        assert reply.headers["content-type"].split(";")[0] in ("application/json", "application/problem+json")
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in reply.headers["content-security-policy"]


def test_pictures_are_no_pages(album: Any, tmp_path: Path, start: Any) -> None:
    own = Album(album, tmp_path)
    page = b"<!doctype html><script>alert(1)</script>"
    (own.photos / "first/coins.jpg").write_bytes(page)
    photo = (own.photos / "first/rocket.jpg").read_bytes()
    (own.photos / "first/rocket.jpg").write_bytes(photo + page)
    served = start(own.archive)
    for kind in ("originals", "thumbnails"):
        for name in ("coins", "rocket", "chelsea"):
            reply = ask(served, "GET", f"/v1/{kind}/first/{name}.jpg", None)
            assert reply.status_code == 200 or name == "coins"
            told = reply.headers["content-type"].split(";")[0]
            assert told in ("image/jpeg", "application/octet-stream", "application/problem+json"), (name, told)
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert "default-src 'none'" in reply.headers["content-security-policy"]
    thumbnail = ask(served, "GET", "/v1/thumbnails/first/rocket.jpg", None).content
    assert page not in thumbnail and Image.open(io.BytesIO(thumbnail)).format == "JPEG"


def test_line_ends_write_no_headers_and_no_log(guarded: Any, mine: Album) -> None:
    evil = "%0d%0aX-Evil:%201%0d%0a%0d%0aforged"
    paths = [f"/v1/{kind}/{evil}.jpg" for kind in ("originals", "thumbnails", "photos", "archives", "jobs")]
    paths += [f"/v1/search?indexed={evil}", f"/v1/photos?prefix={evil}", f"/{evil}", f"/v1/search?{evil}=1"]
    replies = [get(guarded, path) for path in paths]
    photo = mine.query()
    put = f"PUT /v1/photos/{evil}.jpg HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {WRITE_KEY}\r\n"
    replies.append(raw(guarded, f"{put}Connection: close\r\nContent-Length: {len(photo)}\r\n\r\n", photo))
    for given in ("a\x1b[31mb", "<script>", "a\tX-Evil: 1", "y" * 5000, "é"):
        replies.append(get(guarded, "/livez", f"X-Request-ID: {given}\r\n"))
        assert f"x-request-id: {given}".encode("latin-1") not in replies[-1].lower()
    for reply in replies:
        assert b"\nx-evil" not in reply.lower().split(b"\r\n\r\n")[0] and status(reply) < 500, reply[:500]
    log = "".join(guarded.log)
    assert "/livez" in log and "forged" not in log and "X-Evil" not in log and "\x1b" not in log


def test_the_log_holds_nothing_that_clients_sent(guarded: Any, mine: Album) -> None:
    told = "a-private-holiday"
    ask(guarded, "GET", f"/v1/search?indexed={told}.jpg")
    ask(guarded, "GET", f"/v1/originals/{told}/1.jpg", headers={"User-Agent": told, "Referer": f"http://{told}"})
    ask(guarded, "POST", "/v1/search", files={"photo": (f"{told}.jpg", mine.query())})
    ask(guarded, "POST", f"/v1/search?name={told}", content=told.encode())
    ask(guarded, "GET", f"/{told}")
    log = "".join(guarded.log)
    assert "/v1/search" in log and told not in log and "127.0.0.1" not in log
    assert told not in ask(guarded, "GET", "/metrics").text


@pytest.mark.parametrize("origin", [EVIL, "null", "http://127.0.0.1.evil.example", "http://127.0.0.1:1"])
def test_a_page_of_another_origin_changes_nothing(unguarded: Any, mine: Album, origin: str) -> None:
    """What a browser sends for a page without asking first: forms, and bodies of plain text."""
    before = names(unguarded)
    cross = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
    photo = mine.query()
    for found in (
        ask(unguarded, "POST", "/v1/photos", None, files={"photo": ("new.jpg", photo)}, headers=cross),
        ask(unguarded, "POST", "/v1/photos", None, files={"photo": ("new.jpg", photo)}, headers={"Origin": origin}),
        ask(unguarded, "POST", "/v1/photos", None, content=photo, headers={**cross, "Content-Type": "text/plain"}),
        ask(unguarded, "PUT", "/v1/photos/new.jpg", None, content=photo, headers=cross),
        ask(unguarded, "DELETE", "/v1/photos/first/coffee.jpg", None, headers=cross),
    ):
        assert found.status_code == 403, found.text
    assert names(unguarded) == before


def test_a_page_of_another_origin_reads_nothing(unguarded: Any, connect: Callable[..., Any], album: Any) -> None:
    preflight = {"Origin": EVIL, "Access-Control-Request-Method": "PUT"}
    for found in (
        ask(unguarded, "GET", "/v1/photos", None, headers={"Origin": EVIL}),
        ask(unguarded, "OPTIONS", "/v1/photos/a.jpg", None, headers=preflight),
    ):
        assert not [name for name in found.headers if name.lower().startswith("access-control-allow")]
    assert ask(unguarded, "GET", "/v1/photos", None).headers["cross-origin-resource-policy"] == "same-origin"
    client = connect(album.archive, config=ServiceConfig(allow_origins=("https://app.example.org",)))
    friend = client.get("/v1/archives", headers={"Origin": "https://app.example.org"})
    assert friend.headers["access-control-allow-origin"] == "https://app.example.org"
    assert "access-control-allow-origin" not in client.get("/v1/archives", headers={"Origin": EVIL}).headers
    assert "access-control-allow-credentials" not in friend.headers


def test_a_foreign_host_is_refused_on_loopback(unguarded: Any, connect: Callable[..., Any], album: Any) -> None:
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "", "a@b"):
        reply = raw(unguarded, f"GET /v1/photos HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
        assert status(reply) in (400, 421) and b"chelsea" not in reply, host
    for host in ("127.0.0.1", "localhost:8000", "[::1]:8000"):
        reply = raw(unguarded, f"GET /v1/photos HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
        assert status(reply) == 200, host
    client = connect(album.archive, config=ServiceConfig(allow_hosts=("photos.example.org",)))
    assert client.get("/v1/archives", headers={"Host": "photos.example.org"}).status_code == 200
    assert client.get("/v1/archives", headers={"Host": "evil.example"}).status_code == 421


def test_no_url_is_fetched(unguarded: Any) -> None:
    with socket.socket() as trap:
        trap.bind(("127.0.0.1", 0))
        trap.listen()
        trap.settimeout(0.5)
        url = f"http://127.0.0.1:{trap.getsockname()[1]}/x.jpg"
        for word in ("indexed", "name", "prefix", "archive", "photo", "url"):
            assert ask(unguarded, "GET", f"/v1/search?indexed=first/coffee.jpg&{word}={url}", None).status_code < 500
        svg = f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}"/></svg>'
        for body in (url, f"{url}\n{url}", svg, json.dumps({"url": url})):
            assert ask(unguarded, "POST", "/v1/search", None, content=body.encode()).status_code in (415, 422)
            files = {"photo": (url, body.encode())}
            assert ask(unguarded, "POST", "/v1/search", None, files=files).status_code in (415, 422)
        for kind in ("originals", "thumbnails", "photos"):
            assert ask(unguarded, "GET", f"/v1/{kind}/{url}", None).status_code in (404, 422)
        with pytest.raises(TimeoutError):
            trap.accept()


# ---- how much may be asked


def test_bombs_are_refused_within_memory(
    unguarded: Any, album: Any, load_reference: Callable[[str], ModuleType]
) -> None:
    hostile = load_reference("hostile_uploads")
    refused = 0
    before = hostile.memory(unguarded.process.pid)
    for name, data in hostile.specials(album.query()):
        found = ask(unguarded, "POST", "/v1/search?turn=none", None, content=data)
        assert found.status_code in (200, 413, 415, 422), (name, found.text)
        refused += found.status_code != 200
        assert found.status_code == 413 or not name.startswith(("png bomb", "huge png")), (name, found.text)
        assert hostile.memory(unguarded.process.pid) < before + 1024, name
    assert refused > 10
    assert ask(unguarded, "POST", "/v1/search", None, content=album.query()).status_code == 200


def test_limits_hold_for_every_parameter(unguarded: Any, album: Any) -> None:
    for word in ("top", "verify", "rerank", "expand"):
        for value in ("1000000000", "1" + "0" * 400, "-1", "nan", "1e3", "", "0x10"):
            found = ask(unguarded, "GET", f"/v1/search?indexed=first/coffee.jpg&{word}={value}", None)
            assert found.status_code in (400, 414, 422), (word, value, found.text)
    for box in ("0,0,nan,1", "0,0,inf,inf", "1,1,0,0", "1,2,3", "a,b,c,d", "0,0,0,0", "1e309,0,1,1"):
        found = ask(unguarded, "POST", f"/v1/search?box={box}", None, content=album.query())
        assert found.status_code == 422, (box, found.text)
    for path in ("/v1/thumbnails/first/coffee.jpg?size=1000000000", "/v1/photos?limit=1000000000"):
        assert ask(unguarded, "GET", path, None).status_code == 422, path
    many = [("photo", (f"{i}.jpg", b"x")) for i in range(65)]
    assert ask(unguarded, "POST", "/v1/search/batch", None, files=many).status_code in (413, 422)
    for length in (60_000, 200_000):  # httpx sends no longer URL than 65,536
        try:
            long = get(unguarded, "/v1/search?indexed=first/coffee.jpg&prefix=" + "a" * length)
        except ConnectionError:  # it does not read all of it
            long = b"HTTP/1.1 400 Bad Request"
        assert status(long) in (200, 400, 414, 422, 431), long[:500]
    assert status(long) != 200


def test_pictures_are_in_no_shared_cache(guarded: Any) -> None:
    for kind in ("originals", "thumbnails"):
        told = ask(guarded, "GET", f"/v1/{kind}/first/chelsea.jpg").headers["cache-control"]
        assert "private" in told or "no-store" in told, told
    answer = ask(guarded, "GET", "/v1/search?indexed=first/chelsea.jpg").headers.get("cache-control", "")
    assert "public" not in answer


def test_the_page_runs_nothing_but_itself(guarded: Any) -> None:
    page = ask(guarded, "GET", "/", None)
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy or "default-src 'self'" in policy
    assert "unsafe" not in policy and "*" not in policy and "http" not in policy
    assert "frame-ancestors 'none'" in policy
    assert not re.findall(r"(?:src|href)=[\"']?(?:https?:)?//", page.text)
    assert not re.findall(r"<script(?![^>]*\bsrc=)|\son\w+=|<style", page.text)
