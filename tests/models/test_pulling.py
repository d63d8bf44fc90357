"""`models pull` from a server on this machine, with an untrained checkpoint in the form of the published ones."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ctxdeploy.core.bundle
import ctxdeploy.export
import ctxdeploy.models.pulling as pulling
from ctxdeploy.core.errors import ConfigError, DownloadError, ParityError, StorageError
from ctxdeploy.core.files import WriterLock
from ctxdeploy.core.progress import Display
from ctxdeploy.evaluation import AsmkRetrieval
from ctxdeploy.export import ExportConfig
from ctxdeploy.export.parity import Retrieval
from ctxdeploy.models import PUBLISHED, find_bundle, find_checkpoint
from ctxdeploy.models.download import DownloadConfig
from ctxdeploy.models.listing import list_models, read_origin

MODEL = PUBLISHED["how-r18"]
QUICK = DownloadConfig(timeout=60.0, attempts=1)


@pytest.fixture(scope="session")
def exported(checkpoint: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of ``checkpoint`` as `pull` exports it, but of one scale and a small size."""
    folder = tmp_path_factory.mktemp("exported")
    (folder / "how_r18.pth").write_bytes(checkpoint)
    config = ExportConfig(scales=(1.0,), image_size=64)
    made = ctxdeploy.export.export_bundle
    return made(folder / "how_r18.pth", folder / "bundle", config, retrieval=AsmkRetrieval).check().path


@pytest.fixture
def exports(exported: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The checkpoints that were exported: a copy of ``exported`` for each, which takes no time."""
    done = []

    def export(checkpoint: Path, output: Path, *, retrieval: Retrieval, display: Display) -> Any:
        done.append(checkpoint)
        shutil.copytree(exported, output)
        return ctxdeploy.export.Exported(bundle=ctxdeploy.core.bundle.open(output), rejected=())

    monkeypatch.setattr(ctxdeploy.export, "export_bundle", export)
    return done


@pytest.fixture
def pull(site: Any, home: Path, checkpoint: bytes, exports: list[Path]) -> Callable[..., pulling.Pulled]:
    site.files["/how_r18.pth"] = checkpoint

    def run(model: Any = MODEL) -> pulling.Pulled:
        url = pulling.address(model, f"{site.url}/{model.file}")
        return pulling.pull(model, url, home, display=Display(quiet=True), config=QUICK)

    return run


def test_a_pulled_model_is_used_by_its_name(
    pull: Any, site: Any, home: Path, checkpoint: bytes, exports: list[Path]
) -> None:
    with pytest.raises(
        ConfigError, match="how-r18 is not on this machine: fetch it with  ctxdeploy models pull how-r18"
    ):
        find_bundle("how-r18")
    pulled = pull()
    assert pulled.new and find_bundle("how-r18") == home / "how-r18" == pulled.bundle.path
    assert find_checkpoint("how-r18").read_bytes() == checkpoint
    assert pulled.bundle.source["sha256"] == hashlib.sha256(checkpoint).hexdigest()
    origin = read_origin(home / "how-r18")
    assert origin is not None and origin.sha256 == pulled.bundle.source["sha256"] and not origin.known_sha256
    assert (origin.url, origin.bytes, origin.etag) == (f"{site.url}/how_r18.pth", len(checkpoint), '"one"')
    assert sorted(path.name for path in home.iterdir()) == ["LOCK", "how-r18"]
    (model,) = (model for model in list_models() if model.name == "how-r18")
    assert (model.kind, model.dim, model.url) == ("fetched", 16, origin.url) and model.path == home / "how-r18"
    assert not pull().new and len(site.requests) == len(exports) == 1
    assert pulling.remove("how-r18", home) == home / "how-r18"
    assert [path.name for path in home.iterdir()] == ["LOCK"]
    with pytest.raises(ConfigError, match="there is no model 'how-r18' in"):
        pulling.remove("how-r18", home)


def test_the_authors_addresses_are_encrypted_and_an_unverified_fetch_is_said(
    pull: Any, site: Any, checkpoint: bytes, capfd: pytest.CaptureFixture[str], home: Path
) -> None:
    assert all(model.url.startswith("https://") for model in PUBLISHED.values())
    url = f"{site.url}/how_r18.pth"
    site.files["/how_r18.pth"] = checkpoint
    known = replace(MODEL, sha256=hashlib.sha256(checkpoint).hexdigest())
    for model, said in ((MODEL, True), (known, False)):
        pulling.pull(model, url, home, display=Display(quiet=False), config=QUICK)
        error = capfd.readouterr().err
        assert (
            "unverified: the authors publish no sha256 of how_r18.pth, over a connection that anybody" in error
        ) == said
        pulling.remove("how-r18", home)


def test_an_interrupted_download_begins_anew_and_an_interrupted_export_goes_on(
    pull: Any, site: Any, home: Path, checkpoint: bytes, exports: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.cut_after = [100_000]
    with pytest.raises(DownloadError, match="cannot be fetched: the connection broke"):
        pull()
    assert [path.name for path in home.iterdir()] == ["LOCK"]
    (home / ".pull-how-r18").mkdir()
    (home / ".pull-how-r18" / "tmpkilled").write_bytes(b"of a process that was killed")

    def killed(checkpoint: Path, output: Path, *, retrieval: Retrieval, display: Display) -> Any:
        output.with_name("model.partial-1").mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ctxdeploy.export, "export_bundle", killed)
        pull()
    assert not (home / "how-r18").exists()
    assert sorted(path.name for path in (home / ".pull-how-r18").iterdir()) == [
        "how_r18.pth",
        "model.partial-1",
        "origin.json",
    ]
    asked = len(site.requests)
    assert pull().new and len(site.requests) == asked  # what was fetched is not fetched again
    assert [path.name for path in exports] == ["how_r18.pth"]
    assert sorted(path.name for path in home.iterdir()) == ["LOCK", "how-r18"]


def test_what_is_no_checkpoint_is_not_kept(pull: Any, site: Any, home: Path, checkpoint: bytes) -> None:
    damaged = bytearray(checkpoint)
    damaged[len(damaged) // 2] ^= 1  # among the weights: PyTorch would load it
    for content, message in (
        (b"<html>moved</html>", "is a web page, not a checkpoint"),
        (
            b"not a checkpoint",
            "gave something other than a checkpoint of a known network; it was removed: .*how_r18.pth",
        ),
        (b"", "gave something other than a checkpoint"),
        (bytes(damaged), r"gave a damaged file \(.*data.*\); it was removed: fetch it again"),
        (checkpoint[:-1000], "gave something other than a checkpoint"),
    ):
        site.files["/how_r18.pth"], site.etag = content, f'"{len(content)}"'
        with pytest.raises(DownloadError, match=message):
            pull()
        assert not (home / "how-r18").exists() and not (home / ".pull-how-r18" / "how_r18.pth").exists()
    site.files["/how_r18.pth"], site.etag = checkpoint, '"sound"'
    assert pull().new


def test_a_known_hash_is_compared(pull: Any, checkpoint: bytes, home: Path) -> None:
    with pytest.raises(DownloadError, match=r"instead of 0{64}: it is not the authors' checkpoint, and was removed"):
        pull(replace(MODEL, sha256="0" * 64))
    assert not (home / ".pull-how-r18" / "how_r18.pth").exists()
    pulled = pull(replace(MODEL, sha256=hashlib.sha256(checkpoint).hexdigest()))
    assert pulled.origin is not None and pulled.origin.known_sha256


def test_a_graph_that_differs_from_pytorch_is_no_model(pull: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def differs(checkpoint: Path, output: Path, *, retrieval: Retrieval, display: Display) -> Any:
        raise ParityError("the exported graph differs from PyTorch")

    monkeypatch.setattr(ctxdeploy.export, "export_bundle", differs)
    with pytest.raises(ParityError):
        pull()
    assert not (home / "how-r18").exists()


def test_one_process_writes_the_folder_of_models(pull: Any, home: Path, site: Any) -> None:
    home.mkdir(parents=True)
    lock = WriterLock(home)
    try:
        with pytest.raises(StorageError, match="is being written by process"):
            pull()
        with pytest.raises(ConfigError, match="there is no model"):
            pulling.remove("how-r18", home)
    finally:
        lock.release()
    assert site.requests == []
    assert pull().new


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["pull", "fire"], 2, "CC BY-NC-SA 4.0 (attribution, no commercial use"),
        (["pull", "ctx-small"], 2, "ctx-small is built in"),
        (["pull", "resnet"], 2, "choose one of how-r18, how-r50, fire"),
        (["pull", "how-r18", "--url", "ftp://host/a"], 2, "is not an address"),
        (["remove", "ctx-small"], 2, "ctx-small is built in"),
        (["remove", "../work"], 2, "there is no model '../work'"),
        (["remove", "how-r18"], 2, "there is no model 'how-r18'"),
    ],
)
def test_mistakes(call: Any, home: Path, arguments: list[str], code: int, message: str) -> None:
    result = call("models", *arguments)
    assert result.code == code and message in result.err and result.err.count("\n") <= 2, result.err
    assert not home.exists() and Path.cwd().exists()


def test_the_command_from_a_mirror(
    call: Any, site: Any, home: Path, checkpoint: bytes, exports: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files["/mirror/how_r18.pth"] = checkpoint
    monkeypatch.setenv("CTXDEPLOY_MIRROR", f"{site.url}/mirror/")
    result = call("models", "pull", "how-r18", "--quiet")
    sha256 = hashlib.sha256(checkpoint).hexdigest()
    assert result.code == 0, result.err
    assert f"sha256 {sha256} (not known to ctxdeploy before; recorded with the model)" in result.out
    assert "use it with  --model how-r18" in result.out and "licence MIT" in result.err
    assert call("info", "how-r18", "--json").json[0]["source"]["sha256"] == sha256
    again = call("models", "pull", "how-r18", "--json").json[0]
    assert again["new"] is False and again["origin"]["sha256"] == sha256
    there = call("models", "pull", "how-r18", "--to", home.parent / "other", "--quiet")
    assert there.code == 0 and f"--model {home.parent / 'other' / 'how-r18'}" in there.out
    assert call("models", "remove", "how-r18").out == f"removed {home / 'how-r18'}\n"
    listed = [json.loads(line) for line in call("models", "--json").out.splitlines()]
    assert next(entry for entry in listed if entry["name"] == "how-r18")["kind"] == "published"
    missing = call("models", "pull", "how-r50", "--quiet")
    assert missing.code == 23 and "the server answers 404" in missing.err


def test_addresses_are_those_of_the_authors_repositories() -> None:
    assert {name: model.file for name, model in PUBLISHED.items()} == {
        "how-r18": "how_r18.pth",
        "how-r50": "how_r50-.pth",
        "fire": "fire.pth",
    }
    for model in PUBLISHED.values():
        pulling.check_url(model.url)
        assert (model.terms is not None) == ("NC" in model.licence)
