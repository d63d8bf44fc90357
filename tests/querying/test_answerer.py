"""Answers: turned, expanded, verified and judged, from archives of photos with the built-in model."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ctxdeploy import IndexedPhoto, IndexingConfig, PhotoIndex, QueryConfig
from ctxdeploy.core.errors import ConfigError, PhotoError
from ctxdeploy.core.samples import ViewConfig, make_view, sample_photo
from ctxdeploy.index import Index, VerificationConfig
from ctxdeploy.index.expansion import MOST
from ctxdeploy.photo_folder import LatestFolder
from ctxdeploy.query import Answer, is_certain
from ctxdeploy.runtime import Extractor

SCENES = ("coffee", "rocket", "chelsea", "astronaut", "coins", "camera")
MILD = ViewConfig(shift=0.02, shrink=0.1, rotation=0, light=0.1, occlusion=0.06, blur=0.0, longest=320)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two views of each of six scenes; a third of the first four lies in ``../queries``."""
    root = tmp_path_factory.mktemp("answers")
    random = np.random.default_rng(3)
    for number, folder in enumerate(("photos", "photos", "queries")):
        (root / folder).mkdir(exist_ok=True)
        for scene in SCENES if number < 2 else SCENES[:4]:
            make_view(sample_photo(scene), random, MILD).save(root / folder / f"{scene}_{number}.png")
    return root / "photos"


@pytest.fixture(scope="module")
def archive(photos: Path) -> Path:
    """The archive of the photos, with codes of their features; not to be changed."""
    path = photos.with_name("codes.ctxindex")
    with PhotoIndex.create(path, config=IndexingConfig(geometry="codes")) as index:
        index.add(photos)
    return path


@pytest.fixture
def index(archive: Path) -> Iterator[PhotoIndex]:
    with PhotoIndex.open(archive) as opened:
        yield opened


def ask(index: PhotoIndex, photo: object, **settings: object) -> Answer:
    (answer,) = index.search_many([photo], QueryConfig(**settings))  # type: ignore[arg-type, list-item]
    assert not isinstance(answer, PhotoError), answer
    return answer


def pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture
def turns_seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The turns that the network is asked for, call by call."""
    seen: list[tuple[int, ...]] = []
    extract = Extractor.extract_turned

    def noting(self: Extractor, *given: object, turns: tuple[int, ...] = (0,), deadline: object = None) -> object:
        seen.append(tuple(turns))
        return extract(self, *given, turns=turns, deadline=deadline)  # type: ignore[arg-type]

    monkeypatch.setattr(Extractor, "extract_turned", noting)
    return seen


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_query_is_turned_back(index: PhotoIndex, photos: Path, quarters: int) -> None:
    """It finds what it finds upright, with the same scores, and its matches lie where they are in the photo given."""
    query = photos.with_name("queries") / "chelsea_2.png"
    upright = ask(index, query, turn="none", verify=3)
    turned = np.rot90(pixels(query), -quarters)  # clockwise
    answer = ask(index, turned, turn="all", verify=3)
    assert answer.turn == 360 - 90 * quarters
    assert [(hit.name, hit.score) for hit in answer.hits] == [(hit.name, hit.score) for hit in upright.hits]
    assert answer.metadata()["turn"] == answer.turn
    best, wanted = answer.hits[0].verification, upright.hits[0].verification
    assert best is not None and wanted is not None and best.affine is not None and wanted.affine is not None
    assert best.inliers == wanted.inliers >= 10
    width, height = Image.open(query).size
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], float)
    x, y = corners.T
    there = {1: (height - y, x), 2: (width - x, height - y), 3: (y, width - x)}[quarters]
    found = np.stack(there, axis=1) @ best.affine[:, :2].T + best.affine[:, 2]
    np.testing.assert_allclose(found, corners @ wanted.affine[:, :2].T + wanted.affine[:, 2], atol=0.01)
    assert vars(best.box) == pytest.approx(vars(wanted.box), abs=0.01)
    assert ask(index, turned, turn="none").turn == 0


def test_turns_are_asked_only_where_upright_is_uncertain(
    index: PhotoIndex, photos: Path, turns_seen: list[tuple[int, ...]]
) -> None:
    query = photos.with_name("queries") / "coffee_2.png"
    answer = ask(index, query)
    assert is_certain(answer.hits[0]) and answer.turn == 0
    assert turns_seen == [(0,)]
    ask(index, np.random.default_rng(0).integers(0, 256, (200, 240, 3), np.uint8))
    assert turns_seen[1:] == [(0,), (90, 180, 270)]
    assert ask(index, IndexedPhoto(name="coffee_0.png")).is_indexed
    assert len(turns_seen) == 3  # nothing is extracted, so that nothing can be turned
    assert not ask(index, IndexedPhoto(name="coffee_0.png"), turn="all").is_indexed  # its file is read
    assert turns_seen[3:] == [(0,), (90, 180, 270)]


def test_hits_keep_their_own_scores_where_they_are_expanded(archive: Path, index: PhotoIndex, photos: Path) -> None:
    query = photos.with_name("queries") / "rocket_2.png"
    plain, expanded = ask(index, query, top=12), ask(index, query, top=12, expand=2)
    own = {hit.name: hit.score for hit in plain.hits}
    assert all(hit.score == own.get(hit.name, 0.0) for hit in expanded.hits)
    assert plain.descriptors is not None
    with Index.open(archive) as state:
        wanted = state.search(plain.descriptors, 12, expand=2)
    assert [hit.name for hit in expanded.hits] == [hit.name for hit in wanted]


def test_judged_hits(index: PhotoIndex, photos: Path) -> None:
    query = photos.with_name("queries") / "coffee_2.png"
    answer = ask(index, query)
    probabilities = [hit.probability for hit in answer.hits]
    assert all(probability is not None and 0 <= probability <= 1 for probability in probabilities)
    certain = [hit.name for hit in answer.hits if is_certain(hit)]
    assert certain[:2] in (["coffee_0.png", "coffee_1.png"], ["coffee_1.png", "coffee_0.png"])
    assert answer.found == len(certain)
    told = answer.metadata()
    assert told["found"] == len(certain)
    assert [result["certain"] for result in told["results"]] == [is_certain(hit) for hit in answer.hits]
    likely = ask(index, query, min_probability=0.8)
    assert [hit.name for hit in likely.hits] == certain
    none = ask(index, query, min_probability=1.0)
    assert none.hits == [] and none.found == 0 and none.best_probability == max(probabilities)
    nothing = ask(index, np.random.default_rng(0).integers(0, 256, (200, 240, 3), np.uint8))
    assert nothing.found in (0, None)
    assert ask(index, query, alpha=2.0).found is None
    with pytest.raises(ConfigError, match="--min-probability needs the archive's own scores"):
        QueryConfig(min_probability=0.5, alpha=2.0)
    with pytest.raises(ConfigError, match=r"--min-probability 1\.5 is not a number in 0\.\.1"):
        QueryConfig(min_probability=1.5)


def test_verified_hits_say_where_the_query_lies(index: PhotoIndex, photos: Path) -> None:
    answer = ask(index, photos / "astronaut_0.png", verify=2, top=3)
    first, _, third = answer.hits
    assert first.name == "astronaut_0.png" and first.verification is not None and third.verification is None
    width, height = Image.open(photos / "astronaut_0.png").size
    told = answer.metadata()["results"]
    assert told[0]["box"] == pytest.approx([0, 0, width, height], abs=4)
    np.testing.assert_allclose(told[0]["affine"], [[1, 0, 0], [0, 1, 0]], atol=4)
    assert told[0]["inliers"] == first.verification.inliers > 20 and told[2]["inliers"] is None
    part = ask(index, photos / "astronaut_0.png", verify=1, box=index_box(width, height))
    box = part.metadata()["results"][0]["box"]
    assert box == pytest.approx([width // 4, height // 4, width, height], abs=24)
    stored = ask(index, IndexedPhoto(name="astronaut_0.png"), verify=2)
    assert stored.hits[0].verification is not None and stored.hits[0].verification.inliers > 20


def index_box(width: int, height: int) -> object:
    from ctxdeploy import Box

    return Box(x0=width // 4, y0=height // 4, x1=width, y1=height)


def test_files_are_compared_where_the_archive_keeps_nothing(
    archive: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(photos, tmp_path / "photos")
    query = photos.with_name("queries") / "coffee_2.png"
    with PhotoIndex.create(tmp_path / "a") as index:
        index.add(folder)
        with pytest.raises(ConfigError, match=r"keeps nothing of its photos.*--geometry.*--verify-from photos"):
            ask(index, query, verify=2)
        extracted = count_extracted(monkeypatch)
        answer = ask(index, query, verify=3, verify_from="photos")
        assert all(hit.verification is not None for hit in answer.hits[:3]) and answer.remarks == ()
        assert answer.hits[0].verification is not None and answer.hits[0].verification.inliers > 20
        again = ask(index, query, verify=3, verify_from="photos")
        assert [hit.name for hit in again.hits] == [hit.name for hit in answer.hits]
        assert len(extracted) == 3  # those of the first time are kept
        (folder / answer.hits[1].name).unlink()
        fewer = ask(index, query, verify=3, verify_from="photos")
        assert sum(hit.verification is None for hit in fewer.hits[:3]) == 1
        assert "1 result could not be compared" in fewer.remarks[0] and str(folder) in fewer.remarks[0]
        assert "but of 1 it keeps nothing" in fewer.remarks[0]
        shutil.rmtree(folder)
        with pytest.raises(ConfigError, match=r"keeps nothing of its photos.*; or say where .* --moved$"):
            ask(index, query, verify=3, verify_from="photos")
    with PhotoIndex.open(archive) as index:
        monkeypatch.setattr(LatestFolder, "read", lambda self: None)
        answer = ask(index, query, verify=2, verify_from="photos")
        assert "no folder of the photos is known" in answer.remarks[0] and "nothing" not in answer.remarks[0]
        assert answer.hits[0].verification is not None and answer.hits[0].verification.inliers > 10


def test_what_the_archive_lacks_is_said_with_what_to_do(
    archive: Path, index: PhotoIndex, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"verify": 2, "verification": VerificationConfig(matches="descriptors")}
    with pytest.raises(ConfigError, match=r"no descriptors of.*--verify-by descriptors.*--geometry descriptors"):
        ask(index, photos / "coffee_0.png", **settings)
    by_files = ask(index, photos / "coffee_0.png", verify_from="photos", **settings)
    assert by_files.hits[0].verification is not None
    monkeypatch.setattr(LatestFolder, "read", lambda self: tmp_path)
    with pytest.raises(PhotoError, match=rf"{tmp_path / 'coffee_0.png'}; if the photos were moved.*--moved"):
        index.search(IndexedPhoto(name="coffee_0.png"), box=(0, 0, 99, 99))


def count_extracted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    extract = Extractor.extract

    def noting(self: Extractor, sources: list[object]) -> object:
        seen.extend(source.name for source in sources)  # type: ignore[attr-defined]
        return extract(self, sources)  # type: ignore[arg-type]

    monkeypatch.setattr(Extractor, "extract", noting)
    return seen


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"turn": "left"}, "--turn 'left' is unknown: give auto, none, all"),
        ({"verify": -1}, "--verify -1 is negative"),
        ({"expand": -1}, r"--expand -1 is outside 0\.\.64"),
        ({"expand": MOST + 1}, r"--expand 65 is outside 0\.\.64"),
        ({"verify_from": "disk"}, "--verify-from 'disk' is unknown"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        QueryConfig(**settings)  # type: ignore[arg-type]
