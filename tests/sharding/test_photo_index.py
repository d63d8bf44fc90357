"""``PhotoIndex`` over an archive whose shards are elsewhere: answers, what is missing, and states."""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy import IndexedPhoto, IndexingConfig, PhotoIndex, QueryConfig
from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.errors import ConfigError, PhotoError, ShardError
from ctxdeploy.core.samples import ViewConfig, make_view, sample_photo
from ctxdeploy.core.types import Box
from ctxdeploy.query import Answer
from ctxdeploy.sharding import Shards

SCENES = ("coffee", "rocket", "chelsea", "coins", "camera")
MILD = ViewConfig(shift=0.02, shrink=0.1, rotation=0, light=0.1, occlusion=0.06, blur=0.0, longest=200)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two views of each scene in five shards, with codes and global vectors; a query and a turned one beside."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(3)
    config = IndexingConfig(geometry="codes", global_vectors="fp32")
    with PhotoIndex.create(root / "a.ctxindex", config=config) as made:
        for scene in SCENES:
            for folder in ("a", "b"):
                (root / "photos" / folder).mkdir(parents=True, exist_ok=True)
                make_view(sample_photo(scene), random, MILD).save(root / "photos" / folder / f"{scene}.png")
            made.add(root / "photos")
    query = make_view(sample_photo(SCENES[0]), random, MILD)
    query.save(root / "query.png")
    query.rotate(90, expand=True).save(root / "turned.png")
    return root / "a.ctxindex"


@pytest.fixture
def over(archive: Path, serve: Callable[..., Any]) -> Iterator[tuple[PhotoIndex, list[Any]]]:
    """The archive over three parts, and what asks them."""
    shards, transports = serve(archive, 3)
    with PhotoIndex.open(archive, shards=shards) as index:
        yield index, transports


@pytest.fixture(scope="module")
def one(archive: Path) -> Iterator[PhotoIndex]:
    with PhotoIndex.open(archive) as index:
        yield index


def facts(answer: Answer | PhotoError) -> dict[str, Any]:
    """Return all of an answer but for its seconds."""
    assert isinstance(answer, Answer), answer
    counts = {"searched": answer.searched, "photos": answer.photos, "missing": answer.missing, "notes": answer.notes}
    found = {key: value for key, value in answer.metadata().items() if key != "seconds"}
    for hit in answer.hits:
        if hit.verification is not None:
            counts[f"points of {hit.name}"] = hit.verification.photo_points.tolist()
    return {**found, **counts}


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "plain": {"expand": 0, "top": 3},
    "verified": {"verify": 5, "expand": 3},
    "by words": {"verify": 4, "rank": "global-then-local", "rerank": 4},
    "by geometry": {"rank": "global-then-local", "rerank": 6, "rerank_by": "geometry"},
    "global": {"rank": "global", "refine_global": 4},
    "some": {"prefix": ("b/", "zz"), "verify": 2},
    "among": {"among": ("a/coffee.png", "b/rocket.png", "b/coins.png", "x.png"), "expand": 2},
    "found": {"min_probability": 0.5},
    "idf": {"idf": True, "alpha": 2.0, "threshold": 0.1},
    "turned": {"turn": "all"},
    "files": {"verify": 2, "verify_from": "photos", "turn": "none"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_answers_are_those_of_one_archive(
    archive: Path, one: PhotoIndex, over: tuple[PhotoIndex, list[Any]], options: dict[str, Any]
) -> None:
    index, _ = over
    config = QueryConfig(**options)
    photos: list[Any] = [archive.with_name("query.png"), IndexedPhoto(name="b/coins.png"), "a/camera.png"]
    if not options:
        photos.append(archive.with_name("turned.png"))
    for photo in photos:
        assert facts(index.answer(photo, config)) == facts(one.answer(photo, config))
    wanted = list(map(facts, one.search_many(photos, config)))
    assert list(map(facts, index.search_many(photos, config))) == wanted
    if not options:
        box = QueryConfig(box=Box(x0=10, y0=10, x1=150, y1=120))
        assert facts(index.answer(photos[0], box)) == facts(one.answer(photos[0], box))


def test_the_first_stage_may_be_another_archive(
    archive: Path, one: PhotoIndex, over: tuple[PhotoIndex, list[Any]], tmp_path: Path
) -> None:
    index, transports = over
    other = Path(shutil.copytree(archive, tmp_path / "other.ctxindex"))
    with PhotoIndex.open(other, writable=True) as writer:
        writer.remove("a/rocket.png")
    config = QueryConfig(rank="global-then-local", global_from=other, turn="none")
    for photo in (archive.with_name("query.png"), IndexedPhoto(name="b/coins.png")):
        wanted = facts(one.answer(photo, config))
        assert facts(index.answer(photo, config)) == wanted and "1 photo of" in wanted["notes"][0]

    def fail(deadline: Deadline) -> None:
        raise ShardError("nobody is there")

    with PhotoIndex.open(archive, shards=Shards(transports)) as again:
        transports[1].before = fail
        answer = again.answer(archive.with_name("query.png"), config)
        assert answer.missing == ("2/3",) and len(answer.notes) == 1


def test_what_else_is_asked_of_an_archive(one: PhotoIndex, over: tuple[PhotoIndex, list[Any]]) -> None:
    index, _ = over
    assert (index.names(), len(index), index.state, index.failures()) == (
        one.names(),
        len(one),
        one.state,
        one.failures(),
    )
    assert index.info() == one.info() and "a/coffee.png" in index and "x" not in index
    for photo in (IndexedPhoto(name="x.png"), "nowhere.png"):
        with pytest.raises(PhotoError) as wanted:
            one.answer(photo)
        with pytest.raises(PhotoError) as found:
            index.answer(photo)
        assert str(found.value) == str(wanted.value)
    with pytest.raises(ConfigError, match="found where its shards are"):
        index.pairs()


def test_an_answer_says_what_was_not_searched(
    archive: Path, one: PhotoIndex, over: tuple[PhotoIndex, list[Any]]
) -> None:
    index, transports = over

    def fail(deadline: Deadline) -> None:
        raise ShardError("nobody is there")

    index.search(archive.with_name("query.png"))
    transports[1].before = fail
    answer = index.answer(archive.with_name("query.png"), QueryConfig(turn="none"))
    left = [name for transport in transports if transport is not transports[1] for name in held(transport)]
    assert answer.missing == ("2/3",) and (answer.searched, answer.photos) == (len(left), len(one))
    (note,) = answer.notes
    assert note == f"1 part of the shards did not answer (2/3): {len(left)} of {len(one)} photos were searched"
    assert answer.hits and {hit.name for hit in answer.hits} <= set(left)
    restricted = index.answer(archive.with_name("query.png"), QueryConfig(turn="none", prefix=("b/",), top=50))
    assert restricted.searched == sum(name.startswith("b/") for name in left)
    gone = held(transports[1])[0]
    with pytest.raises(ShardError, match="was not found, but"):
        index.answer(IndexedPhoto(name=gone))
    answers = list(index.search_many([archive.with_name("query.png")] * 2, QueryConfig(turn="none")))
    assert [facts(one)["missing"] for one in answers] == [("2/3",)] * 2
    transports[1].before = lambda deadline: None
    assert index.answer(archive.with_name("query.png")).missing == ()


def held(transport: Any) -> list[str]:
    return list(transport.server._newest().index.names())


def test_a_part_that_fails_between_two_questions_is_in_no_part_of_the_answer(
    archive: Path, over: tuple[PhotoIndex, list[Any]]
) -> None:
    index, transports = over
    config = QueryConfig(turn="none", verify=5, expand=3, top=50)
    index.answer(archive.with_name("query.png"), config)
    transports[0].before = _failing_after(0)
    wanted = facts(index.answer(archive.with_name("query.png"), config))
    for calls in range(1, 5):
        transports[0].before = _failing_after(calls)
        assert facts(index.answer(archive.with_name("query.png"), config)) == wanted


def _failing_after(calls: int) -> Callable[[Deadline], None]:
    left = [calls]

    def before(deadline: Deadline) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise ShardError("nobody is there")

    return before


def pairs(index: PhotoIndex) -> list[tuple[str, float]]:
    return [(hit.name, hit.score) for hit in index.search(IndexedPhoto(name="b/coins.png"), top=50)]


def test_threads_ask_while_states_come(archive: Path, tmp_path: Path, serve: Callable[..., Any]) -> None:
    path = Path(shutil.copytree(archive, tmp_path / "archive"))
    shards, _ = serve(path, 2)
    wanted: dict[int, list[tuple[str, float]]] = {}
    answers: list[Answer] = []
    with PhotoIndex.open(path, shards=shards) as index, PhotoIndex.open(path, writable=True) as writer:
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                answers.append(index.answer(IndexedPhoto(name="b/coins.png"), QueryConfig(top=50)))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for name in ("a/rocket.png", "a/camera.png", "b/rocket.png"):
                wanted[writer.state] = pairs(writer)
                writer.remove(name)
                index.refresh()
                assert index.state == writer.state
        finally:
            done.set()
            for thread in threads:
                thread.join()
        wanted[writer.state] = pairs(writer)
    assert answers
    for answer in answers:
        assert answer.missing == ()
        assert [(hit.name, hit.score) for hit in answer.hits] == wanted[answer.state]


def test_a_former_state_is_not_searched_over_shards(archive: Path, serve: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="in the state in force alone"):
        PhotoIndex.open(archive, at=1, shards=serve(archive, 2)[0])
