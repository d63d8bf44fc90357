"""``ctxdeploy index --descriptors``: files of the DELF library to an archive, and what is asked of that."""

import pickle
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def folder(load_reference: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of six photos' files, of which each half shows the same."""
    writer, random = load_reference("delf_files"), np.random.default_rng(0)
    scenes = random.standard_normal((2, 40, 16))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "delg").mkdir()
    for number in range(6):
        local = scenes[number // 3] + 0.2 * random.standard_normal((40, 16))
        places = scenes[number // 3][:, :2] * 100 + 300
        (tmp_path / "delg" / f"{number}.delg_local").write_bytes(
            writer.features(local, places, np.ones(40), np.arange(1, 41))
        )
        whole = local.sum(axis=0)
        (tmp_path / "delg" / f"{number}.delg_global").write_bytes(writer.datum(whole / np.linalg.norm(whole)))
    return tmp_path / "delg"


def test_files_are_indexed_and_asked_by_name_and_no_network_is_needed(folder: Path, call: Any) -> None:
    (folder / "5.delg_local").write_bytes(b"damaged")
    done = call("index", "--descriptors", "delg", "-o", "a.ctxindex", "--words", 16, "--geometry", "--json")
    assert done.code == 19 and "1 of 6 photos could not be read" in done.err
    (report,) = done.json
    assert (report["indexed"], report["failed"], report["failures"][0]["name"]) == (5, 1, "5")
    (again,) = call("index", "--descriptors", "delg", "-o", "a.ctxindex", "--json").json
    assert (again["indexed"], again["unchanged"], again["given_up"]) == (0, 5, 1)

    for options in ([], ["--verify", 5], ["--rank", "global"], ["--rank", "global-then-local"]):
        asked = call("query", "--indexed", "0", "--index", "a.ctxindex", "--top", 3, "--json", *options)
        assert asked.code == 0 and {hit["name"] for hit in asked.json[0]["results"]} == {"0", "1", "2"}, asked
    refused = call("query", Path(__file__).parents[1] / "no.jpg", "--index", "a.ctxindex")
    assert refused.code != 0
    assert "a.ctxindex was made of descriptor files (.delg_local, .delg_global), and no network comes" in refused.err
    assert "--indexed NAME" in refused.err and "Traceback" not in refused.err
    info = call("info", "a.ctxindex")
    assert info.code == 0 and "5 photos" in info.out and ".delg_local, .delg_global" in info.out
    assert call("verify", "a.ctxindex").code == 0


def test_what_is_about_photos_is_refused(folder: Path, call: Any) -> None:
    for options in (["--model", "x"], ["--workers", 2], ["--precision", "fp32"], ["--include", "x"], ["--boxes", "b"]):
        done = call("index", "--descriptors", folder, *options)
        assert done.code == 2 and done.err.startswith(
            f"ctxdeploy: error: {options[0]} is about photos and the network"
        ), done
    assert (
        "--descriptors delg takes the place of photos: give one" in call("index", "photos", "--descriptors", "delg").err
    )
    assert "give PLACE, photos, or --descriptors DIR" in call("index").err
    assert sorted(path.name for path in folder.parent.iterdir()) == ["delg"]


def test_what_would_be_done(folder: Path, call: Any) -> None:
    done = call("index", "--descriptors", "delg", "--dry-run")
    assert done.code == 0 and "delg.ctxindex (new): 6 to add" in done.out and "no network runs" in done.out
    assert call("index", "--descriptors", "delg", "--dry-run", "--json").json[0]["new"] == 6


def test_a_codebook_as_the_package_asmk_pickles_it(folder: Path, call: Any) -> None:
    centroids = np.random.default_rng(1).standard_normal((32, 16)).astype(np.float32)
    state = {"type": "Codebook", "params": {"index": {}, "size": 32}, "state": {"centroids": centroids}}
    Path("codebook.pkl").write_bytes(pickle.dumps(state))
    assert call("index", "--descriptors", "delg", "--codebook", "codebook.pkl", "--memory-limit", "1GB").code == 0
    assert call("info", "delg.ctxindex", "--json").json[0]["codebook"]["words"] == 32
