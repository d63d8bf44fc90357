"""What a list, or a server, may not do: name a program, send without end, lead into this machine's own network."""

import gzip
import os
import threading
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.core import urls
from ctxdeploy.core.errors import ConfigError, NoPhotosError, PhotoError
from ctxdeploy.core.urls import is_public, redirect_refusal
from ctxdeploy.runtime.decode.decode import TooLargeError
from ctxdeploy.runtime.sources import RemoteConfig, list_photos, remote, server
from ctxdeploy.runtime.sources.server import RemotePhoto, Servers

for _package in ("fsspec", "aiohttp"):
    pytest.importorskip(_package, reason="the extra remote is not installed")

QUICK = RemoteConfig(attempts=2, backoff=0.001, connect_timeout=60, timeout=60)
MB = 1 << 20


def gzipped(count: int) -> bytes:
    """Return so many MB of zeros, compressed, without ever holding them."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*(packer.compress(bytes(MB)) for _ in range(count)), packer.flush()])


class Hostile(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        getattr(self, f"do_{path.strip('/').partition('.')[0].partition('/')[0]}", self.do_folder)()

    def answer(self, status: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_endless(self) -> None:
        """Send without end, or until the other side has had enough."""
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):
            while True:
                self.wfile.write(b"\xff\xd8\xff" + b"a/" * MB)

    def do_bomb(self) -> None:
        self.answer(200, gzipped(64), Content_Encoding="gzip")

    def do_deflated(self) -> None:
        self.answer(200, zlib.compress(b"photo"), Content_Encoding="deflate")

    def do_cut(self) -> None:
        self.answer(200, gzip.compress(bytes(range(256)) * 9)[:-9], Content_Encoding="gzip")

    def do_odd(self) -> None:
        self.answer(200, b"photo", Content_Encoding="br")

    def do_promised(self) -> None:
        """Promise 5 GB and send some."""
        self.send_response(200)
        self.send_header("Content-Length", str(5 << 30))
        self.end_headers()
        self.close_connection = True

    def do_photo(self) -> None:
        self.answer(200, b"photo")

    def do_to(self) -> None:
        self.answer(302, Location=self.path.partition("?")[2])

    def do_folder(self) -> None:
        """An index page with folders that are not the same as those of any other."""
        self.answer(200, "".join(f'<a href="f{len(self.path)}-{n}/">' for n in range(3)).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Write no log."""


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Keep quiet about clients that gave up."""

    with pytest.MonkeyPatch.context() as patch, Quiet(("127.0.0.1", 0), Hostile) as running:
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def photo(url: str) -> RemotePhoto:
    return Servers(QUICK).photo(url, "a list")


# ------------------------------------------------------------------ what a list may name


@pytest.mark.parametrize(
    "line",
    [
        "reference://x.jpg::file:///tmp/refs.json",
        "simplecache::reference://x::file:///tmp/refs.json",
        "zip://a.jpg::http://user:SECRET@127.0.0.1:1/a.zip",
        "zip://a.jpg::file:///ANY.jpg",
        "ftp://user:SECRET@host/a.jpg",
        "memory://a.jpg",
        "local:///etc/a.jpg",
        "github://org:SECRET@/a.jpg",
        "REFERENCE://x.jpg",
        "filecache://x.jpg",
        "data://image/jpeg;base64,AAAA",
    ],
)
@pytest.mark.parametrize("allowed", [(), ("sftp",)])
def test_what_a_list_may_not_name(tmp_path: Path, line: str, allowed: tuple[str, ...]) -> None:
    (tmp_path / "list.txt").write_text(f"a.jpg\n{line}\n")
    (tmp_path / "list.csv").write_text(f'path\na.jpg\n"{line}"\n')
    for name in ("list.txt", "list.csv"):
        if line.startswith("simplecache::"):  # no URL: the name of a file that is not there
            assert all(found.path is not None for found in list_photos(str(tmp_path / name)).photos)
            continue
        found = list_photos(str(tmp_path / name), remote=RemoteConfig(allow_protocols=allowed))
        (failure,) = found.unreadable
        assert [photo.name for photo in found.photos] == ["a.jpg"]
        assert failure.name.startswith(f"{name}, line ") and "is not read" in failure.reason
        assert "SECRET" not in failure.reason and failure.reason.isprintable()


def test_what_the_user_allows_and_what_he_cannot(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/allowed/a.jpg", b"photo")
    (tmp_path / "l.txt").write_text("memory://allowed/a.jpg\n")
    (listed,) = list_photos(str(tmp_path / "l.txt"), remote=RemoteConfig(allow_protocols=("memory",))).photos
    assert listed.reader is not None
    assert listed.reader.read() == b"photo"
    for line, allowed in (("reference://a", "reference"), ("simplecache://a::memory://allowed/a.jpg", "simplecache")):
        (tmp_path / "l.txt").write_text(line)
        with pytest.raises(ConfigError, match=r"l.txt, line 1: (reference:// is not read|a chain of addresses .*)"):
            list_photos(str(tmp_path / "l.txt"), remote=RemoteConfig(allow_protocols=(allowed,)))
        with pytest.raises(ConfigError, match="is not read"):
            list_photos(line)
    memory.pipe_file("/allowed/l.txt", b"a.jpg\nmemory://allowed/a.jpg\n")
    named = list_photos("memory://allowed/l.txt").photos
    assert [found.name for found in named] == ["a.jpg", "memory://allowed/a.jpg"], "the user named memory:// himself"
    with pytest.raises(ConfigError, match="--allow-protocol 'sftp://' is not the beginning of a URL"):
        RemoteConfig(allow_protocols=("sftp://",))


def test_two_colons_in_an_ordinary_url_are_a_part_of_its_path(host: str) -> None:
    assert photo(f"{host}/photo.a::reference:/b.jpg").read() == b"photo"


# ------------------------------------------------------------------ what comes without end


@pytest.mark.parametrize("path", ["endless.jpg", "bomb.jpg", "promised.jpg"])
def test_no_more_is_kept_than_is_allowed(host: str, path: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError, match=rf"^it has .*more than the {4 * MB:,}( bytes)? that a photo may have$"):
            photo(f"{host}/{path}").read_at_most(4 * MB)
        assert tracemalloc.get_traced_memory()[1] < 24 * MB
    finally:
        tracemalloc.stop()


def test_what_was_not_asked_for_is_read_or_refused(host: str) -> None:
    assert photo(f"{host}/deflated.jpg").read() == b"photo"
    with pytest.raises(PhotoError, match="compressed, and its end is missing"):
        photo(f"{host}/cut.jpg").read()
    with pytest.raises(PhotoError, match="a compression that was not asked for"):
        photo(f"{host}/odd.jpg").read()


def test_lists_and_pages_without_end(host: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(server, "MAX_LIST", MB)
    with pytest.raises(ConfigError, match=r"it has more than the 1,048,576 bytes that a list"):
        list_photos(f"{host}/endless.txt", remote=QUICK)
    monkeypatch.setattr(remote, "MAX_PAGE", MB)
    with pytest.raises(ConfigError, match=r"cannot be listed: it has more than the 1,048,576 bytes that a page"):
        list_photos(f"{host}/endless", remote=QUICK)
    monkeypatch.setattr(remote, "MAX_FOLDERS", 20)
    with pytest.raises(ConfigError, match="cannot be listed: there are more than 20 folders"):
        list_photos(f"{host}/folders", remote=QUICK)
    monkeypatch.setattr(remote, "MAX_DEPTH", 2)
    monkeypatch.setattr(remote, "MAX_FOLDERS", 10**6)
    with pytest.raises(NoPhotosError):
        list_photos(f"{host}/folders", remote=QUICK)


@pytest.mark.parametrize("name", ["l.txt", "l.csv", "l.jsonl"])
def test_a_line_without_end(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"path\n" + b"x" * 1_100_000)
    with pytest.raises(ConfigError, match=rf"{name}, line [12]"):
        list_photos(str(tmp_path / name))


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices")
@pytest.mark.parametrize("name", ["l.txt", "l.csv", "l.zip", "l.tar"])
def test_a_list_that_is_a_pipe_or_a_device(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ConfigError, match="it is not a regular file"):
        list_photos(str(tmp_path / name))
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="it is not a regular file"):
        list_photos(str(tmp_path / name))


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices")
def test_files_named_by_url(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "a.jpg").write_bytes(b"photo")
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(3 << 30)
    for url in ("file:///dev/zero", f"file://{tmp_path}/pipe.jpg", f"file://{tmp_path}"):
        with pytest.raises(PhotoError, match=r"^it is not a regular file$"):
            photo(url).read()
    with pytest.raises(PhotoError, match=r"^it has 3,221,225,472 bytes, more than the 2,147,483,648 that a photo may"):
        photo(f"file://{tmp_path}/large.jpg").read()
    with pytest.raises(PhotoError, match="No such file"):
        photo(f"file://{tmp_path}/gone.jpg").read()
    assert photo(f"file://{tmp_path}/a.jpg").read() == b"photo"


# ------------------------------------------------------------------ where a server may lead


def test_redirections(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert photo(f"{host}/to?{host}/photo.jpg").read() == b"photo"
    assert photo(f"{host}/to?/photo.jpg").read() == b"photo"
    assert photo(f"{host}/to?/to?photo.jpg").read() == b"photo"
    refusals = {
        "file:///etc/hostname": "redirects from http to file",
        "ftp://127.0.0.1/a": "redirects from http to ftp",
        "data:image/png,x": "redirects from http to data",
        "http://[": "redirects to something that is not an address",
    }
    for target, reason in refusals.items():
        with pytest.raises(PhotoError, match=f"^the server {reason}"):
            photo(f"{host}/to?{target}").read()
    with pytest.raises(PhotoError, match="redirects more than 10 times"):
        photo(f"{host}/to?{'/to?' * 11}/photo.jpg").read()
    # As if the server were one of the internet.
    real = urls.is_public
    monkeypatch.setattr(urls, "is_public", lambda url: url == host.rpartition(":")[0] or real(url))
    with pytest.raises(PhotoError, match="redirects to localhost, a private address, which is not followed"):
        photo(f"{host}/to?{host.replace('127.0.0.1', 'localhost')}/photo.jpg").read()
    for inside in ("169.254.169.254/latest", "8.8.8.8\\@169.254.169.254/", "8.8.8.8:80@169.254.169.254", "[::1]/"):
        with pytest.raises(PhotoError, match=r"redirects to (169.254.169.254|::1), a private address"):
            photo(f"{host}/to?http://{inside}").read()


@pytest.mark.parametrize(
    "name",
    [
        *("localhost", "x.localhost", "127.0.0.1", "127.1", "2130706433", "0x7f.1", "10.0.0.1", "192.168.1.1"),
        *("172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "[::1]", "[fe80::1]", "[fd00::1]", "[::]"),
        *("[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "224.0.0.1", "printer.local", "db.internal"),
    ],
)
def test_what_is_not_of_the_internet(name: str) -> None:
    assert not is_public(f"http://{name}:80/a.jpg")
    assert redirect_refusal("http://8.8.8.8/", "http://8.8.8.8/", f"http://{name}/") is not None
    assert redirect_refusal("http://10.0.0.1/", "http://10.0.0.1/", f"http://{name}/") is None, (
        "it was named by the user"
    )


def test_what_is_of_the_internet() -> None:
    assert all(map(is_public, ("http://8.8.8.8/x", "https://[2606:4700::1111]/", "http://[::ffff:8.8.8.8]/")))
    assert redirect_refusal("http://8.8.8.8/", "http://8.8.8.8/", "https://1.1.1.1/") is None
    assert redirect_refusal("http://8.8.8.8/", "https://8.8.8.8/", "http://8.8.8.8/") is not None
