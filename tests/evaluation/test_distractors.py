"""Distractors are searched as if they lay in the database, and archives that do not fit are refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.index import Codebook, Index, IndexConfig


@pytest.fixture(scope="module")
def distractors(revisited: Path, bundle: Bundle, codebook: Path, tmp_path_factory) -> Path:
    """An archive of photos that disturb: the queries themselves, one of which is named like a photo of the database."""
    from ctxdeploy.cli.main import run

    folder = tmp_path_factory.mktemp("distractors")
    (folder / "photos").mkdir()
    for number, path in enumerate(sorted((revisited / "jpg").glob("*_query_*.jpg"))[:40]):
        name = f"q{number}.jpg" if number else "scene05_easy_000000.jpg"
        shutil.copy(path, folder / "photos" / name)
    archive = folder / "d.ctxindex"
    options = ("-o", str(archive), "--model", str(bundle.path), "--codebook", str(codebook), "--global", "fp32", "-q")
    assert run(["index", str(folder / "photos"), *options]) == 0
    return archive


def _rows(path: Path) -> dict[str, list[list[object]]]:
    rows = map(json.loads, path.read_text(encoding="ascii").splitlines())
    return {row["query"]: row["ranked"] for row in rows if row["method"] == "asmk"}


def test_rankings_are_those_of_one_archive_with_all_photos(
    call, evaluated, read_page, distractors: Path, revisited: Path, tmp_path: Path
) -> None:
    options = ("--distractors", distractors, "--rankings", tmp_path / "r.jsonl", "--html", tmp_path / "w.html")
    result = call(*evaluated.options, *options, "--json", "-q")
    assert result.code == 0, result.err
    assert result.json["distractors"] == 40
    plain = call(*evaluated.options, "--json", "-q").json
    assert result.json["figures"]["medium"]["mAP"] < plain["figures"]["medium"]["mAP"] - 5
    # One archive of both; the one of the same name is called otherwise, and equal scores do not occur.
    both = tmp_path / "both.ctxindex"
    shutil.copytree(evaluated.archive, both)
    with Index.open(both, writable=True) as index:
        index.remove("scene05_easy_000000.jpg")
        assert index.merge(distractors).added == 40
    merged, alone = _rows(tmp_path / "r.jsonl"), _rows(evaluated.rankings)
    plain_search = ("--expand", 0, "--turn", "none")
    for query in sorted(merged)[::23]:
        crop = next(q for q in _boxes(revisited) if q[0] == query)[1]
        answer = call(
            "query", revisited / "jpg" / query, "--box", crop, "--index", both, "--top", 1000, *plain_search, "--json"
        ).json
        expected = [[hit["name"], hit["score"]] for hit in answer["results"]]
        ours = [row for row in merged[query] if row[0] != "scene05_easy_000000.jpg" or len(row) == 3]
        assert [row[:2] for row in ours] == expected
        assert [row for row in merged[query] if len(row) == 2] == [row[:2] for row in alone[query]]
    page = read_page(tmp_path / "w.html")
    assert not page.all("p", "missing") and page.all("li", "wrong")


def _boxes(revisited: Path) -> list[tuple[str, str]]:
    from ctxdeploy.core.plain_pickle import load_plain

    content = load_plain(revisited / "gnd_roxford5k.pkl")
    return [
        (f"{name}.jpg", ",".join(map(str, truth["bbx"])))
        for name, truth in zip(content["qimlist"], content["gnd"], strict=True)
    ]


def test_without_a_codebook_that_of_the_distractors_is_taken(
    call, few: Path, bundle: Bundle, distractors: Path, tmp_path: Path
) -> None:
    options = ("eval", few, "-o", tmp_path / "a.ctxindex", "--model", bundle.path, "--distractors", distractors)
    result = call(*options, "--json", "-q")
    assert result.code == 0, result.err
    assert result.json["codebook"]["id"] == Codebook.load(distractors / "codebook.safetensors").id


def test_distractors_that_do_not_fit(call, evaluated, distractors: Path, codebook: Path, tmp_path: Path) -> None:
    with Index.open(distractors) as index:
        source, words = index.source, index.codebook
    own = Codebook(np.asarray(words.centroids) + 1)
    for name, given, of, config, message in (
        ("words", own, source, IndexConfig(), "was made with codebook"),
        ("nameless", words, None, IndexConfig(), "does not say which model"),
        ("idf", words, source, IndexConfig(idf=True), "rarity"),
        ("alpha", words, source, IndexConfig(alpha=1.0), "other settings"),
    ):
        Index.create(tmp_path / name, given, config=config, source=of).close()
        result = call(*evaluated.options, "--distractors", tmp_path / name, "-q")
        assert (result.code, len(result.err.splitlines())) == (16, 1), result.err
        assert message in result.err
    result = call(*evaluated.options, "--distractors", tmp_path / "none", "-q")
    assert result.code == 15
    result = call(*evaluated.options, "--distractors", evaluated.archive, "-q")  # each right photo, wrong too
    assert result.code == 2 and "of the evaluated photos (-o)" in result.err


def test_an_archive_of_other_photos_or_another_precision(call, evaluated, revisited: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.ctxindex"
    shutil.copytree(evaluated.archive, archive)
    with Index.open(archive, writable=True) as index:
        index.add("stranger.jpg", np.ones((1, 32), np.float32), global_descriptor=np.zeros(32, np.float32))
    options = [str(archive) if option == str(evaluated.archive) else option for option in evaluated.options]
    result = call(*options, "-q")
    assert result.code == 2 and "stranger.jpg" in result.err
    result = call(*evaluated.options, "--backend", "openvino", "-q")
    assert result.code == 2 and "was made with backend onnxruntime, now it would be openvino" in result.err
