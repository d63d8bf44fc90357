"""What ctxdeploy 0.1.0 wrote opens and answers the same: the files of `fixtures/stored`, by public names alone."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ctxdeploy.core import bundle
from ctxdeploy.index import Codebook, Index
from ctxdeploy.index.config import IndexConfig
from ctxdeploy.indexing.codebook import codebook_of
from ctxdeploy.runtime import BackendConfig, Extractor

STORED = Path(__file__).parent / "fixtures" / "stored"
BARE = ("archive-binary", "archive-float", "archive-float-idf")
ENGINE = ("--backend", "onnxruntime")
# Without what queries have learnt since.
AS_THEN = ("--expand", 0, "--turn", "none")
# A network's scores: other processors and versions of the engine round otherwise, which may turn a bit of a code.
CLOSE = 2e-3


# Settings that archives have got, at the values that mean what all did before.
SINCE = [
    (field.name, field.default)
    for field in fields(IndexConfig)
    if field.name.startswith("global_") or field.name == "aggregation"
]


def ctxdeploy(*arguments: object, code: int = 0) -> list[Any]:
    """Run a command, check its exit code, and return the JSON lines that it prints."""
    line = [
        sys.executable,
        "-m",
        "ctxdeploy.cli.main",
        *(os.fspath(a) if isinstance(a, Path) else str(a) for a in arguments),
    ]
    done = subprocess.run(line, capture_output=True, check=False)
    assert done.returncode == code, done.stderr.decode()[-2000:]
    return [json.loads(text) for text in done.stdout.splitlines()]


def expected_of(name: str) -> Any:
    """Return what a fixture must answer."""
    return json.loads((STORED / f"{name}.expected.json").read_text(encoding="ascii"))


def unpack(name: str, place: Path) -> Path:
    """Unpack a tar file of fixtures, with the times of change of the photos in it."""
    with tarfile.open(STORED / f"{name}.tar.xz") as file:
        file.extractall(place, filter="data")
    return place


def without(facts: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return facts without those that are of one place or one run."""
    return {name: value for name, value in facts.items() if name not in names}


def as_then(info: dict[str, Any]) -> dict[str, Any]:
    """Return what an archive says of itself without its place, as it was said when positions had no name.

    What it can keep since, and does not, was not said.
    """
    config = {**info["config"], "geometry": info["config"]["geometry"] in (True, "positions")}
    config = {name: value for name, value in config.items() if (name, value) not in SINCE}
    kept = info.get("global", {}).get("kept", "none")
    return {**without(info, "path", "features", *(["global"] if kept == "none" else [])), "config": config}


def exact(found: list[list[Any]]) -> list[list[list[str]]]:
    """Return hits as they are stored: names, and every bit of the scores."""
    return [[[hit.name, float(hit.score).hex()] for hit in hits] for hits in found]


def check_state(index: Index, expected: dict[str, Any]) -> None:
    """Compare what an archive says of itself with what is stored."""
    assert list(index.names()) == expected["names"]
    assert as_then(index.info()) == as_then(expected["info"])
    known = {name: [-1, -1] if file is None else [file.size, file.mtime_ns] for name, file in index.known().items()}
    assert known == expected["known"]
    assert index.failures() == expected["failures"]
    assert index.codebook.id == expected["codebook"]
    for name, features in expected["geometry"].items():
        geometry = index.features(name)
        assert geometry is not None
        assert {key: getattr(geometry, key).tolist() for key in features} == features
    assert index.config.geometry == ("positions" if expected["geometry"] else "none")


def vectors_of(rows: list[list[float]], dim: int) -> NDArray[np.float32]:
    """Return stored descriptors; there may be none."""
    return np.array(rows, np.float32).reshape(-1, dim)


# --- archives made in Python


@pytest.fixture(params=BARE)
def bare(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any], list[NDArray[np.float32]]]:
    """Return a copy of an archive, what it must answer, and queries."""
    path = Path(shutil.copytree(STORED / request.param, tmp_path / request.param))
    expected = expected_of(request.param)
    return path, expected, [vectors_of(rows, 32) for rows in expected["queries"]]


def test_archive_answers(bare: Any) -> None:
    path, expected, queries = bare
    for state, at in (("now", None), ("first", "first"), ("first", 1)):
        with Index.open(path, at=at) as index:
            check_state(index, expected[state])
            assert exact(index.search_batch(queries)) == expected[state]["hits"]
            assert exact([index.search(query) for query in queries]) == expected[state]["hits"]
            some = index.search_batch(queries, top=3, alpha=2.0, threshold=0.1)
            assert exact(some) == expected[state]["hits_of_three"]
    with Index.open(path) as index:
        assert index.verify() == []
        assert [(info.name, info.manifest) for info in index.snapshots()] == [("first", 1)]


def test_archive_changes(bare: Any) -> None:
    path, expected, queries = bare
    with Index.open(path, writable=True) as index:
        index.add("new", queries[4], positions=np.zeros((len(queries[4]), 2)))
        index.commit()
        assert index.search(queries[4], 2)[0].name in ("new", "folder/e.jpg")
        index.remove("new")
        index.snapshot("second")
        index.compact(purge=True)
        index.collect_garbage()
        assert exact(index.search_batch(queries)) == expected["now"]["hits"]
    with Index.open(path, at="first") as index:
        check_state(index, {**expected["first"], "info": index.info()})  # there are more snapshots now
        assert exact(index.search_batch(queries)) == expected["first"]["hits"]
    assert exact(Index.open(path, at="second").search_batch(queries)) == expected["now"]["hits"]
    assert Index.repair(path).problems == ()
    with Index.open(path, writable=True) as index:
        assert index.merge(STORED / path.name, conflicts="keep").kept == len(expected["now"]["names"])
        assert index.verify() == []


def test_archive_on_the_command_line(bare: Any) -> None:
    path, expected, _ = bare
    (facts,) = ctxdeploy("info", path, "--json")
    assert as_then(expected["now"]["info"]).items() <= as_then(facts).items()
    assert facts["failed_photos"] == expected["now"]["failures"]
    (report,) = ctxdeploy("verify", path, "--json")
    assert report["problems"] == []


# --- codebooks


@pytest.mark.parametrize(("name", "compact"), [("plain", False), ("compact", True), ("compact-cells", True)])
def test_codebook(tmp_path: Path, name: str, compact: bool) -> None:
    file, expected = STORED / f"{name}.safetensors", expected_of("codebooks")[name]
    codebook = Codebook.load(file)
    codebook.check(file.name)
    assert (codebook.id, len(codebook), codebook.dim) == (expected["id"], expected["words"], expected["dim"])
    queries = vectors_of(expected["queries"], codebook.dim)
    # As near as the words of then, bit by bit: of words that are equally near, 0.1.0 took others.
    distances = np.square(queries[:, None].astype(np.float64) - codebook.centroids[None]).sum(axis=2)
    near = [
        np.take_along_axis(distances, words, 1)
        for words in (codebook.assign(queries, 3), np.array(expected["assigned"]))
    ]
    assert np.array_equal(*near)
    codebook.save(tmp_path / file.name, compact=compact)
    assert (tmp_path / file.name).read_bytes() == file.read_bytes()


# --- a checkpoint and bundles


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the checkpoint and the bundles; not to be changed."""
    return unpack("network", tmp_path_factory.mktemp("network"))


@pytest.mark.parametrize("name", ["small.ctxbundle", "worded.ctxbundle"])
def test_bundle_on_the_command_line(network: Path, name: str) -> None:
    (facts,) = ctxdeploy("info", network / name, "--json")
    assert without(facts, "path") == without(expected_of("network")["info"][name], "path")
    (report,) = ctxdeploy("verify", network / name, "--json")
    assert report["problems"] == []
    manifest = json.loads((network / name / "bundle.json").read_text(encoding="utf-8"))
    opened = bundle.open(network / name)
    assert json.loads(json.dumps(opened.metadata())) == manifest
    codebook = codebook_of(opened)
    found = None if codebook is None else {"id": codebook.id, "words": len(codebook)}
    assert found == (expected_of("network")["codebook"] if name == "worded.ctxbundle" else None)


def test_bundle_gives_the_same_descriptors(network: Path) -> None:
    expected = expected_of("network")["descriptors"]["fp32"]
    for name in ("small.ctxbundle", "worded.ctxbundle"):
        extractor = Extractor(bundle.open(network / name), backend=BackendConfig(name="onnxruntime"))
        found = extractor.extract_one(network / "photo.png")
        for part, rows in expected.items():
            largest = np.abs(rows).max()
            assert np.allclose(getattr(found, part), rows, rtol=0, atol=1e-5 * largest), part


@pytest.mark.parametrize(("engine", "precision"), [("onnxruntime", "int8"), ("openvino", "bf16"), ("openvino", "fp32")])
def test_other_precisions(network: Path, engine: str, precision: str) -> None:
    """Processors differ in how they compute these: most descriptors are found again, and look alike."""
    extractor = Extractor(
        bundle.open(network / "small.ctxbundle"), backend=BackendConfig(name=engine, precision=precision)
    )
    found, expected = extractor.extract_one(network / "photo.png"), expected_of("network")["descriptors"][precision]
    stored = {
        (*p, s): v for p, s, v in zip(*(expected[part] for part in ("positions", "scales", "vectors")), strict=True)
    }
    cosines = []
    for position, scale, vector in zip(found.positions, found.scales, found.vectors, strict=True):
        key = min(stored, key=lambda k: abs(k[0] - position[0]) + abs(k[1] - position[1]) + 1e3 * abs(k[2] - scale))
        if np.allclose(key, [*position, scale], atol=0.01):
            other = np.array(stored[key])
            cosines.append(vector @ other / np.linalg.norm(vector) / np.linalg.norm(other))
    assert len(cosines) >= 0.9 * len(stored) and min(cosines) > 0.9 and np.mean(cosines) > 0.97


@pytest.mark.slow
def test_checkpoint_is_exported_to_the_same_model(network: Path, tmp_path: Path) -> None:
    photos = unpack("evaluation", tmp_path) / "trial"
    line = ("export", network / "small.pth", "-o", tmp_path / "again.ctxbundle", "--photos", photos, "--json", "-q")
    (made,) = ctxdeploy(*line)
    stored = expected_of("network")
    for name in ("model_id", "preprocessing_hash", "network", "source", "extraction", "input", "outputs"):
        assert made[name] == stored["info"]["small.ctxbundle"][name], name
    assert made["source"]["format"] == stored["checkpoint"]["form"] == "ctx"
    assert made["source"]["weights_sha256"] == stored["checkpoint"]["weights_sha256"]
    assert made["artefacts"][0]["parity"]["verdict"] == "passed"


# --- an archive made by the command line


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Return the archive of `album/` beside it, with `queries/` and `later/`."""
    return unpack("album", tmp_path) / "album.ctxindex"


def check_hits(archive: Path, expected: dict[str, Any], at: str | None, queries: list[NDArray[np.float32]]) -> None:
    """Compare the hits of given descriptors with those stored."""
    with Index.open(archive, at=at) as index:
        assert exact(index.search_batch(queries, top=20)) == expected["hits"]
        assert exact(index.search_batch(queries, top=20, idf=True)) == expected["hits_idf"]


def check_printed(archive: Path, expected: dict[str, Any], *options: object) -> None:
    """Compare what ``query --json`` prints, as it ranked then, with what is stored."""
    photos = sorted((archive.parent / "queries").iterdir())
    printed = ctxdeploy("query", *photos, "--index", archive, *ENGINE, *AS_THEN, "--json", *options)
    for photo, now, stored in zip(photos, printed, expected["printed"], strict=True):
        assert (now["query"], now["box"]) == (str(photo), None)
        assert now.keys() >= stored.keys() and now["descriptors"] == stored["descriptors"]
        before = {result["name"]: result["score"] for result in stored["results"]}
        after = {result["name"]: result["score"] for result in now["results"]}
        assert now["results"][0]["name"] == stored["results"][0]["name"]
        assert [result["rank"] for result in now["results"]] == list(range(1, len(after) + 1))
        assert all(abs(after.get(name, 0) - before.get(name, 0)) < CLOSE for name in {*before, *after})
    (archive / "judgement.json").unlink(missing_ok=True)  # the first query has made it


def test_album_answers(album: Path) -> None:
    expected = expected_of("album")
    queries = [vectors_of(rows, 32) for rows in expected["queries"].values()]
    for state, at in (("now", None), ("first", "first")):
        where = () if at is None else ("--at", at)
        with Index.open(album, at=at) as index:
            check_state(index, expected[state])
            assert index.verify() == []
        check_hits(album, expected[state], at, queries)
        (told,) = ctxdeploy("info", album, "--json", *where)
        assert as_then(without(told, "last_run", "writer", "search")) == as_then(expected[state]["told"])
        check_printed(album, expected[state], *where)
    (report,) = ctxdeploy("verify", album, "--json")
    assert report["problems"] == []


@pytest.mark.slow
def test_album_goes_on(album: Path) -> None:
    expected = expected_of("album")
    queries = [vectors_of(rows, 32) for rows in expected["queries"].values()]
    photos = album.with_name("album")
    line = ("index", photos, "-o", album, *ENGINE, "--json")
    assert ctxdeploy(*line, "--moved")[0]["unchanged"] == len(expected["now"]["names"])
    check_hits(album, expected["now"], None, queries)
    shutil.copy2(album.parent / "later" / "moon.jpg", photos / "moon.jpg")
    (report,) = ctxdeploy(*line)
    counts = {name: report[name] for name in ("indexed", "unchanged", "given_up", "replaced", "removed", "failed")}
    assert counts == {"indexed": 1, "unchanged": 13, "given_up": 2, "replaced": 0, "removed": 0, "failed": 0}
    (answer,) = ctxdeploy("query", photos / "moon.jpg", "--index", album, *ENGINE, "--json")
    assert answer["results"][0]["name"] == "moon.jpg"
    ctxdeploy("snapshot", album, "second", "--json")
    (photos / "moon.jpg").unlink()
    (report,) = ctxdeploy(*line, "--sync")
    assert report["removed"] == 1
    ctxdeploy("compact", album, "--purge", "--json")
    check_hits(album, expected["now"], None, queries)
    check_hits(album, expected["first"], "first", queries)
    check_printed(album, expected["first"], "--at", "first")
    with Index.open(album, at="second") as index:
        assert sorted(index.names()) == sorted([*expected["now"]["names"], "moon.jpg"])
    ctxdeploy("remove", album, "coffee/0.jpg", "--json")
    ctxdeploy("repair", album, "--json")
    assert ctxdeploy("verify", album, "--json")[0]["problems"] == []


# --- what lies beside archives


def test_interrupted_run_goes_on(network: Path, tmp_path: Path) -> None:
    """The stored descriptors are those of other photos, which are found instead."""
    place, expected = unpack("interrupted", tmp_path) / "interrupted", expected_of("interrupted")
    archive = place / "photos.ctxindex"
    line = ("index", place / "photos", "-o", archive, "--model", network / "worded.ctxbundle", *ENGINE, "--json", "-q")
    (report,) = ctxdeploy(*line)
    assert report["indexed"] == len(expected["first"]) and not archive.with_name("photos.ctxindex.training").exists()
    photos = [place / "photos" / name for name in expected["first"]]
    answers = ctxdeploy("query", *photos, "--index", archive, *ENGINE, "--json")
    assert [answer["results"][0]["name"] for answer in answers] == list(expected["first"].values())


def test_evaluation_is_scored_again(tmp_path: Path) -> None:
    """From what lies beside the archive: the photos hold nothing any more, and are not read."""
    place, expected = unpack("evaluation", tmp_path), expected_of("evaluation")
    for photo in (place / "trial").glob("*.jpg"):
        state = photo.stat()
        photo.write_bytes(bytes(state.st_size))
        os.utime(photo, ns=(state.st_atime_ns, state.st_mtime_ns))
    rankings = tmp_path / "rankings.jsonl"
    line = ("eval", place / "trial", "-o", place / "trial.ctxindex", *ENGINE, "--rankings", rankings, "--json", "-q")
    (printed,) = ctxdeploy(*line)
    assert [json.loads(text) for text in rankings.read_text().splitlines()] == expected["rankings"]
    for name in ("set", "kind", "rule", "unit", "figures", "photos", "queries", "unreadable", "worst"):
        assert printed[name] == expected["printed"][name], name


def test_bench_record_is_compared(tmp_path: Path) -> None:
    record = Path(shutil.copy(STORED / "bench-search.json", tmp_path))
    (found,) = ctxdeploy("bench", "compare", record, record, "--json")
    expected = expected_of("bench")
    numbers = ("ratio", "low", "high", "detectable", "by_seconds", "by_meter", "drifts")
    assert without(found, "a", "b", *numbers) == without(expected, "a", "b", *numbers)
    for name in numbers:
        # 0.1.0 drew its intervals from a bootstrap; since then scipy's t distribution gives their ends.
        assert found[name] == pytest.approx(expected[name], rel=2e-2), name
    assert found["a"] == f"{record} (search, 2 threads)"
