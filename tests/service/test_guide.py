"""docs/serving.md, its notebook, and the client of Python, against a service that runs as its own process."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from ctxdeploy import IndexingConfig, PhotoIndex
from ctxdeploy.client import AsyncClient, Client, Job, SearchAnswer, SearchOptions, ServiceError

ROOT = Path(__file__).parents[2]
GUIDE, NOTEBOOK = ROOT / "docs" / "serving.md", ROOT / "docs" / "serving.ipynb"
URL = "http://127.0.0.1:8000"


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder as the guide assumes it, with its service."""

    path: Path
    url: str


@pytest.fixture(scope="module")
def folder(album: Any, artefacts: Callable[..., Path], tmp_path_factory: Any, start_for_module: Any) -> Folder:
    """``photos/`` with a cat in 2024, ``photos.ctxindex``, ``photo.jpg`` and ``other.jpg`` to ask with."""

    def make(made: Path) -> None:
        for part, name, scene in (
            ("first", "2024/cat.jpg", "chelsea"),
            ("second", "2024/cat again.jpg", "chelsea"),
            ("first", "2024/coffee.jpg", "coffee"),
            ("first", "2023/rocket.jpg", "rocket"),
            ("second", "2023/coins.jpg", "coins"),
        ):
            (made / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(album.photos / part / f"{scene}.jpg", made / "photos" / name)
        with PhotoIndex.create(made / "photos.ctxindex", config=IndexingConfig(geometry="codes")) as index:
            index.add(made / "photos")

    code = ("ctxdeploy/core", "ctxdeploy/indexing", "ctxdeploy/models", "runtime", "index")
    made = artefacts("served-folder", make, code)
    path = tmp_path_factory.mktemp("guide")
    shutil.copytree(made, path, dirs_exist_ok=True)
    (path / "photo.jpg").write_bytes(album.query("chelsea"))
    (path / "other.jpg").write_bytes(album.query("rocket"))
    with PhotoIndex.open(path / "photos.ctxindex", writable=True) as index:
        index.add(path / "photos")  # where they are now
    return Folder(path=path, url=start_for_module(path / "photos.ctxindex", "--writable").url)


def blocks(language: str) -> list[str]:
    """Return the blocks of the guide in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def run(folder: Folder, *command: str) -> str:
    """Run a command in the folder, asking its service where the guide asks another."""
    (folder.path / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\nmax-time = 300\n")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "CURL_HOME": str(folder.path), "SERVICE": folder.url}
    done = subprocess.run(
        [part.replace(URL, folder.url) for part in command],
        cwd=folder.path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


@pytest.mark.slow
def test_every_command_of_the_guide_runs(folder: Folder) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("curl")]
    assert len(lines) > 15
    said = {line: run(folder, "bash", "-e", "-c", line) for line in lines}
    first = said[lines[0]]
    assert '"2024/cat.jpg"' in first and '"found"' in first
    assert (folder.path / "cat.jpg").read_bytes() == (folder.path / "photos/2024/cat.jpg").read_bytes()
    assert (folder.path / "small.jpg").stat().st_size > 1000
    with Client(folder.url) as client:  # what the guide added, and the other tests do not expect
        for name in ("photo.jpg", "other.jpg"):
            client.wait(client.remove(name, file=True))
        assert "2024/dog.jpg" not in list(client.names())


@pytest.mark.slow
def test_every_endpoint_is_in_the_guide(folder: Folder) -> None:
    text = GUIDE.read_text("utf-8")
    for path in httpx.get(f"{folder.url}/openapi.json", timeout=300).json()["paths"]:
        stem = path.partition("{")[0].rstrip("/")
        assert stem in text, path


def test_every_option_that_the_guide_names_exists() -> None:
    known = (ROOT / "docs/reference/options.md").read_text("utf-8")
    options = known[known.index("## serve") :].partition("\n## ")[0]
    for flag in set(re.findall(r"`?(--[a-z][a-z-]+)", GUIDE.read_text("utf-8"))):
        assert f"{flag} " in options or f"{flag}`" in options or flag in ("--json", "--config", "--data-binary"), flag


def test_the_settings_of_the_guide_are_settings(tmp_path: Path) -> None:
    """The file of the guide is read whole, and says what it says."""
    from ctxdeploy.service.settings import load_settings

    (text,) = blocks("toml")
    key = tmp_path / "read.txt"
    key.write_text("k" * 32)
    (tmp_path / "service.toml").write_text(text.replace("/run/secrets/read.txt", str(key)))
    found = load_settings({}, tmp_path / "service.toml")
    assert (found.service.host, found.service.max_bytes) == ("0.0.0.0", 16 << 20)
    assert found.service.allow_hosts == ("photos.example.org",) and found.service.read_key_file == key
    assert len(found.archives) == 2 and found.cache.size == 200 * 10**9


@pytest.mark.slow
def test_every_metric_of_the_guide_is_counted(folder: Folder) -> None:
    metrics = httpx.get(f"{folder.url}/metrics", timeout=300).text
    named = re.findall(r"`(ctxdeploy_\w+)`", GUIDE.read_text("utf-8"))
    assert len(named) > 8
    for name in named:
        assert f"\n{name}" in metrics, name
    types = re.findall(r"^# TYPE (ctxdeploy_\w+?)(?:_created)? ", metrics, re.MULTILINE)
    text = GUIDE.read_text("utf-8").replace("`_state`", "ctxdeploy_archive_state").replace("`_bytes`", "_archive_bytes")
    assert not [name for name in types if name.removeprefix("ctxdeploy") not in text]


@pytest.mark.slow
def test_the_program_of_the_guide_prints_what_is_there(folder: Folder) -> None:
    (program,) = blocks("python")
    said = run(folder, sys.executable, "-c", program).splitlines()
    assert said[0].startswith("2024/cat") and said[1:] == ["done", "['2024/dog.jpg']"]


@pytest.mark.slow
def test_the_notebook_runs(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(cell.get("outputs", []) == [] for cell in notebook.cells)
    monkeypatch.setenv("SERVICE", folder.url)
    nbclient.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(folder.path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    said = "".join(output.get("text", "") for output in outputs)
    assert "2024/cat.jpg" in said and "ServiceError" in said


# ---- the client


@pytest.mark.slow
def test_the_client_answers_as_the_library(folder: Folder) -> None:
    photo = folder.path / "photo.jpg"
    with PhotoIndex.open(folder.path / "photos.ctxindex") as index:
        hits = index.search(photo, top=3)
    with Client(folder.url) as client:
        answer = client.search(photo, top=3)
        many = client.search_many([photo, b"no photo", photo.read_bytes()], indexed=["2024/cat.jpg", "none"])
        verified = client.search(photo, options=SearchOptions(verify=3, matches=True, prefix=["2024/"]))
    assert [(result.name, result.score) for result in answer.results] == [(hit.name, hit.score) for hit in hits]
    assert [type(one) for one in many] == [SearchAnswer, ServiceError, SearchAnswer, SearchAnswer, ServiceError]
    assert isinstance(many[3], SearchAnswer) and many[3].indexed and many[3].results[0].name == "2024/cat.jpg"
    assert isinstance(many[1], ServiceError) and many[1].status in (415, 422) and many[1].request_id
    assert {result.name.partition("/")[0] for result in verified.results} == {"2024"}
    assert verified.results[0].matches and verified.results[0].box is not None
    assert verified.coverage is not None and verified.coverage.searched < verified.coverage.photos


@pytest.mark.slow
def test_descriptors_are_those_of_the_library(folder: Folder) -> None:
    with Client(folder.url) as client:
        found = client.descriptors(folder.path / "photo.jpg")
    count, dim = found.vectors.shape
    assert count > 50 and dim >= 128 and found.positions.shape == (count, 2)
    assert found.size is not None and (found.positions <= found.size).all()


@pytest.mark.slow
def test_what_the_client_adds_is_found_until_it_is_removed(folder: Folder) -> None:
    photo = folder.path / "other.jpg"
    with Client(folder.url) as client:
        before = client.archives()[0]
        added = client.wait(client.add(photo, name="added/é #1.jpg"))
        found = client.search(photo)
        assert added.state == "done" and not added.failures
        assert found.state is not None and added.archive_state is not None and found.state >= added.archive_state
        assert "added/é #1.jpg" in [result.name for result in found.results]
        assert list(client.names("added/")) == ["added/é #1.jpg"]
        jobs = [client.wait(job) for job in client.add_many({"added/2.jpg": photo, "added/bad.jpg": b"no photo"})]
        assert [failure.name for job in jobs for failure in job.failures] == ["added/bad.jpg"]
        for name in client.names("added/"):
            assert client.wait(client.remove(name)).state == "done"
        assert list(client.names("added/")) == [] and client.archives()[0].photos == before.photos


@pytest.mark.slow
def test_pictures_come_as_files(folder: Folder) -> None:
    with Client(folder.url) as client:
        assert client.original("2024/cat.jpg") == (folder.path / "photos/2024/cat.jpg").read_bytes()
        assert client.thumbnail("2024/cat again.jpg", size=160).startswith(b"\xff\xd8")
        with pytest.raises(ServiceError) as found:
            client.original("none.jpg")
        assert found.value.status == 404 and client.ready().ready


@pytest.mark.slow
def test_the_async_client_asks_side_by_side(folder: Folder) -> None:
    async def ask() -> list[Any]:
        async with AsyncClient(folder.url) as client:
            searches = [client.search(folder.path / "photo.jpg"), client.search(indexed="2023/rocket.jpg")]
            answers = await asyncio.gather(*searches, return_exceptions=True)
            job: Job = await client.wait(await client.add(folder.path / "other.jpg", name="again.jpg"))
            names = [name async for name in client.names("again")]
            await client.wait(await client.remove("again.jpg", file=True))
            return [*answers, job.state, names]

    first, second, state, names = asyncio.run(ask())
    assert first.results[0].name.startswith("2024/cat") and second.results[0].name == "2023/rocket.jpg"
    assert (state, names) == ("done", ["again.jpg"])
