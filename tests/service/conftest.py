"""A small album of real photos with its archive, and services that answer from it: here, and as their own processes."""

import functools
import os
import queue
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest

from ctxdeploy import IndexingConfig, PhotoIndex
from ctxdeploy.archive import store_origin
from ctxdeploy.core.samples import ViewConfig, make_view, sample_photo
from ctxdeploy.index import WarmUp, warm_up
from ctxdeploy.runtime.sources import list_photos
from ctxdeploy.service import Archives, Service, ServiceConfig, create_app, rehearsing

if TYPE_CHECKING:
    from starlette.testclient import TestClient

SCENES = ("astronaut", "coffee", "chelsea", "rocket", "hubble_deep_field", "stereo_motorcycle", "coins", "camera")
MILD = ViewConfig(shift=0.02, shrink=0.1, rotation=2, light=0.1, occlusion=0.06, blur=0.0, longest=320)
# A file name that is markup, with letters beyond ASCII.
ODD_NAME = "odd/<i>café & 'x'.png"
# Machine code may be compiled first, on a machine that is busy.
MINUTES = 300.0
# Of the archive for search over shards.
SHARDS = 6


@dataclass(frozen=True, kw_only=True)
class Album:
    """Photos, their archive with codes of their features, and photos to ask with: one of each scene.

    Names are ``first/astronaut.jpg``, ``second/astronaut.jpg`` …, and ``ODD_NAME``.
    """

    photos: Path
    queries: Path
    archive: Path

    def query(self, scene: str = "chelsea") -> bytes:
        """Return the bytes of a photo to ask with."""
        return (self.queries / f"{scene}.jpg").read_bytes()


# Of httpx, where it connects to a server by TLS, which no service here is: 34 ms of processor time for each
# ``httpx.get``, ten times a second where a test waits for something; the answer takes 5.
_tls_context = functools.cache(ssl.create_default_context)


@pytest.fixture(scope="module", autouse=True)
def one_tls_context() -> Iterator[None]:
    """Make the settings of TLS once in this process, and not for each request."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", _tls_context)
        yield


@pytest.fixture(scope="session", autouse=True)
def loops_once() -> Iterator[None]:
    """Let the first service in this process alone run all loops of the index, half a second: they are loaded then.

    Services that are processes of their own run them.
    """
    found: list[WarmUp] = []

    def once() -> WarmUp:
        if not found:
            found.append(warm_up())
            return found[0]
        return replace(found[0], compiled=0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rehearsing, "warm_up", once)
        yield


@pytest.fixture(scope="session")
def album(artefacts: Callable[..., Path]) -> Album:
    """The album; not to be changed."""

    def make_photos(folder: Path) -> None:
        random = np.random.default_rng(7)
        for part in ("photos/first", "photos/second", "photos/odd", "queries"):
            (folder / part).mkdir(parents=True)
        for scene in SCENES:
            photo = sample_photo(scene)
            for part in ("photos/first", "photos/second", "queries"):
                make_view(photo, random, MILD).save(folder / part / f"{scene}.jpg", quality=90)
        make_view(sample_photo("page"), random, MILD).save(folder / "photos" / ODD_NAME)

    folder = artefacts("service-photos", make_photos, ["ctxdeploy/core"])

    def make_archive(made: Path) -> None:
        with PhotoIndex.create(made / "album.ctxindex", config=IndexingConfig(geometry="codes")) as index:
            index.add(folder / "photos")

    code = ("ctxdeploy/core", "ctxdeploy/indexing", "ctxdeploy/models", "runtime", "index")
    archive = artefacts("service-archive", make_archive, code) / "album.ctxindex"
    return Album(photos=folder / "photos", queries=folder / "queries", archive=archive)


@pytest.fixture(scope="session")
def sharded(album: Album, artefacts: Callable[..., Path]) -> Path:
    """The album in an archive of several shards, from which a photo was removed; not to be changed."""

    def make(made: Path) -> None:
        names = sorted(str(path.relative_to(album.photos)) for path in album.photos.rglob("*") if path.is_file())
        config = IndexingConfig(geometry="codes", global_vectors="fp32")
        with PhotoIndex.create(made / "album.ctxindex", config=config) as index:
            for number in range(SHARDS):
                index.add([(name, album.photos / name) for name in names[number::SHARDS]])
            index.remove("second/camera.jpg")

    code = ("ctxdeploy/core", "ctxdeploy/indexing", "ctxdeploy/models", "runtime", "index")
    return artefacts("sharded-archive", make, code) / "album.ctxindex"


@pytest.fixture
def own_album(album: Album, tmp_path: Path) -> Album:
    """A copy of the album that a test may change: photos and archive."""
    photos = Path(shutil.copytree(album.photos, tmp_path / "photos"))
    archive = Path(shutil.copytree(album.archive, tmp_path / "album.ctxindex"))
    store_origin(archive, list_photos(str(photos)), {}, moved=True)
    return Album(photos=photos, queries=album.queries, archive=archive)


@pytest.fixture(scope="session")
def index(album: Album) -> Iterator[PhotoIndex]:
    """The album's archive as the library answers from it."""
    with PhotoIndex.open(album.archive) as opened:
        yield opened


@pytest.fixture
def connect() -> "Iterator[Callable[..., TestClient]]":
    """Return a function that serves archives in this process and returns what asks them; the test ends them.

    Its arguments are archives and a ``ServiceConfig``; ``prepare=False`` leaves the service unprepared. The service is
    at ``client.app.state.service``. An error that nobody catches is raised here, and not answered.
    """
    opened: list[TestClient] = []

    def connect(*archives: Path, config: ServiceConfig | None = None, prepare: bool = True) -> "TestClient":
        opened.append(test_client(archives, config or ServiceConfig(), prepare=prepare))
        return opened[-1].__enter__()

    yield connect
    for client in opened:
        client.__exit__(None, None, None)


def test_client(archives: tuple[Path, ...], config: ServiceConfig, *, prepare: bool = True) -> "TestClient":
    """Return a client of a new service in this process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would rather have httpx2
        from starlette.testclient import TestClient

    service = Service(Archives(archives, config), config)
    if prepare:
        service.prepare()
        assert service.readiness.failure is None
    return TestClient(create_app(service), base_url="http://127.0.0.1", follow_redirects=False)


test_client.__test__ = False  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def client(album: Album) -> "Iterator[TestClient]":
    """What asks the album in this process, with the settings that a service has untold."""
    with test_client((album.archive,), ServiceConfig()) as connected:
        yield connected


@dataclass(kw_only=True)
class Served:
    """A service that runs as a process of its own.

    Attributes:
        url: where it listens.
        process: it; its output is read all the time.
        log: lines that it wrote to stderr so far.
    """

    url: str
    process: "subprocess.Popen[str]"
    log: list[str] = field(default_factory=list)

    def wait_until_ready(self, seconds: float = MINUTES) -> None:
        """Return when ``/readyz`` says so."""
        for _ in range(int(seconds / 0.1)):
            assert self.process.poll() is None, "".join(self.log)
            if httpx.get(f"{self.url}/readyz", timeout=MINUTES).status_code == 200:
                return
            threading.Event().wait(0.1)
        raise AssertionError("the service does not become ready: " + "".join(self.log))

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(MINUTES)


_RUN = "import sys\nfrom ctxdeploy.cli.main import run\nsys.exit(run(sys.argv[1:]))"


class Starter:
    """Starts services, and ends those that still run at the end."""

    def __init__(self) -> None:
        self.started: list[Served] = []

    def __call__(
        self, *arguments: object, env: dict[str, str] | None = None, ready: bool = True, before: str = ""
    ) -> Served:
        """Start ``ctxdeploy serve`` with arguments on a free port; wait until it is ready unless told otherwise.

        ``before``: Python that its process runs before.
        """
        program = ["-c", f"{before}\n{_RUN}"] if before else ["-m", "ctxdeploy"]
        command = [sys.executable, *program, "serve", "--port", "0", *map(str, arguments)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
        )
        served = Served(url="", process=process)
        self.started.append(served)
        lines: queue.Queue[str] = queue.Queue()
        assert process.stdout is not None and process.stderr is not None
        threading.Thread(target=_read, args=(process.stdout, lines.put), daemon=True).start()
        threading.Thread(target=_read, args=(process.stderr, served.log.append), daemon=True).start()
        first = lines.get(timeout=MINUTES)
        assert first.startswith("listening on http://"), (first, served.log)
        served.url = first.removeprefix("listening on ").strip()
        if ready:
            served.wait_until_ready()
        return served

    def close(self) -> None:
        """End what runs."""
        for served in self.started:
            if served.process.poll() is None:
                served.process.kill()
            served.process.wait()


def _read(stream: Iterator[str], take: Callable[[str], object]) -> None:
    for line in stream:
        take(line)
    take("")


@pytest.fixture(scope="session")
def new_starter() -> type[Starter]:
    """What starts services for a module: ``Starter``, to be closed."""
    return Starter


@pytest.fixture
def start() -> Iterator[Starter]:
    """Return a function that starts ``ctxdeploy serve`` as a process: see ``Starter``."""
    starter = Starter()
    yield starter
    starter.close()


@pytest.fixture(scope="module")
def start_for_module() -> Iterator[Starter]:
    """``start`` for services that all tests of a module ask."""
    starter = Starter()
    yield starter
    starter.close()


@pytest.fixture(scope="session")
def served(album: Album) -> Iterator[Served]:
    """The album, served by a process with the settings that it has untold."""
    starter = Starter()
    yield starter(album.archive)
    starter.close()
