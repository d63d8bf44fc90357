"""Queries by global vectors, and by global vectors and then local descriptors, in one archive and over two."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctxdeploy import IndexedPhoto, IndexingConfig, PhotoIndex, QueryConfig
from ctxdeploy.archive import open_model, store_model, store_origin
from ctxdeploy.cli.main import run
from ctxdeploy.core import bundle as bundles
from ctxdeploy.core.errors import ConfigError, PhotoError
from ctxdeploy.core.samples import ViewConfig, make_view, sample_photo
from ctxdeploy.core.types import GlobalDescriptor
from ctxdeploy.index import DescriptorSource, Index, IndexConfig
from ctxdeploy.models import find_model
from ctxdeploy.query import Answer
from ctxdeploy.runtime import Extractor
from ctxdeploy.runtime.sources import list_photos

SCENES = ("coffee", "rocket", "chelsea", "astronaut", "coins", "camera")
MILD = ViewConfig(shift=0.02, shrink=0.1, rotation=0, light=0.1, occlusion=0.06, blur=0.0, longest=256)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two views of each of six scenes; a third of the first four lies in ``../queries``."""
    root = tmp_path_factory.mktemp("stages")
    random = np.random.default_rng(5)
    for number, folder in enumerate(("photos", "photos", "queries")):
        (root / folder).mkdir(exist_ok=True)
        for scene in SCENES if number < 2 else SCENES[:4]:
            make_view(sample_photo(scene), random, MILD).save(root / folder / f"{scene}_{number}.png")
    return root / "photos"


@pytest.fixture(scope="module")
def archive(photos: Path) -> Path:
    """The archive of the photos, with codes of their features and global vectors; not to be changed."""
    path = photos.with_name("both.ctxindex")
    with PhotoIndex.create(path, config=IndexingConfig(geometry="codes", global_vectors="fp32")) as index:
        index.add(photos)
    return path


@pytest.fixture(scope="module")
def vectors(photos: Path) -> dict[str, np.ndarray]:
    """The global vectors of photos and queries, by name, as plain sums."""
    extractor = Extractor(bundles.open(find_model(None)))
    found = {}
    for path in (*sorted(photos.iterdir()), *sorted(photos.with_name("queries").iterdir())):
        local = extractor.extract_one(path)
        total = sum(a * v.astype(np.float64) for a, v in zip(local.attention, local.vectors, strict=True))
        found[path.name] = total / np.sqrt((total**2).sum())
    return found


@pytest.fixture
def index(archive: Path) -> Iterator[PhotoIndex]:
    with PhotoIndex.open(archive) as opened:
        yield opened


def ask(index: PhotoIndex, photo: object, **settings: object) -> Answer:
    (answer,) = index.search_many([photo], QueryConfig(**settings))  # type: ignore[arg-type, list-item]
    assert not isinstance(answer, PhotoError), answer
    return answer


def by_vectors(vectors: dict[str, np.ndarray], query: str, photos: Path) -> list[tuple[str, float]]:
    """Return all photos of a folder by their inner product with a query's vector."""
    scores = {path.name: float(vectors[path.name] @ vectors[query]) for path in photos.iterdir()}
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))


def test_global_answers_are_inner_products(index: PhotoIndex, photos: Path, vectors: dict[str, np.ndarray]) -> None:
    answer = ask(index, photos.with_name("queries") / "rocket_2.png", rank="global", top=20)
    wanted = by_vectors(vectors, "rocket_2.png", photos)
    assert [hit.name for hit in answer.hits] == [name for name, _ in wanted]
    assert [hit.score for hit in answer.hits] == pytest.approx([score for _, score in wanted], abs=1e-6)
    assert all(hit.global_score == hit.score and hit.probability is None for hit in answer.hits)
    told = answer.metadata()
    assert (told["rank"], told["found"], told["results"][0]["certain"]) == ("global", None, None)
    assert index.search(photos / "rocket_0.png", rank="global", top=2)[0].name == "rocket_0.png"


def test_a_stored_photo_is_asked_with_its_vector(index: PhotoIndex, photos: Path, monkeypatch) -> None:
    from_file = ask(index, photos / "coins_0.png", rank="global", top=12)
    monkeypatch.setattr(Extractor, "extract_turned", lambda *_, **__: pytest.fail("extracts"))
    stored = ask(index, IndexedPhoto(name="coins_0.png"), rank="global", top=12)
    assert stored.is_indexed and stored.asked_with == "its stored global vector"
    assert [hit.name for hit in stored.hits] == [hit.name for hit in from_file.hits]
    anew = ask(index, IndexedPhoto(name="coins_0.png"), rank="global-then-local", rerank=4)
    assert anew.asked_with == "its stored global vector and codes" and anew.hits[0].name == "coins_0.png"


def test_the_first_are_ordered_anew_among_themselves(
    archive: Path, index: PhotoIndex, photos: Path, vectors: dict[str, np.ndarray]
) -> None:
    query = photos.with_name("queries") / "coffee_2.png"
    answer = ask(index, query, rank="global-then-local", rerank=5, expand=0, top=12)
    first = [name for name, _ in by_vectors(vectors, "coffee_2.png", photos)]
    assert answer.descriptors is not None
    with Index.open(archive) as state:
        local = {hit.name: hit.score for hit in state.search(answer.descriptors, 12)}
    anew = sorted(first[:5], key=lambda name: (-local.get(name, 0.0), first.index(name)))
    assert [hit.name for hit in answer.hits] == [*anew, *first[5:]]
    assert [hit.score for hit in answer.hits] == [local.get(hit.name, 0.0) for hit in answer.hits]
    globally = dict(by_vectors(vectors, "coffee_2.png", photos))
    found = [hit.global_score for hit in answer.hits]
    assert found == pytest.approx([globally[hit.name] for hit in answer.hits], abs=1e-6)


@pytest.mark.slow
def test_all_that_are_ordered_anew_are_the_local_answer(index: PhotoIndex, photos: Path) -> None:
    """With expansion and verification too; and they are judged as such, without the ranking of all photos."""
    query = photos.with_name("queries") / "chelsea_2.png"
    for settings in ({"expand": 0}, {"expand": 3}, {"expand": 0, "verify": 4}, {"expand": 2, "verify": 12}):
        local = ask(index, query, top=12, **settings)
        anew = ask(index, query, rank="global-then-local", rerank=12, top=12, **settings)
        names = [hit.name for hit in local.hits]
        assert [hit.name for hit in anew.hits][: len(names)] == names, settings
        assert [hit.score for hit in anew.hits][: len(names)] == [hit.score for hit in local.hits]
        assert anew.rank == "global-then-local" and anew.found == local.found == 2
        assert all(0 <= (hit.probability or 0.0) <= 1 for hit in anew.hits)


def test_geometry_alone_orders_the_first_anew(index: PhotoIndex, photos: Path) -> None:
    query = photos.with_name("queries") / "astronaut_2.png"
    answer = ask(index, query, rank="global-then-local", rerank=6, rerank_by="geometry", top=12)
    compared, behind = answer.hits[:6], answer.hits[6:]
    assert all(hit.verification is not None for hit in compared) and not any(hit.verification for hit in behind)
    weights = [hit.verification.similarity for hit in compared if hit.verification is not None]
    assert weights == sorted(weights, reverse=True) and weights[0] > 0
    assert {hit.name for hit in compared[:2]} == {"astronaut_0.png", "astronaut_1.png"}
    following = [hit.global_score for hit in behind]
    assert following == sorted(following, reverse=True)


def test_the_first_are_refined(index: PhotoIndex, photos: Path, load_reference) -> None:
    query = photos.with_name("queries") / "rocket_2.png"
    plain = ask(index, query, rank="global", top=12)
    refined = ask(index, query, rank="global", refine_global=8, top=12)
    assert [hit.name for hit in refined.hits[8:]] == [hit.name for hit in plain.hits[8:]]
    names = [hit.name for hit in plain.hits[:8]]
    assert plain.descriptors is not None
    vector = GlobalDescriptor.pooled(plain.descriptors).vector
    with Index.open(index.path) as state:
        wanted = load_reference("refinement").refined(vector, state.global_vectors(names))
    assert [hit.name for hit in refined.hits[:8]] == [names[place] for place in wanted]
    assert {hit.name: hit.score for hit in refined.hits} == {hit.name: hit.score for hit in plain.hits}
    stored = ask(index, IndexedPhoto(name="coins_1.png"), rank="global", refine_global=5)
    assert stored.hits[0].name == "coins_1.png"


def test_several_queries_are_answered_as_each_alone(index: PhotoIndex, photos: Path) -> None:
    queries = [*sorted(photos.with_name("queries").iterdir()), IndexedPhoto(name="camera_0.png")]
    for config in (QueryConfig(rank="global", top=6), QueryConfig(rank="global-then-local", rerank=4, top=6)):
        together = [answer.hits for answer in index.search_many(queries, config)]  # type: ignore[union-attr]
        assert together == [index.search(query, config=config) for query in queries]


@pytest.fixture(scope="module")
def small(photos: Path, archive: Path) -> Path:
    """An archive of another model, with global vectors in fp16, that lacks a photo and has another."""
    path = photos.with_name("small.ctxindex")
    with PhotoIndex.create(path, model="ctx-small", config=IndexingConfig(global_vectors="fp16")) as index:
        index.add((file.name, file) for file in sorted(photos.iterdir()) if file.name != "coins_1.png")
        index.add([("only here.png", Image.fromarray(np.full((80, 90, 3), 77, np.uint8)))])
    return path


@pytest.mark.slow
def test_two_archives_two_networks(index: PhotoIndex, small: Path, photos: Path) -> None:
    query = photos.with_name("queries") / "coffee_2.png"
    with PhotoIndex.open(small) as other:
        first = [hit.name for hit in other.search(query, top=20, rank="global")]
        scores = {hit.name: hit.score for hit in other.search(query, top=20, rank="global")}
    local = {hit.name: hit.score for hit in index.search(query, config=QueryConfig(top=12, expand=0))}
    answer = ask(index, query, rank="global-then-local", global_from=small, rerank=4, expand=0, top=20)
    here = [name for name in first[:4] if name != "only here.png"]
    anew = sorted(here, key=lambda name: (-local.get(name, 0.0), first.index(name)))
    assert [hit.name for hit in answer.hits][: len(anew)] == anew
    assert "only here.png" not in [hit.name for hit in answer.hits]
    assert all(hit.global_score == scores[hit.name] for hit in answer.hits)
    assert len(answer.notes) == 2
    assert (
        "only here.png: they are left out" in answer.notes[0] and "coins_1.png: they are not found" in answer.notes[1]
    )
    with pytest.raises(PhotoError, match="holds no photo of this name"):
        index.search(IndexedPhoto(name="coins_1.png"), config=QueryConfig(rank="global-then-local", global_from=small))
    stored = index.search(
        IndexedPhoto(name="coins_0.png"), config=QueryConfig(rank="global-then-local", global_from=small)
    )
    assert stored[0].name == "coins_0.png"


@pytest.fixture(scope="module")
def alone(photos: Path, archive: Path) -> Path:
    """An archive of the same photos' global vectors alone."""
    path = photos.with_name("alone.ctxindex")
    bundle = open_model(archive)
    source = DescriptorSource(model=bundle.model_id, preprocessing=bundle.preprocessing.hash)
    config = IndexConfig(global_vectors="fp32", global_dim=bundle.extraction.dim)
    with Index.open(archive) as kept, Index.create(path, None, config=config, source=source) as index:
        for name in kept.names():
            (vector,) = kept.global_vectors([name])
            index.add(name, None, global_descriptor=GlobalDescriptor(vector=vector))
    store_model(path, bundle)
    store_origin(path, list_photos(str(photos)), {})
    return path


def test_an_archive_of_global_vectors_alone(index: PhotoIndex, alone: Path, photos: Path) -> None:
    query = photos.with_name("queries") / "rocket_2.png"
    with PhotoIndex.open(alone) as vectors:
        answer = ask(vectors, query, top=12)
        assert answer.rank == "global"
        assert answer.hits == ask(index, query, rank="global", top=12).hits
        for settings, words in (
            ({"rank": "local"}, "keeps global vectors alone"),
            ({"rank": "global-then-local"}, "keeps global vectors alone"),
            ({"verify": 3}, "--verify is about local descriptors"),
            ({"min_probability": 0.5}, "--min-probability is about local descriptors"),
        ):
            with pytest.raises(ConfigError, match=words):
                ask(vectors, query, **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rank": "globally"}, "--rank 'globally' is unknown"),
        ({"rerank": 5}, "--rerank needs --rank global-then-local"),
        ({"rank": "global", "rerank_by": "geometry"}, "--rerank-by needs --rank global-then-local"),
        ({"rank": "global-then-local", "rerank": 0}, "--rerank 0 is not positive"),
        ({"rank": "global", "global_from": Path("a.ctxindex")}, "--global-from needs"),
        ({"rank": "global-then-local", "rerank_by": "geometry", "verify": 3}, "leave out --verify"),
        ({"rank": "local", "refine_global": 5}, "--refine-global 5"),
        ({"rank": "global", "turn": "all"}, "--turn all is about local descriptors"),
        ({"rank": "global", "alpha": 2.0}, "--alpha is about local descriptors"),
        ({"rank": "global", "idf": False}, "--idf is about local descriptors"),
    ],
)
def test_what_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        QueryConfig(**settings)  # type: ignore[arg-type]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run ``ctxdeploy`` in this process; returns exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.mark.slow
def test_the_command_says_which_ranking_answered(
    call: Callable[..., tuple[int, str, str]], archive: Path, small: Path, photos: Path, tmp_path: Path, read_page
) -> None:
    query = photos.with_name("queries") / "coffee_2.png"
    page = tmp_path / "page.html"
    code, out, err = call("query", query, "--index", archive, "--rank", "global", "--top", 3, "--html", page)
    lines = out.splitlines()
    assert code == 0 and "3 results for its global vector" in lines[0]
    assert lines[1] == "by global vectors, how sure is not known; the nearest:" and len(lines) == 5
    facts = read_page(page).one("div", "asked").texts("p")
    assert "its global vector" in facts and "ranked by global vectors: how sure the results are is not known" in facts
    code, out, err = call(
        "query", query, query, "--index", archive, "--rank", "global-then-local", "--global-from", small, "--json"
    )
    assert code == 0 and err.count("only here.png") == err.count("coins_1.png") == 1
    for line in out.splitlines():
        told = json.loads(line)
        assert told["rank"] == "global-then-local" and told["results"][0]["global_score"] > 0.5
        assert told["results"][0]["certain"] is True
    without = call("query", query, "--index", small, "--rank", "local", "--top", 1)
    assert without[0] == 0


@pytest.mark.slow
def test_an_archive_without_global_vectors_says_what_to_do(
    call: Callable[..., tuple[int, str, str]], photos: Path, tmp_path: Path
) -> None:
    path = tmp_path / "local.ctxindex"
    assert call("index", photos, "-o", path, "-q")[0] == 0
    code, _, err = call("query", photos / "coins_0.png", "--index", path, "--rank", "global")
    assert code == 2 and "keeps no global vectors" in err and "--global" in err
    code, _, err = call("index", photos, "-o", path, "--global", "int8")
    assert code == 2 and "was made without --global" in err
    code, _, err = call("index", "--global", photos, "-o", tmp_path / "other.ctxindex", "-q")
    assert code == 0, err
    with Index.open(tmp_path / "other.ctxindex") as index:
        assert (index.config.global_vectors, index.config.global_dim) == ("fp16", 128)
