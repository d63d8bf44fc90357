"""Expansion and verification of an evaluation: the rankings are those of the index's own functions."""

import json
from pathlib import Path

import pytest

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.types import LocalDescriptors
from ctxdeploy.evaluation import EvaluationConfig, Reranking
from ctxdeploy.index import Index, VerificationConfig, rank, verify
from ctxdeploy.judgement import judge_archive
from ctxdeploy.runtime import Extractor
from ctxdeploy.runtime.sources import FilePhoto

SAME = "--codebook-of-same-set"


def _ranked(path: Path) -> dict[str, list[str]]:
    rows = map(json.loads, path.read_text(encoding="ascii").splitlines())
    return {row["query"]: [photo[0] for photo in row["ranked"]] for row in rows}


def _descriptors(bundle: Bundle, folder: Path, name: str) -> LocalDescriptors:
    return Extractor(bundle).extract_one(FilePhoto(name=name, folder=str(folder), file=name), None)


def test_rankings_are_those_of_search_verify_and_rank(
    call, training: Path, bundle: Bundle, codebook: Path, tmp_path: Path
) -> None:
    names = [path.name for path in sorted(training.iterdir())][:8]
    (tmp_path / "photos").mkdir()
    for name in names:
        (tmp_path / "photos" / name).symlink_to(training / name)
    (tmp_path / "photos" / "gnd.json").write_text(json.dumps({"scenes": {"a": names[:3], "b": names[3:5]}}))
    archive = tmp_path / "a.ctxindex"
    options = ("eval", tmp_path / "photos", "--model", bundle.path, "--codebook", codebook, "-o", archive, "-q", SAME)
    result = call(*options, "--expand", "2", "--verify", "4", "--rankings", tmp_path / "r.jsonl")
    assert result.code == 0, result.err
    found = _ranked(tmp_path / "r.jsonl")
    assert len(found) == 5
    config = VerificationConfig(image_size=bundle.preprocessing.image_size)
    with Index.open(archive) as index:
        unit = judge_archive(index).unit(len(index))
        assert index.config.geometry == "descriptors"
        for name, ranked in found.items():
            query = _descriptors(bundle, tmp_path / "photos", name)
            hits = index.search(query, 8, expand=2, unit=unit)
            asked = index.features(query)
            photos = [index.features(hit.name) for hit in hits[:4]]
            assert asked is not None
            known = [photo for photo in photos if photo is not None]
            assert len(known) == 4
            assert ranked == [hit.name for hit in rank(hits, verify(asked, known, config))]
    for more in (("--verify-by", "words"), ("--verify-by", "codes"), ("--verify-model", "similarity")):
        assert call(*options, "--verify", "4", *more).code == 0


def test_an_archive_without_geometry_says_what_to_do(
    call, training: Path, bundle: Bundle, codebook: Path, tmp_path: Path
) -> None:
    names = [path.name for path in sorted(training.iterdir())][:3]
    (tmp_path / "photos").mkdir()
    for name in names:
        (tmp_path / "photos" / name).symlink_to(training / name)
    (tmp_path / "photos" / "gnd.json").write_text(json.dumps({"scenes": {"a": names}}))
    archive = tmp_path / "a.ctxindex"
    options = ("eval", tmp_path / "photos", "--model", bundle.path, "--codebook", codebook, "-o", archive, "-q", SAME)
    assert call(*options).code == 0
    result = call(*options, "--verify", "2")
    assert "of its photos' features, but --verify compares their positions" in result.err
    assert result.code not in (0, 1)


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="--expand -1 is negative"):
        Reranking(expand=-1)
    with pytest.raises(ConfigError, match="--verify -2 is negative"):
        Reranking(verify=-2)
    with pytest.raises(ConfigError, match="--distractors excludes --expand and --verify"):
        EvaluationConfig(distractors=Path("d"), reranking=Reranking(verify=1))
