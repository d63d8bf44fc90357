"""Names and paths to models."""

import shutil
from pathlib import Path

import pytest

import ctxdeploy.models.finding as finding
from ctxdeploy.core.errors import BundleError, ConfigError
from ctxdeploy.models import PUBLISHED
from ctxdeploy.models.authors import UNAVAILABLE
from ctxdeploy.models.table import BUILT_IN, is_name


@pytest.mark.parametrize("name", ["a", "how-r18", "A.b_c-1", "x" * 64])
def test_names(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "-a", "a/b", "a\\b", "a b", "a\n", "é", "x" * 65])
def test_what_is_no_name(name: str, home: Path) -> None:
    assert not is_name(name)
    assert finding.named_model(name) is None and finding.find_bundle(name) == Path(name)


def test_every_name_of_the_table_is_one_and_stands_once() -> None:
    assert all(is_name(name) for name in (*BUILT_IN, *PUBLISHED))
    unavailable = {entry.name for entry in UNAVAILABLE}
    assert not set(BUILT_IN) & set(PUBLISHED) and not unavailable & {*BUILT_IN, *PUBLISHED}
    assert [path.name for path in map(finding.built_in, BUILT_IN)] == list(BUILT_IN)


def test_the_folder_of_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CTXDEPLOY_HOME", str(tmp_path / "c"))
    assert finding.models_folder() == tmp_path / "c" / "models"
    monkeypatch.delenv("CTXDEPLOY_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "x"))
    assert finding.models_folder() == tmp_path / "x" / "ctxdeploy" / "models"
    monkeypatch.setenv("HOME", str(tmp_path / "h"))
    for relative in ("", "data"):
        monkeypatch.setenv("XDG_DATA_HOME", relative)
        assert finding.models_folder() == tmp_path / "h" / ".local" / "share" / "ctxdeploy" / "models"


def test_a_bundle_at_the_path_then_the_built_in_then_one_s_own(home: Path) -> None:
    own = finding.built_in("ctx-small")
    assert finding.find_bundle("ctx-small") == own
    for name in ("ctx-small", "mine"):
        shutil.copytree(own, home / name)
    assert finding.find_bundle("ctx-small") == own  # a name of the package means the same everywhere
    assert finding.find_bundle("mine") == home / "mine"
    assert finding.find_checkpoint("mine") == home / "mine" / "ctx-small.pth"
    assert finding.display_name(home / "mine") == "mine" and finding.display_name(own) == "ctx-small (built in)"
    (home / "mine" / "ctx-small.pth").unlink()
    with pytest.raises(ConfigError, match="model mine came without its checkpoint: name the file"):
        finding.find_checkpoint("mine")
    shutil.copytree(own, "ctx-small")
    assert finding.find_bundle("ctx-small") == Path("ctx-small")
    Path("model.ckpt.index").write_bytes(b"TensorFlow's")
    assert finding.find_checkpoint("model.ckpt") == Path("model.ckpt.index")
    Path("how-r18").write_bytes(b"a checkpoint")
    assert finding.find_checkpoint("how-r18") == Path("how-r18")
    finding.check_own(Path("ctx-small"))
    with pytest.raises(ConfigError, match="ctx-small is built in and stays as it is"):
        finding.check_own(own)


def test_an_installation_without_its_model_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(finding, "files", lambda package: tmp_path)
    with pytest.raises(BundleError, match="ctx-small is missing: install ctxdeploy again"):
        finding.built_in("ctx-small")
    monkeypatch.setattr(finding, "files", lambda package: __import__("zipfile").Path(_zip(tmp_path)))
    with pytest.raises(BundleError, match="lies in an archive of Python modules: install ctxdeploy with pip"):
        finding.built_in("ctx-small")


def _zip(folder: Path) -> Path:
    import zipfile

    with zipfile.ZipFile(folder / "a.zip", "w") as file:
        file.writestr("ctx-small/bundle.json", "{}")
    return folder / "a.zip"
