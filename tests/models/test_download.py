"""Downloads that are cut, changed, refused, filled up and killed; the server is on this machine."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ctxdeploy.core import urls
from ctxdeploy.core.errors import ConfigError, DownloadError, StorageError
from ctxdeploy.core.progress import Display
from ctxdeploy.models.download import DownloadConfig, check_url, fetch

DATA = os.urandom(300_000)
QUICK = DownloadConfig(timeout=60.0, attempts=3)
QUIET = Display(quiet=True)


@pytest.fixture
def target(tmp_path: Path, site: Any) -> Path:
    site.files["/a.pth"] = DATA
    return tmp_path / "a.pth"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds between attempts, which are not waited for."""
    waited: list[float] = []
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=waited.append))
    return waited


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_a_file_arrives_whole_under_its_name(site: Any, target: Path, capfd: Any) -> None:
    sent = fetch(f"{site.url}/a.pth", target, QUICK, Display(quiet=False, as_json=True))
    assert target.read_bytes() == DATA and left(target) == ["a.pth"]
    assert (sent.url, sent.etag, sent.last_modified) == (f"{site.url}/a.pth", '"one"', None)
    said = capfd.readouterr()
    assert '"task": "downloading", "unit": "MB", "done": 1, "total": 1' in said.err
    assert "a.pth" not in said.err + said.out  # pooch would print the address, with its secrets


def test_a_file_that_is_there_is_replaced(site: Any, target: Path) -> None:
    target.write_bytes(b"of another version")
    fetch(f"{site.url}/a.pth", target, QUICK, QUIET)
    assert target.read_bytes() == DATA


def test_a_cut_connection_is_tried_again_from_the_beginning(
    site: Any, target: Path, pauses: list[float], capfd: Any
) -> None:
    site.cut_after = [100_000, 50_000]
    fetch(f"{site.url}/a.pth", target, QUICK, Display(quiet=False))
    assert target.read_bytes() == DATA and left(target) == ["a.pth"]
    assert len(site.requests) == 3 and pauses == [1, 2]
    assert capfd.readouterr().err.count("the connection broke (") == 2


def test_attempts_are_bounded_and_nothing_stays(site: Any, target: Path, pauses: list[float]) -> None:
    site.cut_after = [100_000, 10, 10, 10]
    with pytest.raises(DownloadError, match=r"/a.pth cannot be fetched: the connection broke \(.*\); try later"):
        fetch(f"{site.url}/a.pth", target, QUICK, QUIET)
    assert left(target) == [] and len(site.requests) == 3


def test_a_server_that_does_not_say_how_long_a_file_is(site: Any, target: Path) -> None:
    site.length = False
    fetch(f"{site.url}/a.pth", target, QUICK, QUIET)
    assert target.read_bytes() == DATA


def test_a_stalled_server_is_left(site: Any, target: Path, pauses: list[float]) -> None:
    site.cut_after, site.stall = [100_000], 300.0
    fetch(f"{site.url}/a.pth", target, DownloadConfig(timeout=0.5, attempts=5), QUIET)
    assert target.read_bytes() == DATA


@pytest.mark.parametrize("status", [404, 403, 410])
def test_what_is_not_there_is_said_at_once(site: Any, target: Path, status: int) -> None:
    site.statuses = [status] * 5
    with pytest.raises(DownloadError, match=rf"/a.pth: the server answers {status} .*give another address with --url"):
        fetch(f"{site.url}/a.pth", target, QUICK, QUIET)
    assert len(site.requests) == 1 and left(target) == []


def test_a_server_that_fails_for_a_while(site: Any, target: Path, pauses: list[float]) -> None:
    site.statuses = [503, 429]
    fetch(f"{site.url}/a.pth", target, QUICK, QUIET)
    assert target.read_bytes() == DATA
    site.statuses = [500] * 3
    with pytest.raises(DownloadError, match="the server answers 500"):
        fetch(f"{site.url}/a.pth", target.with_name("b.pth"), QUICK, QUIET)


def test_no_server(site: Any, target: Path, pauses: list[float]) -> None:
    free = site.url.rpartition(":")[0] + ":9"
    with pytest.raises(DownloadError, match=r"127.0.0.1 cannot be reached \(.*refused") as raised:
        fetch(f"{free}/a.pth?token=secret", target, QUICK, QUIET)
    assert "secret" not in str(raised.value) and left(target) == []


def test_a_web_page_is_not_a_checkpoint(site: Any, target: Path) -> None:
    site.files["/a.pth"] = b"\n  <!DOCTYPE html><html>Please log in</html>"
    with pytest.raises(DownloadError, match="is a web page, not a checkpoint: give another address with --url"):
        fetch(f"{site.url}/a.pth", target, QUICK, QUIET)
    assert left(target) == [] and len(site.requests) == 1


def test_redirections_are_followed_but_not_to_files(site: Any, target: Path) -> None:
    site.redirect = {"/old.pth": "/a.pth", "/evil.pth": f"file://{__file__}", "/ftp.pth": "ftp://127.0.0.1/a"}
    assert fetch(f"{site.url}/old.pth", target, QUICK, QUIET).url == f"{site.url}/a.pth"
    assert target.read_bytes() == DATA
    for name, scheme in (("evil", "file"), ("ftp", "ftp")):
        with pytest.raises(DownloadError, match=f"{name}.pth: the server redirects from http to {scheme}, which"):
            fetch(f"{site.url}/{name}.pth", target.with_name("b.pth"), QUICK, QUIET)
    assert left(target) == ["a.pth"]


def test_a_redirection_into_this_machine_is_not_followed(
    site: Any, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.redirect = {"/a.pth": f"{site.url.replace('127.0.0.1', 'localhost')}/b.pth"}
    real = urls.is_public
    monkeypatch.setattr(urls, "is_public", lambda url: url.startswith(site.url) or real(url))
    with pytest.raises(DownloadError, match=r"a.pth: the server redirects to localhost, a private address"):
        fetch(f"{site.url}/a.pth", target, QUICK, QUIET)
    assert left(target) == [] and len(site.requests) == 1


@pytest.mark.parametrize("length", [True, False])
def test_a_file_without_end_ends(site: Any, target: Path, length: bool) -> None:
    site.length, site.files["/a.pth?token=secret"] = length, bytes(20_000_000)
    config = DownloadConfig(timeout=60, max_bytes=1_000_000)
    with pytest.raises(DownloadError, match=r"/a.pth is larger than 1 MB: if that is right, raise --max-size"):
        fetch(f"{site.url}/a.pth?token=secret", target, config, QUIET)
    assert left(target) == [] and len(site.requests) == 1


@pytest.mark.parametrize(
    "url",
    ["", "how_r18.pth", "file:///etc/passwd", "ftp://host/a", "http://", "http:///a", "http://host/a b", "http://hö/a"],
)
def test_what_is_not_an_address(url: str) -> None:
    with pytest.raises(ConfigError, match="is not an address such as"):
        check_url(url)


@pytest.mark.parametrize("settings", [{"timeout": 0.0}, {"timeout": float("nan")}, {"attempts": 0}])
def test_limits_that_a_download_cannot_have(settings: Any) -> None:
    with pytest.raises(ConfigError, match=r"is not a time of 0\.1 s or more|make at least one"):
        DownloadConfig(**settings)


def test_a_disk_without_room_is_said_before_anything_arrives(
    site: Any, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match="has room for 0 MB, 0 MB are needed: make room, or name another folder"):
        fetch(f"{site.url}/a.pth", target, QUICK, QUIET)
    assert left(target) == []


_FULL = """
import resource, signal, sys
from pathlib import Path
from ctxdeploy.core.errors import StorageError
from ctxdeploy.models.download import DownloadConfig, fetch
from ctxdeploy.core.progress import Display
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.dont_write_bytecode = True  # half of it would be left, and no later import survives that
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
try:
    fetch(sys.argv[1], Path(sys.argv[2]), DownloadConfig(timeout=60), Display(quiet=True))
except StorageError as error:
    print(error)
"""


def test_a_file_that_cannot_grow_is_removed(site: Any, target: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL, f"{site.url}/a.pth", str(target)], capture_output=True, text=True, check=True
    )
    assert "a.pth cannot be written: File too large; make room and run the same command again" in done.stdout
    assert left(target) == [] and len(site.requests) == 1


_FETCH = """
import sys
from pathlib import Path
from ctxdeploy.models.download import DownloadConfig, fetch
from ctxdeploy.core.progress import Display
fetch(sys.argv[1], Path(sys.argv[2]), DownloadConfig(timeout=60), Display(quiet=True))
"""


def _sizes(folder: Path) -> Iterator[int]:
    """Sizes of a folder's files. Another process writes them: one may go between the listing and the look at it."""
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            yield path.stat().st_size


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_in_the_middle_no_file_has_the_name(site: Any, target: Path, number: signal.Signals) -> None:
    site.cut_after, site.stall = [200_000], 300.0
    child = subprocess.Popen(
        [sys.executable, "-c", _FETCH, f"{site.url}/a.pth", str(target)], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 600
    while not any(size >= 131_072 for size in _sizes(target.parent)):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.02)
    child.send_signal(number)
    child.wait()
    assert not target.exists() and (number == signal.SIGKILL or left(target) == [])
