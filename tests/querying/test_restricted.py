"""Questions to some photos of an archive: hits, scores and probabilities are those of the question to all of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ctxdeploy import IndexedPhoto, IndexingConfig, PhotoIndex, QueryConfig
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.samples import ViewConfig, make_view, sample_photo
from ctxdeploy.query import Answer
from ctxdeploy.runtime import Extractor

SCENES = ("coffee", "rocket", "chelsea", "coins", "camera")
MILD = ViewConfig(shift=0.02, shrink=0.1, rotation=0, light=0.1, occlusion=0.06, blur=0.0, longest=240)
QUERY = "query.png"
ALL = 100


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One view of each scene in ``a``, one in ``b``, with codes and global vectors; a query of the first beside."""
    root = tmp_path_factory.mktemp("restricted")
    random = np.random.default_rng(3)
    for folder in ("a", "b"):
        (root / "photos" / folder).mkdir(parents=True)
        for scene in SCENES:
            make_view(sample_photo(scene), random, MILD).save(root / "photos" / folder / f"{scene}.png")
    make_view(sample_photo(SCENES[0]), random, MILD).save(root / QUERY)
    with PhotoIndex.create(root / "a.ctxindex", config=IndexingConfig(geometry="codes", global_vectors="fp32")) as made:
        made.add(root / "photos")
    return root / "a.ctxindex"


@pytest.fixture(scope="module")
def index(archive: Path) -> Iterator[PhotoIndex]:
    with PhotoIndex.open(archive) as opened:
        yield opened


def facts(answer: Answer) -> list[tuple[str, float, float | None, float | None]]:
    return [(hit.name, hit.score, hit.probability, hit.global_score) for hit in answer.hits]


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(
    "settings",
    [{"expand": 0}, {"rank": "global"}, {"alpha": 2.0, "expand": 0}],
    ids=["local", "global", "not judged"],
)
def test_hits_scores_and_probabilities_are_those_of_the_question_to_all(
    index: PhotoIndex, archive: Path, stored: bool, settings: dict[str, object]
) -> None:
    photo = IndexedPhoto(name="a/coffee.png") if stored else archive.with_name(QUERY)
    every = facts(index.answer(photo, QueryConfig(top=ALL, turn="none", **settings)))  # type: ignore[arg-type]
    among = ("b/coins.png", "a/coffee.png", "b/coffee.png", "a/rocket.png")
    assert len({name for name, *_ in every} & set(among)) >= 3  # of the others the score may be 0
    for prefix, names in ((("b/",), ()), ((), among), (("a/c", "b/co"), among), (("a/", "b/"), ())):
        config = QueryConfig(top=ALL, turn="none", prefix=prefix, among=names, **settings)  # type: ignore[arg-type]
        wanted = [
            fact for fact in every if (not prefix or fact[0].startswith(prefix)) and (not names or fact[0] in names)
        ]
        assert wanted and facts(index.answer(photo, config)) == wanted
        (first,) = index.search_many([photo], QueryConfig(top=1, turn="none", prefix=prefix, among=names, **settings))  # type: ignore[arg-type]
        assert isinstance(first, Answer) and [hit.name for hit in first.hits] == [wanted[0][0]]


def test_expansion_and_verification_go_on_among_the_chosen(index: PhotoIndex, archive: Path) -> None:
    query = archive.with_name(QUERY)
    answer = index.answer(query, QueryConfig(top=3, prefix=("b/",), expand=2, verify=2))
    own = {hit.name: hit.score for hit in index.answer(query, QueryConfig(top=ALL, expand=0)).hits}
    assert answer.hits[0].name == "b/coffee.png" and all(hit.name.startswith("b/") for hit in answer.hits)
    assert [hit.verification is not None for hit in answer.hits] == [True, True, False]
    assert answer.hits[0].verification is not None and answer.hits[0].verification.inliers > 5
    assert all(hit.score == own.get(hit.name, 0.0) for hit in answer.hits)
    two = index.answer(query, QueryConfig(top=3, rank="global-then-local", rerank=2, prefix=("b/",)))
    assert two.hits[0].name == "b/coffee.png" and all(hit.name.startswith("b/") for hit in two.hits)


def test_how_a_photo_is_turned_is_asked_of_the_whole_archive(
    index: PhotoIndex, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scene is not in the folder, whose noise decides nothing."""
    with Image.open(archive.with_name(QUERY)) as image:
        upright, turned = np.asarray(image), np.rot90(np.asarray(image))
    elsewhere = tuple(f"{folder}/{name}.png" for folder in "ab" for name in SCENES[1:])
    for photo, turn in ((upright, 0), (turned, 90)):
        answers = [index.answer(photo, QueryConfig(turn="all", among=names)) for names in ((), elsewhere)]
        assert [answer.turn for answer in answers] == [turn, turn]
        assert answers[0].found and not answers[1].found
    seen, extract = list[tuple[int, ...]](), Extractor.extract_turned

    def noting(self: Extractor, *given: Any, turns: tuple[int, ...], deadline: Any) -> Any:
        seen.append(turns)
        return extract(self, *given, turns=turns, deadline=deadline)

    monkeypatch.setattr(Extractor, "extract_turned", noting)
    assert index.answer(upright, QueryConfig(among=elsewhere)).turn == 0
    assert seen == [(0,)], "upright it is certain outside: it is not asked turned"


def test_what_the_archive_does_not_hold_is_said(index: PhotoIndex) -> None:
    photo = IndexedPhoto(name="a/coffee.png")
    config = QueryConfig(prefix=("c/", "b/"), among=("b/coins.png", "nobody", "b/no\none"))
    answer = index.answer(photo, config)
    assert [hit.name for hit in answer.hits] in ([], ["b/coins.png"])
    assert answer.notes == (
        "no photo of the archive has a name that begins with c/",
        r"2 of 3 names to search among not in the archive: nobody, b/no\none",
    )
    assert index.answer(photo, QueryConfig(prefix=("c/",))).hits == []
    assert index.answer(photo, QueryConfig(prefix=("",))).hits == index.answer(photo).hits


def test_what_is_no_name_is_refused() -> None:
    for settings in ({"prefix": "a/"}, {"among": ["a"]}, {"among": (1,)}):
        with pytest.raises(ConfigError, match="is not a tuple of texts"):
            QueryConfig(**settings)  # type: ignore[arg-type]


def test_each_answer_names_the_commit_that_it_is_of(archive: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy.ctxindex"
    shutil.copytree(archive, copy)
    with PhotoIndex.open(copy, writable=True) as index:
        photo = IndexedPhoto(name="a/coffee.png")
        before = index.answer(photo)
        assert before.state == index.info()["manifest"] == before.metadata()["state"]
        index.remove("b/coffee.png")
        after = index.answer(photo)
        assert after.state == index.info()["manifest"] > before.state
        with PhotoIndex.open(copy, at=before.state) as former:
            (found,) = former.search_many([photo])
            assert isinstance(found, Answer) and found.state == before.state and facts(found) == facts(before)
