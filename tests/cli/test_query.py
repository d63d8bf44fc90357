"""Options of a query, and several queries at once."""

import io
import re
import shutil
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ctxdeploy.cli.main import run
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import PhotoError
from ctxdeploy.core.types import LocalDescriptors, PhotoDescriptors
from ctxdeploy.index import Hit, Index
from ctxdeploy.query import Answer, QueryConfig
from ctxdeploy.querying.answerer import Answerer
from ctxdeploy.querying.verifying import PhotoFeatures
from ctxdeploy.runtime import Extractor, PhotoSource


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        (("--alpha", 1), {"alpha": 1.0}),
        (("--threshold", 0.2), {"threshold": 0.2}),
        (("--idf",), {"idf": True}),
        (("--no-idf", "--alpha", 0), {"idf": False, "alpha": 0.0}),
    ],
)
def test_scores_are_those_of_the_settings(call, bundle: Bundle, photos, shared_archive, flags, settings) -> None:
    query = photos.parent / "queries" / "coffee_3.jpg"
    answer = call("query", query, "--index", shared_archive, "--expand", 0, "--json", *flags).json[0]
    descriptors = Extractor(bundle).extract_one(query)
    with Index.open(shared_archive) as index:
        hits, plain = index.search(descriptors, **settings), index.search(descriptors)
    assert [(hit["name"], hit["score"]) for hit in answer["results"]] == [(hit.name, hit.score) for hit in hits]
    assert hits == plain if settings == {"idf": False} else hits != plain


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--alpha", 101), "alpha 101.0 is not a number in 0..100"),
        (("--threshold", 2), "threshold 2.0 is not a number in -1..1"),
        (("--alpha", 2.5, "--threshold", -0.5), "whole alpha"),
        (("--alpha", "nan"), "alpha nan"),
        (("--verify-from", "photos"), "--verify-from needs --verify N"),
        (("--verify-by", "words"), "--verify-by needs --verify N"),
        (("--verify-model", "similarity"), "--verify-model needs --verify N"),
    ],
)
def test_settings_out_of_range(call, photos: Path, shared_archive: Path, flags, words: str) -> None:
    result = call("query", photos / "coins_0.jpg", "--index", shared_archive, *flags)
    assert result.code == 2
    assert words in result.err


def test_a_page_without_a_place_is_refused_before_the_photos_are_read(
    call, shared_archive: Path, tmp_path: Path
) -> None:
    result = call("query", tmp_path / "none.jpg", "--index", shared_archive, "--html", tmp_path / "none" / "page.html")
    assert result.code == 18 and result.out == ""
    assert "page.html cannot be written: No such file or directory; choose another --html" in result.err


def test_only_some_photos_may_be_found(call, shared_archive: Path, tmp_path: Path) -> None:
    with Index.open(shared_archive) as index:
        names = sorted(index.names())
        number = index.info()["manifest"]
    query = ("query", "--indexed", names[0], "--index", shared_archive, "--expand", 0, "--json")
    every = call(*query, "--top", len(names)).json[0]
    assert every["state"] == number
    prefix = names[0][:3]
    (some := tmp_path / "names.txt").write_text("\n".join([*names[:4], "nobody", ""]))
    for flags, kept in (
        (("--prefix", prefix), [name for name in names if name.startswith(prefix)]),
        (("--prefix", prefix, "--prefix", names[-1]), [*(n for n in names if n.startswith(prefix)), names[-1]]),
        (("--among", some), names[:4]),
        (("--among", some, "--prefix", names[2]), names[2:3]),
    ):
        answer = call(*query, "--top", len(names), *flags)
        told = [(hit["name"], hit["score"], hit["probability"]) for hit in answer.json[0]["results"]]
        whole = [(hit["name"], hit["score"], hit["probability"]) for hit in every["results"] if hit["name"] in kept]
        assert told == whole and whole
        assert ("1 of 5 names to search among not in the archive: nobody" in answer.err) == ("--among" in flags)
    (empty := tmp_path / "empty.txt").touch()
    for file, words in ((empty, "empty.txt holds no names"), (tmp_path / "none.txt", "No such file")):
        refused = call(*query, "--among", file)
        assert refused.code == 2 and words in refused.err


def test_one_result_is_not_several(call, photos: Path, shared_archive: Path) -> None:
    query = ("query", photos / "coins_0.jpg", "--index", shared_archive)
    assert ": 1 result for " in call(*query, "--top", 1).out
    assert ": 2 results for " in call(*query, "--top", 2).out


def test_answers_of_several_are_those_of_each(call, photos: Path, shared_archive: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no photo")
    queries = sorted((photos.parent / "queries").iterdir())
    result = call("query", *queries[:3], tmp_path / "bad.jpg", *queries[3:], "--index", shared_archive, "--json")
    assert result.code == 14
    assert [answer["query"] for answer in result.json] == [str(query) for query in queries]
    for query, answer in zip(queries, result.json, strict=True):
        alone = call("query", query, "--index", shared_archive, "--json").json[0]
        assert answer["results"] == alone["results"]


@pytest.fixture(scope="module")
def trained_archive(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of ``photos`` with the built-in model, and codes of their features; not to be changed."""
    path = tmp_path_factory.mktemp("trained") / "photos.ctxindex"
    assert run(["index", str(photos), "-o", str(path), "--geometry", "--quiet"]) == 0
    return path


def test_what_is_found_is_told_from_the_nearest(call, photos: Path, trained_archive: Path) -> None:
    query = photos.parent / "queries" / "coffee_3.jpg"
    given = ("--index", trained_archive, "--top", 5)
    head, found, *lines = call("query", query, *given, "--verify", 3).out.splitlines()
    assert ": 5 results for " in head and found == "found:"
    border = lines.index("beyond that nothing is certain; the nearest:")
    assert border == 3
    assert all(
        re.fullmatch(r" +\d  +0\.\d{5}  +[89]\d %  coffee_\d\.jpg  \(\d+ inliers in .*\)", x) for x in lines[:border]
    )
    assert all(re.search(r"  +[0-7]?\d %  ", line) for line in lines[border + 1 :])
    (answer,) = call("query", query, *given, "--verify", 3, "--json").json
    assert answer["found"] == border and [hit["certain"] for hit in answer["results"]] == [
        number < border for number in range(5)
    ]
    likely = call("query", query, *given, "--min-probability", 0.8, "--json").json[0]["results"]
    assert [hit["certain"] for hit in likely] == [True] * len(likely) and len(likely) >= 3


def test_nothing_certain_is_said(call, photos: Path, trained_archive: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 240, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    given = ("query", tmp_path / "noise.png", "--index", trained_archive)
    assert call(*given).out.splitlines()[1:2] in ([], ["nothing certain; the nearest:"])
    nothing = call(*given, "--min-probability", 0.8)
    assert nothing.code == 0 and ": 0 results for " in nothing.out
    (said,) = nothing.out.splitlines()[1:]
    assert re.fullmatch(r"nothing is as likely as --min-probability asks; the best that there is has \d %", said)


def test_a_turned_query_says_by_how_much(call, photos: Path, trained_archive: Path, tmp_path: Path) -> None:
    with Image.open(photos.parent / "queries" / "rocket_3.jpg") as image:
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png")
    given = ("query", tmp_path / "turned.png", "--index", trained_archive, "--turn")
    result = call(*given, "all")
    assert "turned.png, turned by 90°: " in result.out and "rocket_" in result.out.splitlines()[2]
    assert call(*given, "none", "--json").json[0]["turn"] == 0


def test_verifying_needs_geometry(call, photos: Path, shared_archive: Path) -> None:
    given = ("query", photos / "coins_0.jpg", "--index", shared_archive, "--verify", 2)
    result = call(*given)
    assert result.code == 2 and f"{shared_archive} keeps nothing of its photos' features" in result.err
    assert result.err.count("\n") == 1 and "--geometry" in result.err and "--verify-from photos" in result.err
    answer = call(*given, "--verify-from", "photos", "--json").json[0]
    assert answer["results"][0]["inliers"] > 20 and answer["results"][2]["inliers"] is None


@pytest.fixture
def places(photos: Path, tmp_path: Path) -> dict[str, Path]:
    """The same photos, ``coffee_3.jpg`` and ``x/rocket_3.jpg``, in places of several kinds."""
    folder = tmp_path / "folder"
    (folder / "x").mkdir(parents=True)
    files = {"coffee_3.jpg": "coffee_3.jpg", "rocket_3.jpg": "x/rocket_3.jpg"}
    for source, name in files.items():
        shutil.copy(photos.parent / "queries" / source, folder / name)
    (folder / "notes.txt").write_text("no photo")
    (folder / "list.txt").write_text("\n".join(files.values()))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as packed:
        for name in files.values():
            packed.write(folder / name, name)
    return {"folder": folder, "list": folder / "list.txt", "zip": tmp_path / "all.zip"}


@pytest.mark.parametrize(("kind", "prefix"), [("folder", ""), ("list", ""), ("zip", "all.zip/")])
def test_a_place_of_queries(call, shared_archive: Path, places: dict[str, Path], kind: str, prefix: str) -> None:
    files = [places["folder"] / name for name in ("coffee_3.jpg", "x/rocket_3.jpg")]
    given = ("--index", shared_archive, "--json")
    alone = call("query", *files, *given).json
    found = call("query", places[kind], *given)
    assert found.code == 0
    assert [answer["query"] for answer in found.json] == [f"{prefix}coffee_3.jpg", f"{prefix}x/rocket_3.jpg"]
    assert [answer["results"] for answer in found.json] == [answer["results"] for answer in alone]
    top = call("query", places["folder"], "--no-recursive", *given).json
    assert [answer["query"] for answer in top] == ["coffee_3.jpg"]
    rest = call("query", places[kind], "--exclude", "coffee*", *given).json
    assert [answer["query"] for answer in rest] == [f"{prefix}x/rocket_3.jpg"]


def test_photos_of_the_archive(
    call, shared_archive: Path, photos: Path, read_page, tmp_path: Path, monkeypatch
) -> None:
    def load(*given: object, **settings: object) -> None:
        raise AssertionError("a network was loaded")

    page = tmp_path / "page.html"
    given = ("--indexed", "coffee_0.jpg", "--indexed", "nobody.jpg", "--indexed", "rocket_1.jpg")
    with monkeypatch.context() as patched:
        patched.setattr(Extractor, "__init__", load)
        result = call("query", *given, "--index", shared_archive, "--top", 3, "--expand", 0, "--json", "--html", page)
    assert result.code == 14
    assert "nobody.jpg: the archive holds no photo of this name" in result.err and "1 of 3 queries" in result.err
    with Index.open(shared_archive) as index:
        for answer, name in zip(result.json, ("coffee_0.jpg", "rocket_1.jpg"), strict=True):
            assert (answer["query"], answer["indexed"], answer["extraction"]) == (name, True, None)
            (codes,) = index.aggregated([name])
            wanted = [(hit.name, hit.score) for hit in index.search(codes, 3)]
            assert [(hit["name"], hit["score"]) for hit in answer["results"]] == wanted
    assert len(read_page(page).all("img")) == 2 * 4
    mixed = call("query", photos.parent / "queries" / "coffee_3.jpg", *given[-2:], "--index", shared_archive)
    assert "results for " in mixed.out and " results from its stored codes (search " in mixed.out


def test_standard_input(call, photos: Path, shared_archive: Path, monkeypatch) -> None:
    query = photos.parent / "queries" / "coffee_3.jpg"
    given = ("--index", shared_archive, "--json")
    (alone,) = call("query", query, *given).json
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(query.read_bytes())))
    second, first = call("query", query, "-", *given).json
    assert (first["query"], first["results"]) == ("-", alone["results"]) == ("-", second["results"])
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO()))
    result = call("query", "-", *given)
    assert (result.code, result.err) == (14, "ctxdeploy: error: -: it is empty (0 bytes)\n")
    monkeypatch.setattr("sys.stdin", None)
    assert call("query", "-", *given).code == 14


def test_the_url_of_a_photo(call, photos: Path, shared_archive: Path, monkeypatch) -> None:
    pytest.importorskip("aiohttp")
    pytest.importorskip("fsspec")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    query = photos.parent / "queries" / "coffee_3.jpg"
    given = ("--index", shared_archive, "--json")
    handler = partial(_Silent, directory=str(query.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        one = call("query", f"{url}/coffee_3.jpg?token=secret&w=3", f"{url}/no.jpg", *given)
        all_of_them = call("query", f"{url}/", *given)
        server.shutdown()
        thread.join()
    assert one.code == 14 and "secret" not in one.out + one.err and f"{url}/no.jpg" in one.err
    (alone,) = call("query", query, *given).json
    assert (one.json[0]["query"], one.json[0]["results"]) == (f"{url}/coffee_3.jpg?w=3", alone["results"])
    names = sorted(path.name for path in query.parent.iterdir())
    assert [answer["query"] for answer in all_of_them.json] == names


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Write no log."""


class _Clock:
    """The time as ``ctxdeploy.querying.answerer`` sees it: it passes where a test lets it."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> _Clock:
    made = _Clock()
    monkeypatch.setattr("ctxdeploy.querying.answerer.time", made)
    return made


class _Extractor:
    """Takes 10 ms; ``bad`` cannot be read."""

    def __init__(self, clock: _Clock) -> None:
        self.clock = clock

    def extract_turned(
        self, photo: PhotoSource, box: object, *, turns: tuple[int, ...], deadline: object
    ) -> list[PhotoDescriptors]:
        self.clock.now += 0.01
        if photo.name == "bad":
            raise PhotoError("bad")
        descriptors = LocalDescriptors(vectors=np.zeros((1, 4), np.float32))
        return [PhotoDescriptors(name=photo.name, descriptors=descriptors) for _ in turns]


class _Index:
    """Takes ``seconds`` a search, and notes for how many queries each was."""

    manifest = SimpleNamespace(number=0)
    missing = ()

    def __init__(self, seconds: float, clock: _Clock) -> None:
        self.seconds, self.clock, self.groups = seconds, clock, list[int]()

    def __len__(self) -> int:
        return 0  # nothing to judge by

    def for_query(self):
        return self

    def settled(self, work):
        return work()

    def reached(self, among):
        return 0

    def asked(self, queries):
        return queries

    def search_batch(self, queries, top, *, alpha, threshold, idf, expand, units, among, first):
        self.groups.append(len(queries))
        self.clock.now += self.seconds
        return [[Hit(str(number), 1.0)] for number in range(len(queries))]


def _ask(index: _Index, photos: list[Path]) -> list[Answer | PhotoError]:
    extractor = _Extractor(index.clock)
    answerer = Answerer(
        index=index,
        name="a",
        network=lambda: extractor,
        judgement=lambda: None,
        image_size=lambda: 1024,
        folder=None,
        files=PhotoFeatures(),
        config=QueryConfig(expand=0, rank="local"),
    )
    return list(answerer.answers(photos))


def test_queries_wait_for_each_other_where_searching_is_what_takes_time(clock: _Clock) -> None:
    index = _Index(0.4, clock)
    photos = [Path(str(number)) for number in range(100)]
    photos[7] = Path("bad")
    answers = _ask(index, photos)
    assert index.groups[0] == 1  # the first answer waits for nobody
    assert sum(index.groups) == 99
    assert len(index.groups) <= 4
    assert isinstance(answers[7], PhotoError)
    assert [answer.photo.path for answer in answers if isinstance(answer, Answer)] == photos[:7] + photos[8:]


def test_nobody_waits_where_searching_takes_no_time(clock: _Clock) -> None:
    index = _Index(0.0, clock)
    _ask(index, [Path(str(number)) for number in range(10)])
    assert index.groups == [1] * 10


def test_queries_that_all_fail_search_for_nothing(clock: _Clock) -> None:
    index = _Index(0.0, clock)
    assert [str(error) for error in _ask(index, [Path("bad"), Path("bad")])] == ["bad", "bad"]
    assert index.groups == []


def test_an_archive_without_photos_says_so(call, archive: Path, photos: Path) -> None:
    names = call("names", archive).out.split()
    assert call("remove", archive, *names).code == 0
    result = call("query", photos / "coins_0.jpg", "--index", archive)
    assert result.code == 0 and "0 results" in result.out
    assert result.err == f"{archive} holds no photos so far: add some with  ctxdeploy index DIR -o {archive}\n"
    assert call("query", photos / "coins_0.jpg", "--index", archive, "-q").err == ""
