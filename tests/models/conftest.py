"""A folder of models of the test's own, a server that misbehaves on request, and a small checkpoint."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


@dataclass(kw_only=True)
class Site:
    """What the server does; a test changes it.

    Attributes:
        url: of the server, without a path.
        files: content by path.
        etag, last_modified: of every file; None for none.
        length: whether it says how long an answer is.
        cut_after: bytes of a body after which it closes the connection, for each answer; past the end, no cut.
        statuses: to answer with in place of a file, first to last.
        stall: seconds that it waits after the bytes of ``cut_after``, with the connection open.
        redirect: path to address.
        requests: what came: path and headers.
    """

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    etag: str | None = '"one"'
    last_modified: str | None = None
    length: bool = True
    cut_after: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    stall: float = 0.0
    redirect: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        site = self.site
        site.requests.append((self.path, dict(self.headers)))
        self.close_connection = True
        if self.path in site.redirect:
            self._head(302, {"Location": site.redirect[self.path], "Content-Length": "0"})
            return
        if site.statuses and (status := site.statuses.pop(0)) != 200:
            self._head(status, {"Content-Length": "0"})
            return
        data = site.files.get(self.path)
        if data is None:
            self._head(404, {"Content-Length": "0"})
            return
        headers = {"ETag": site.etag, "Last-Modified": site.last_modified}
        headers["Content-Length"] = str(len(data)) if site.length else None
        self._head(200, headers)
        cut = site.cut_after.pop(0) if site.cut_after else len(data)
        self.wfile.write(data[:cut])
        self.wfile.flush()
        if cut < len(data) and site.stall:
            site.released.wait(site.stall)

    def _head(self, status: int, headers: dict[str, str | None]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A server on this machine."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    served = Site(url=f"http://127.0.0.1:{server.server_address[1]}")
    server.RequestHandlerClass = type("Handler", (_Handler,), {"site": served})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield served
    served.released.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of models, not there yet; neither the user's nor the environment's models are seen."""
    monkeypatch.setenv("CTXDEPLOY_HOME", str(tmp_path / "home"))
    for name in ("CTXDEPLOY_MODEL", "CTXDEPLOY_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return tmp_path / "home" / "models"


@pytest.fixture(scope="session")
def how_2020() -> Callable[[Path], Path]:
    """Return a function that writes a small checkpoint in the form of the published how_r18.pth."""

    def write(path: Path) -> Path:
        import torch

        from ctxdeploy.core.bundle import Extraction
        from ctxdeploy.core.samples import sample_photo
        from ctxdeploy.export import untrained_network
        from ctxdeploy.export.networks import Architecture, NetworkConfig

        photo = sample_photo("coffee")[:200, :200]
        config = NetworkConfig(family="how", architecture=Architecture.RESNET18_HALF, skip_layer=1, dim=16)
        network = untrained_network(config, Extraction(dim=16), [photo])
        numbers = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6"}
        state = {}
        for name, tensor in network.state_dict().items():
            _, child, rest = name.split(".", 2) if name.startswith("backbone.") else ("", "", name)
            key = f"features.{numbers[child]}.{rest}" if child else name.replace("dim_reduction.", "whiten.")
            state[key] = tensor
        meta = {
            "architecture": "resnet18-half",
            "mean": config.mean,
            "std": config.std,
            "skip_layer": 1,
            "dim": 16,
            "feat_pool_k": 3,
        }
        torch.save({"meta": meta, "state_dict": state}, path)
        return path

    return write


@pytest.fixture(scope="session")
def checkpoint(how_2020: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a small checkpoint in the form of the published how_r18.pth."""
    return how_2020(tmp_path_factory.mktemp("published") / "how_r18.pth").read_bytes()


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run ``ctxdeploy`` in this process; see ``tests/cli/conftest.py``."""
    from types import SimpleNamespace

    from ctxdeploy.cli.main import run

    def call(*arguments: object) -> Any:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return SimpleNamespace(
            code=code, out=out, err=err, json=[json.loads(x) for x in out.splitlines() if x[:1] == "{"]
        )

    return call
