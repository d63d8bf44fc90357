"""Downloads that are cut, changed, refused, filled up and killed; the server is on this machine."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.core.errors import ConfigError, DownloadError, StorageError
from ctxdeploy.core.progress import Display
from ctxdeploy.models.download import DownloadConfig, check_url, fetch

DATA = os.urandom(300_000)
QUICK = DownloadConfig(timeout=5.0, attempts=3, pause=0.001)
QUIET = Display(quiet=True)


@pytest.fixture
def target(tmp_path: Path, site: Any) -> Path:
    site.files["/a.pth"] = DATA
    return tmp_path / "a.pth"


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_a_file_arrives_whole_under_its_name(site: Any, target: Path, capfd: Any) -> None:
    answer = fetch(f"{site.url}/a.pth", target, QUICK, Display(quiet=False, as_json=True))
    assert target.read_bytes() == DATA and left(target) == ["a.pth"]
    assert (answer.etag, answer.total) == ('"one"', len(DATA))
    assert '"task": "downloading", "unit": "MB", "done": 1, "total": 1' in capfd.readouterr().err


def test_a_cut_connection_is_continued_where_it_ended(site: Any, target: Path, capfd: Any) -> None:
    site.cut_after = [100_000, 50_000]
    fetch(f"{site.url}/a.pth", target, QUICK, Display(quiet=False))
    assert target.read_bytes() == DATA
    assert site.asked == [None, "bytes=100000-", "bytes=150000-"]
    assert [headers.get("If-Range") for _, headers in site.requests] == [None, '"one"', '"one"']
    said = capfd.readouterr().err
    assert "the connection" in said and "trying again" in said and "continuing at 0.1 MB" in said


def test_attempts_are_bounded_and_the_next_command_goes_on(site: Any, target: Path) -> None:
    site.cut_after = [100_000, 10, 10, 10]
    with pytest.raises(DownloadError, match=r"cannot be fetched: .*; 0.1 MB are kept, run the same command again"):
        fetch(f"{site.url}/a.pth", target, QUICK, QUIET)
    assert left(target) == ["a.pth.part", "a.pth.part.json"] and len(site.requests) == 3
    site.cut_after = []
    fetch(f"{site.url}/a.pth", target, QUICK, QUIET)
    assert target.read_bytes() == DATA and site.asked[-1] == "bytes=100020-" and left(target) == ["a.pth"]


def test_attempts_that_bring_much_do_not_count(site: Any, target: Path) -> None:
    site.files["/a.pth"] = data = os.urandom(7 << 20)
    site.cut_after = [1 << 20] * 6
    fetch(f"{site.url}/a.pth", target, QUICK, QUIET)
    assert target.read_bytes() == data and len(site.requests) == 7


def test_a_server_without_ranges_starts_again(site: Any, target: Path) -> None:
    site.ranges = False
    site.cut_after = [100_000]
    fetch(f"{site.url}/a.pth", target, QUICK, QUIET)
    assert target.read_bytes() == DATA and site.asked == [None, "bytes=100000-"]


@pytest.mark.parametrize("conditions", [True, False])
def test_a_changed_file_is_not_glued_to_the_old_one(site: Any, target: Path, conditions: bool) -> None:
    site.cut_after = [100_000] + [0] * 2
    with pytest.raises(DownloadError):
        fetch(f"{site.url}/a.pth", target, QUICK, QUIET)
    site.files["/a.pth"] = other = os.urandom(len(DATA))
    site.etag, site.conditions, site.cut_after = '"two"', conditions, []
    fetch(f"{site.url}/a.pth", target, QUICK, QUIET)
    assert target.read_bytes() == other


def test_a_file_that_became_shorter(site: Any, target: Path) -> None:
    site.conditions, site.cut_after = False, [100_000]
    site.files["/a.pth"] = DATA
    with pytest.raises(DownloadError):
        fetch(f"{site.url}/a.pth", target, DownloadConfig(timeout=5, attempts=1), QUIET)
    site.files["/a.pth"] = b"short"
    fetch(f"{site.url}/a.pth", target, QUICK, QUIET)
    assert target.read_bytes() == b"short"


@pytest.mark.parametrize(
    ("etag", "last_modified", "resumes"),
    [
        (None, None, None),
        ('W/"weak"', None, None),
        ('W/"weak"', "Sat, 21 Nov 2020 10:00:00 GMT", "Sat, 21 Nov 2020 10:00:00 GMT"),
        (None, "Sat, 21 Nov 2020 10:00:00 GMT", "Sat, 21 Nov 2020 10:00:00 GMT"),
    ],
)
def test_only_what_names_the_same_bytes_is_continued(
    site: Any, target: Path, etag: str | None, last_modified: str | None, resumes: str | None
) -> None:
    site.etag, site.last_modified, site.cut_after = etag, last_modified, [100_000]
    fetch(f"{site.url}/a.pth", target, QUICK, QUIET)
    assert target.read_bytes() == DATA
    assert site.asked == [None, None if resumes is None else "bytes=100000-"]
    assert site.requests[1][1].get("If-Range") == resumes


def test_another_address_does_not_continue_the_first(site: Any, target: Path) -> None:
    site.files["/b.pth"] = other = os.urandom(len(DATA))
    site.cut_after = [100_000]
    with pytest.raises(DownloadError):
        fetch(f"{site.url}/a.pth", target, DownloadConfig(timeout=5, attempts=1), QUIET)
    fetch(f"{site.url}/b.pth", target, QUICK, QUIET)
    assert target.read_bytes() == other and site.asked[-1] is None


def test_a_server_that_does_not_say_how_long_a_file_is(site: Any, target: Path) -> None:
    site.length = False
    assert fetch(f"{site.url}/a.pth", target, QUICK, QUIET).total is None
    assert target.read_bytes() == DATA


def test_a_stalled_server_is_left(site: Any, target: Path) -> None:
    site.cut_after, site.stall = [100_000], 30.0
    start = time.monotonic()
    fetch(f"{site.url}/a.pth", target, DownloadConfig(timeout=0.2, attempts=3, pause=0.001), QUIET)
    assert target.read_bytes() == DATA and time.monotonic() - start < 10


@pytest.mark.parametrize("status", [404, 403, 410])
def test_what_is_not_there_is_said_at_once(site: Any, target: Path, status: int) -> None:
    site.statuses = [status] * 5
    with pytest.raises(DownloadError, match=rf"/a.pth: the server answers {status} .*give another address with --url"):
        fetch(f"{site.url}/a.pth", target, QUICK, QUIET)
    assert len(site.requests) == 1 and left(target) == []


def test_a_server_that_fails_for_a_while(site: Any, target: Path) -> None:
    site.statuses = [503, 429]
    fetch(f"{site.url}/a.pth", target, QUICK, QUIET)
    assert target.read_bytes() == DATA
    site.statuses = [500] * 3
    with pytest.raises(DownloadError, match="the server answers 500"):
        fetch(f"{site.url}/a.pth", target.with_name("b.pth"), QUICK, QUIET)


def test_no_server(site: Any, target: Path) -> None:
    free = site.url.rpartition(":")[0] + ":9"
    with pytest.raises(DownloadError, match=r"127.0.0.1 cannot be reached \(.*refused"):
        fetch(f"{free}/a.pth", target, QUICK, QUIET)


def test_a_web_page_is_no_checkpoint(site: Any, target: Path) -> None:
    site.files["/a.pth"] = b"\n  <!DOCTYPE html><html>Please log in</html>"
    with pytest.raises(DownloadError, match="is a web page, not a checkpoint: give another address with --url"):
        fetch(f"{site.url}/a.pth", target, QUICK, QUIET)
    assert not target.exists()
    site.files["/a.pth"] = DATA
    site.etag = '"later"'
    fetch(f"{site.url}/a.pth", target, QUICK, QUIET)
    assert target.read_bytes() == DATA


def test_redirections_are_followed_but_not_to_files(site: Any, target: Path) -> None:
    site.redirect = {"/old.pth": "/a.pth", "/evil.pth": f"file://{__file__}", "/ftp.pth": "ftp://127.0.0.1/a"}
    assert fetch(f"{site.url}/old.pth", target, QUICK, QUIET).final_url == f"{site.url}/a.pth"
    assert target.read_bytes() == DATA
    for name in ("evil", "ftp"):
        with pytest.raises(DownloadError):
            fetch(f"{site.url}/{name}.pth", target.with_name("b.pth"), QUICK, QUIET)
    assert left(target) == ["a.pth"]


@pytest.mark.parametrize(
    "url",
    ["", "how_r18.pth", "file:///etc/passwd", "ftp://host/a", "http://", "http:///a", "http://host/a b", "http://hö/a"],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigError, match="is no address such as"):
        check_url(url)


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
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
try:
    fetch(sys.argv[1], Path(sys.argv[2]), DownloadConfig(timeout=5), Display(quiet=True))
except StorageError as error:
    print(error)
"""


def test_a_file_that_cannot_grow_keeps_what_has_arrived(site: Any, target: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL, f"{site.url}/a.pth", str(target)], capture_output=True, text=True, check=True
    )
    assert "a.pth.part cannot be written" in done.stdout
    fetch(f"{site.url}/a.pth", target, QUICK, QUIET)
    assert target.read_bytes() == DATA and site.asked[-1] == "bytes=150000-"


_FETCH = """
import sys
from pathlib import Path
from ctxdeploy.models.download import DownloadConfig, fetch
from ctxdeploy.core.progress import Display
fetch(sys.argv[1], Path(sys.argv[2]), DownloadConfig(timeout=60), Display(quiet=True))
"""


def test_killed_in_the_middle_it_goes_on(site: Any, target: Path) -> None:
    site.cut_after, site.stall = [200_000], 60.0
    child = subprocess.Popen([sys.executable, "-c", _FETCH, f"{site.url}/a.pth", str(target)])
    part = target.with_name("a.pth.part")
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size >= 131_072):  # what its file object holds is lost with it
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    have = part.stat().st_size
    site.stall = 0.0
    fetch(f"{site.url}/a.pth", target, QUICK, QUIET)
    assert target.read_bytes() == DATA and site.asked == [None, f"bytes={have}-"]
