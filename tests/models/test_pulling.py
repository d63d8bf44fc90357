"""`models pull` from a server on this machine, with an untrained checkpoint in the form of the published ones."""

import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ctxdeploy.core.bundle
import ctxdeploy.export
import ctxdeploy.models.pulling as pulling
from ctxdeploy.core.errors import ConfigError, DownloadError, ParityError, StorageError
from ctxdeploy.core.locks import WriterLock
from ctxdeploy.core.progress import Display
from ctxdeploy.core.samples import sample_photo
from ctxdeploy.evaluation import AsmkRetrieval
from ctxdeploy.export import ExportConfig
from ctxdeploy.export.parity import ParityPhotos, Retrieval
from ctxdeploy.indexing.given_codebook import open_given
from ctxdeploy.models import PUBLISHED, find_bundle, find_checkpoint
from ctxdeploy.models.download import DownloadConfig
from ctxdeploy.models.listing import list_models, read_origin

MODEL = PUBLISHED["how-r18"]
SCENES = ("astronaut", "coffee", "rocket", "coins")
QUICK = DownloadConfig(timeout=60.0, attempts=1)


@pytest.fixture(scope="session")
def exported(checkpoint: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of ``checkpoint`` as `pull` exports it, but of one scale and a small size, compared on few photos."""
    folder = tmp_path_factory.mktemp("exported")
    (folder / "how_r18.pth").write_bytes(checkpoint)
    config = ExportConfig(scales=(1.0,), image_size=64)
    small = {name: np.asarray(Image.fromarray(sample_photo(name)).resize((64, 48))) for name in SCENES}
    few = ParityPhotos(parity={name: small[name] for name in SCENES[:2]}, retrieval=small)
    made = ctxdeploy.export.export_bundle
    return made(folder / "how_r18.pth", folder / "bundle", config, retrieval=AsmkRetrieval, photos=few).check().path


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
    assert all((model.url or model.page or "").startswith("https://") for model in PUBLISHED.values())
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
        (["pull", "rmac-gordo"], 2, "cannot be had: its trained weights exist for Caffe alone; take gem-w-r101-gl18"),
        (["pull", "ap-gem-r101"], 2, "models pull ap-gem-r101 --file FILE"),
        (["pull", "ap-gem-r101", "--file", "missing.pt"], 2, "--file missing.pt is not a file"),
        (["pull", "how-r18", "--file", "a", "--url", "http://h/b"], 2, "--url and --file exclude each other"),
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
    files = {name: model.file for name, model in PUBLISHED.items()}
    assert (files["how-r50"], files["fire"]) == ("how_r50-.pth", "fire.pth")
    assert files["solar-r101"] == "resnet101-solar-best.pth"
    assert len(set(files.values())) == len(files)  # a mirror has them in one folder
    for name, model in PUBLISHED.items():
        pulling.check_url(model.url or model.page or "")
        assert name.startswith("gem-") == (model.sha256_prefix is not None)
        assert model.gives in ("local", "global", "local, global", "codebook")
        assert ("global" in model.gives) == (model.global_dim is not None)
        assert (model.gives == "global") == (model.dim is None)
        assert (model.terms is not None) == ("NC" in model.licence)


def test_the_digits_in_a_file_s_name_are_compared(pull: Any, site: Any, checkpoint: bytes, home: Path) -> None:
    digest = hashlib.sha256(checkpoint).hexdigest()
    named = {digits: replace(MODEL, file=f"gem-{digits}.pth") for digits in (digest[:7], "0" * 7)}
    for model in named.values():
        site.files[f"/{model.file}"] = checkpoint
    with pytest.raises(DownloadError, match=r"should begin with 0000000, as the name gem-0000000\.pth says"):
        pull(named["0" * 7])
    pulled = pull(named[digest[:7]])
    assert pulled.origin is not None and not pulled.origin.known_sha256
    assert named[digest[:7]].hash_text == f"sha256: begins with {digest[:7]}, as the file's name says"
    assert MODEL.hash_text == "sha256: not published"


def test_a_published_size_is_compared(pull: Any, checkpoint: bytes) -> None:
    with pytest.raises(DownloadError, match=r"instead of 17: it is not the authors' file, and was removed"):
        pull(replace(MODEL, bytes=17))
    assert pull(replace(MODEL, bytes=len(checkpoint))).new


def test_a_file_that_was_downloaded_by_hand(
    call: Any, site: Any, home: Path, checkpoint: bytes, exports: list[Path]
) -> None:
    Path("mine.pth").write_bytes(checkpoint)
    result = call("models", "pull", "how-r18", "--file", "mine.pth", "--json")
    assert result.code == 0 and result.json[0]["origin"]["url"] == "file:mine.pth", result.err
    assert site.requests == [] and Path("mine.pth").exists()
    assert find_checkpoint("how-r18").read_bytes() == checkpoint


def _packed(*members: tuple[str, bytes], links: tuple[tuple[str, str], ...] = ()) -> bytes:
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, BytesIO(content))
        for name, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return packed.getvalue()


@pytest.fixture
def written(load_reference: Any, tmp_path: Path) -> Callable[..., tuple[bytes, bytes]]:
    """Return a function that gives the index and the data of a checkpoint of TensorFlow."""
    from ctxdeploy.export.crc32c import crc32c

    def write(tensors: Any) -> tuple[bytes, bytes]:
        prefix = tmp_path / "checkpoint"
        load_reference("tensor_bundle").write(prefix, tensors, crc32c=crc32c)
        return prefix.with_name("checkpoint.index").read_bytes(), prefix.with_name(
            "checkpoint.data-00000-of-00001"
        ).read_bytes()

    return write


def test_a_codebook_of_tensorflow_is_fetched_and_used_by_its_name(
    call: Any, site: Any, home: Path, written: Any
) -> None:
    import numpy as np

    from ctxdeploy.core.bundle import CODEBOOK
    from ctxdeploy.index import open_codebook

    model = PUBLISHED["delf-words-rparis6k-1024"]
    centroids = np.random.default_rng(0).standard_normal((1024, 128), dtype=np.float32)
    index, data = written({"clusters": centroids, "global_step": np.array(50, np.int64)})
    inside = "k1024_codebook_tfckpt/codebook"
    site.files[f"/{model.file}"] = _packed((f"{inside}.index", index), (f"{inside}.data-00000-of-00001", data))
    with pytest.raises(ConfigError, match="codebook delf-words-rparis6k-1024 is not on this machine: fetch it with"):
        open_given(Path(model.name))
    result = call("models", "pull", model.name, "--url", f"{site.url}/{model.file}", "--quiet")
    assert result.code == 0 and f"use it with  --codebook {model.name}" in result.out, result.err
    assert sorted(path.name for path in (home / model.name).iterdir()) == sorted([CODEBOOK, "origin.json"])
    assert np.array_equal(open_codebook(home / model.name / CODEBOOK).centroids, centroids)
    assert np.array_equal(open_given(Path(model.name)).centroids, centroids)
    (listed,) = (entry for entry in list_models() if entry.name == model.name)
    assert (listed.kind, listed.gives, listed.path) == ("fetched", "codebook", home / model.name)
    with pytest.raises(ConfigError, match="is a codebook, not a model: give it with --codebook"):
        find_bundle(model.name)
    assert call("models", "pull", model.name, "--quiet").code == 0 and len(site.requests) == 1
    assert call("models", "remove", model.name).code == 0 and not (home / model.name).exists()


def test_what_is_packed_and_not_a_codebook_is_not_kept(call: Any, site: Any, home: Path, written: Any) -> None:
    import numpy as np

    model = PUBLISHED["delf-words-rparis6k-1024"]
    index, data = written({"weights": np.zeros(3, np.float32)})
    for content, message in (
        (_packed(("a.index", index), ("a.data-00000-of-00001", data)), "it has no tensor 'clusters', but weights"),
        (_packed(("a.txt", b"text")), "it must hold one checkpoint of TensorFlow"),
        (_packed(links=(("a", "/etc/passwd"),)), "holds a, which is neither a plain file nor a folder"),
        (_packed(("../a.index", index)), "nothing of it is used"),
        (b"not packed", "is not a whole .tar.gz file"),
    ):
        site.files[f"/{model.file}"] = content
        result = call("models", "pull", model.name, "--url", f"{site.url}/{model.file}", "--quiet")
        assert result.code == 23 and message in result.err and result.err.count("\n") <= 2, result.err
        left = {path.name for path in home.rglob("*")}
        assert left <= {"LOCK", f".pull-{model.name}", "origin.json"}, message
