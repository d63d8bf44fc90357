"""A server in front of an S3 server that fails as it is told, a bucket seen from behind it, and small archives."""

import functools
import hashlib
import http.client
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from ctxdeploy.core.progress import Display
from ctxdeploy.index import Index, parse_manifest
from ctxdeploy.object_storage.objects import Objects
from ctxdeploy.object_storage.published import entries_of, parse_state
from ctxdeploy.object_storage.push import PushReceipt, push
from ctxdeploy.object_storage.stores import open_objects
from ctxdeploy.runtime.sources import RemoteConfig

# A machine may be busy: only where a server keeps silent is the time short.
QUICK = RemoteConfig(attempts=4, backoff=0.001, connect_timeout=60, timeout=60)
SILENT = Display(quiet=True)
DIM = 16
SECRET = "not-to-be-shown"


class Proxy(ThreadingHTTPServer):
    """Passes requests on to moto's server, but for what ``fault`` says.

    Attributes:
        fault: called with number, method and path of each request; returns a status, ``lost`` (not passed on),
            ``unanswered`` (passed on, and no answer), ``cut`` (half of the answer) or ``silence``; None for no fault.
        requests: method and path of each.
        ranges: of each request, as its header says; empty without.
    """

    daemon_threads = True

    def __init__(self, upstream: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.reset()

    def reset(self, fault: Callable[[int, str, str], int | str | None] = lambda number, method, path: None) -> None:
        """Forget what was asked, and fail from now on as ``fault`` says."""
        with self.lock:
            self.fault = fault
            self.requests: list[tuple[str, str]] = []
            self.ranges: list[str] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about clients that gave up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def handle_any(self) -> None:
        proxy = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with proxy.lock:
            number = len(proxy.requests)
            proxy.requests.append((self.command, self.path))
            proxy.ranges.append(self.headers.get("Range", ""))
            fault = proxy.fault
        found = fault(number, self.command, self.path)
        if found == "silence":
            proxy.closing.wait(600)
        if found in ("lost", "silence"):
            self.close_connection = True
        elif isinstance(found, int):
            self.answer(found, b"<Error><Code>SlowDown</Code><Message>no</Message></Error>", ())
        else:
            self.forward(body, found)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self.handle_any
        raise AttributeError(name)

    def forward(self, body: bytes, fault: str | None) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)
        # Bodies in chunks of botocore are passed on as they are.
        connection.request(self.command, self.path, body=body, headers=dict(self.headers))
        response = connection.getresponse()
        data = response.read()
        length = response.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        skipped = ("content-length", "transfer-encoding", "connection")
        kept = tuple((name, value) for name, value in response.getheaders() if name.lower() not in skipped)
        connection.close()
        if fault == "unanswered" or (fault == "cut" and not data):
            self.close_connection = True
            return
        self.answer(response.status, data[: len(data) // 2] if fault == "cut" else data, kept, length)
        self.close_connection |= fault == "cut"

    def answer(self, status: int, data: bytes, headers: Any, length: str | None = None) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Write no log."""


@dataclass
class Bucket:
    """A bucket, looked at behind the proxy."""

    raw: Any
    url: str

    def all_keys(self) -> set[str]:
        return {found.key for found in self.raw.objects.all()}

    def content(self) -> dict[str, bytes]:
        return {key: self.get(key) for key in self.all_keys()}

    def get(self, key: str) -> bytes:
        data: bytes = self.raw.Object(key).get()["Body"].read()
        return data

    def put(self, key: str, data: bytes) -> None:
        self.raw.put_object(Key=key, Body=data)

    def delete(self, *keys: str) -> None:
        for key in keys:
            self.raw.Object(key).delete()

    def state(self, name: str = "a.ctxindex") -> int:
        """Return the number of the state in force, 0 if none, after checking that every file of it is sound."""
        if f"{name}/CURRENT" not in self.all_keys():
            return 0
        state = parse_state(self.get(f"{name}/CURRENT"), "CURRENT")
        entries = list(entries_of(state))
        for entry in (state.manifest, *state.kept):
            entries += parse_manifest(self.get(f"{name}/files/{entry.sha256}"), entry.file).files
        for entry in entries:
            data = self.get(f"{name}/files/{entry.sha256}")
            assert (len(data), hashlib.sha256(data).hexdigest()) == (entry.bytes, entry.sha256)
        return parse_manifest(self.get(f"{name}/files/{state.manifest.sha256}"), "manifest").number


def vectors(name: str) -> Any:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).normal(size=(20, DIM)).astype(np.float32)


def grow(archive: Path, count: int = 1, prefix: str = "") -> None:
    """Add photos to an archive: one commit."""
    with Index.open(archive, writable=True) as index:
        first = len(index)
        for number in range(first, first + count):
            index.add(f"{prefix}{number}.jpg", vectors(f"{prefix}{number}"))


def send(archive: Path, url: str, *, replace: bool = False, check: bool = False) -> PushReceipt:
    return push(archive, at(url), SILENT, replace=replace, check=check)


@functools.lru_cache
def at(url: str) -> Objects:
    """Return what lies below a URL; to be forgotten with the proxy, since to connect takes half a second."""
    return open_objects(url, QUICK)


def copied(archive: Path, name: str) -> Path:
    """Return a copy of an archive, as another machine has it."""
    target = archive.with_name(name)
    shutil.copytree(archive, target)
    return target
