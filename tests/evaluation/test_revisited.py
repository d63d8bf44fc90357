"""A data set in the layout of Revisited Oxford, through the whole pipeline."""

import itertools
import json
import pickle
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import ConfigError, StorageError
from ctxdeploy.core.types import Box
from ctxdeploy.evaluation.dataset import Query
from ctxdeploy.evaluation.judging import figures, judge
from ctxdeploy.evaluation.query_cache import ObservedExtractor, QueryCache
from ctxdeploy.evaluation.ranking import Ranked, RankingsFile
from ctxdeploy.evaluation.table import open_set
from ctxdeploy.runtime import Extractor

DEPTHS = (1, 5, 10)
SETUPS = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}


def _rankings(path: Path, method: str) -> dict[str, list[str]]:
    lines = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
    return {line["query"]: [photo[0] for photo in line["ranked"]] for line in lines if line["method"] == method}


def _expected(load_reference, content: dict, rankings: dict[str, list[str]], setup: str) -> dict[str, float]:
    """Return the setup's figures from rankings, by the plain scorer; what is not ranked comes last."""
    numbers = {f"{name}.jpg": number for number, name in enumerate(content["imlist"])}
    ranked = [[numbers[name] for name in rankings[f"{query}.jpg"]] for query in content["qimlist"]]
    ranked = [row + [number for number in numbers.values() if number not in set(row)] for row in ranked]
    truths = [
        {
            key: [int(number) for name in names for number in truth[name]]
            for key, names in zip(("ok", "junk"), SETUPS[setup], strict=True)
        }
        for truth in content["gnd"]
    ]
    value, precision, _, _ = load_reference("retrieval_scores").revisited(ranked, truths, DEPTHS)
    return {"mAP": value, **{f"mP@{depth}": p for depth, p in zip(DEPTHS, precision, strict=True)}}


@pytest.fixture(scope="module")
def content(revisited: Path) -> dict:
    return pickle.loads((revisited / "gnd_roxford5k.pkl").read_bytes())  # noqa: S301


@pytest.mark.parametrize("method", ["asmk", "global"])
def test_figures_are_those_of_a_plain_scorer(call, evaluated, content, load_reference, method: str) -> None:
    result = call(*evaluated.options, "--global", "--json", "-q")
    assert result.code == 0, result.err
    rankings = _rankings(evaluated.rankings, method)
    assert len(rankings) == 70
    found = result.json["figures" if method == "asmk" else "global"]
    assert list(found) == ["medium", "hard", "easy"]
    for setup in SETUPS:
        for name, value in _expected(load_reference, content, rankings, setup).items():
            assert found[setup][name] == pytest.approx(100 * value, abs=1e-9), (setup, name)
    assert (found["easy"]["queries"], found["easy"]["without_positives"]) == (69, 1)
    assert (found["hard"]["queries"], found["hard"]["without_positives"]) == (65, 5)
    assert found["medium"]["queries"] == 70
    # Neither all right nor chance, which is below 10: figures of 0 and 100 would agree with anything.
    assert all(40 < found[setup]["mAP"] < 95 for setup in SETUPS)
    facts = result.json
    assert (facts["photos"], facts["queries"], facts["kind"], facts["set"]) == (86, 70, "revisited", "roxford5k")
    assert facts["codebook"]["trained_on"] == "another set" and facts["warnings"] == [] and facts["unreadable"] == []


def test_a_second_run_only_scores(call, evaluated, monkeypatch) -> None:
    def refuse(self, photos):
        raise AssertionError("extracts again")

    monkeypatch.setattr(ObservedExtractor, "extract", refuse)
    assert call(*evaluated.options, "--global", "-q").code == 0


def test_rankings_are_what_queries_with_boxes_return(call, evaluated, content, revisited: Path) -> None:
    rankings = _rankings(evaluated.rankings, "asmk")
    for number in (0, 33, 69):
        name, box = f"{content['qimlist'][number]}.jpg", content["gnd"][number]["bbx"]
        options = ("--index", evaluated.archive, "--top", 1000, "--expand", 0, "--turn", "none", "--json")
        answer = call("query", revisited / "jpg" / name, *options, "--box", ",".join(map(str, box)))
        assert [hit["name"] for hit in answer.json["results"]] == rankings[name]


def test_global_rankings_are_inner_products_of_weighted_sums(evaluated, bundle: Bundle, content, revisited) -> None:
    extractor = Extractor(bundle)

    def vector(name: str, box: Box | None = None) -> np.ndarray:
        found = extractor.extract_one(revisited / "jpg" / f"{name}.jpg", box)
        total = sum(a * v.astype(np.float64) for a, v in zip(found.attention, found.vectors, strict=True))
        return total / np.sqrt((total**2).sum())

    box = Box(**dict(zip(("x0", "y0", "x1", "y1"), content["gnd"][7]["bbx"], strict=True)))
    query = vector(content["qimlist"][7], box)
    scores = {f"{name}.jpg": float(vector(name) @ query) for name in content["imlist"]}
    ranking = _rankings(evaluated.rankings, "global")[f"{content['qimlist'][7]}.jpg"]
    assert sorted(ranking) == sorted(scores)
    found = [scores[name] for name in ranking]
    assert all(a >= b - 1e-6 for a, b in itertools.pairwise(found))


def test_table_names_what_was_measured(call, evaluated) -> None:
    result = call(*evaluated.options, "--global", "-q")
    assert result.err == ""
    lines = result.out.splitlines()
    assert "86 photos, 70 queries" in lines[0] and "64 words" in lines[0] and "another set" in lines[0]
    assert [line.split()[0] for line in lines[2:5]] == ["medium", "hard", "easy"]
    assert [line.split()[:2] for line in lines[5:8]] == [["global", s] for s in ("medium", "hard", "easy")]
    assert lines[4].endswith("69 (1 without answers)")


def test_page_shows_the_worst_queries_with_right_wrong_and_junk(call, evaluated, read_page, content) -> None:
    worst = call(*evaluated.options, "-q", "--json", "--worst", 6).json["worst"]
    page = read_page(evaluated.page)
    assert page.texts("h2") == [entry["query"] for entry in worst]
    assert [entry["AP"] for entry in worst] == sorted(entry["AP"] for entry in worst)
    assert page.one("header").texts("p")[1].startswith("The 6 worst of 70 queries. ")
    for title, section in zip(page.texts("h2"), page.all("section"), strict=True):
        truth = content["gnd"][content["qimlist"].index(title.removesuffix(".jpg"))]
        right, junk = ([content["imlist"][n] + ".jpg" for key in keys for n in truth[key]] for keys in SETUPS["medium"])
        for result in section.all("li", "result"):
            name = result.one("span", "name").text
            verdict = "right" if name in right else "junk" if name in junk else "wrong"
            assert verdict in result.classes and result.one("span", "verdict").text == verdict, (title, name)
        assert section.one("div", "framed").one("span")
        assert section.one("div", "asked").texts("p")[0].startswith("medium: AP")
        # Twelve as they were returned, and the first two right ones behind them.
        places = [int(place) for place in section.texts("span", "rank")]
        ranking = _rankings(evaluated.rankings, "asmk")[title]
        missed = [place for place, name in enumerate(ranking, 1) if place > 12 and name in right][:2]
        assert places == [*range(1, 13), *missed]
    assert {"right", "wrong"} <= set(page.texts("span", "verdict"))


class _Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch owned",)


def test_a_malicious_ground_truth_is_refused(
    call, revisited: Path, bundle: Bundle, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(revisited, tmp_path / "set", copy_function=shutil.copyfile)
    path = tmp_path / "set" / "gnd_roxford5k.pkl"
    content = pickle.loads(path.read_bytes())  # noqa: S301
    path.write_bytes(pickle.dumps({**content, "imlist": _Evil()}, protocol=2))
    result = call("eval", "set", "--model", bundle.path, "-q")
    assert result.code == 2
    assert "gnd_roxford5k.pkl" in result.err and "system" in result.err and "Traceback" not in result.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set"]


def _doubled() -> list[object]:
    """Return a list of forty lists, each of which holds the next one twice: its text would have 2^40 letters."""
    value: list[object] = []
    for _ in range(40):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("qimlist"), "is not a ground truth"),
        (lambda c: c["gnd"].pop(), "70 queries, but ground truth of 69"),
        (lambda c: c["gnd"][3].update(easy=[86]), "names photo 86 of 86"),
        (lambda c: c["gnd"][3].update(hard=[0.5]), "names photo 0.5"),
        (lambda c: c["gnd"][3].update(hard=[float("inf")]), "is not a ground truth"),
        (lambda c: c["gnd"][3].update(bbx=[5, 5, 1, 9]), "x0 < x1"),
        (lambda c: c["imlist"].append("../../etc/passwd"), "is not the name of a photo"),
        (lambda c: c["imlist"].append(c["imlist"][0]), "2 times"),
        (lambda c: c["imlist"].append(_doubled()), "is not the name of a photo"),
        (lambda c: c["imlist"].append("nowhere"), "nowhere.jpg: complete the data set"),
        (lambda c: c.update(imlist="".join(c["imlist"])), "imlist is text, not a list"),
        (lambda c: c.update(gnd={}), "gnd is a dict, not a list"),
        (lambda c: c.update(qimlist=[], gnd=[]), "has no query"),
        (lambda c: c["gnd"].__setitem__(3, [1]), "gnd[3] is a list, not a dictionary"),
        (lambda c: c["gnd"][3].pop("junk"), "gnd[3] has no 'junk'"),
        (lambda c: c["gnd"][3].update(hard=None), "hard of gnd[3] is None, not a list"),
        (lambda c: c["gnd"][3].update(hard=5), "hard of gnd[3] is a number, not a list"),
        (lambda c: c["gnd"][3].update(hard=np.array([[1, 2]])), "an array of 2 dimensions, not a list"),
        (lambda c: c["gnd"][3].update(hard=["5"]), "holds text, not the number of a photo"),
        (lambda c: c["gnd"][3].update(hard=[True]), "holds true or false"),
        (lambda c: c["gnd"][3].update(hard=[_doubled()]), "holds a list, not the number of a photo"),
        (lambda c: c["gnd"][3].update(hard=[-1]), "names photo -1 of 86"),
        (lambda c: c["gnd"][3].update(hard=[float("nan")]), "names photo nan"),
        (lambda c: c["gnd"][3].update(hard=[10**400]), "is not a ground truth"),
        (lambda c: c["gnd"][3].update(easy=[80], hard=[81, 81]), "gnd[3] names photo 81 twice in hard"),
        (lambda c: c["gnd"][3].update(easy=[80], junk=[80]), "gnd[3] names photo 80 in easy and in junk"),
        (lambda c: c["gnd"][3].update(bbx=[1, 2, 3]), "bbx of gnd[3] has 3 numbers"),
        (lambda c: c["gnd"][3].update(bbx=["1", "2", "3", "4"]), "bbx of gnd[3] holds text"),
        (lambda c: c["gnd"][3].update(bbx=[0, 0, float("nan"), 4]), "bbx of gnd[3]: box 0,0,nan,4"),
        (lambda c: [truth.update(ok=truth.pop("easy")) for truth in c["gnd"][:9]], "gnd[0] has no 'easy'"),
        (lambda c: [truth.update(easy=[], hard=[]) for truth in c["gnd"]], "has no query with an answer"),
    ],
)
def test_a_damaged_ground_truth(call, revisited: Path, bundle, tmp_path: Path, content, change, words: str) -> None:
    changed = pickle.loads(pickle.dumps(content))  # noqa: S301
    change(changed)
    (tmp_path / "gnd_rparis6k.pkl").write_bytes(pickle.dumps(changed))
    (tmp_path / "jpg").symlink_to(revisited / "jpg")
    result = call("eval", tmp_path, "--model", bundle.path, "-o", tmp_path / "a.ctxindex", "-q")
    assert result.code == 2, result.err
    assert words in result.err and len(result.err.splitlines()) == 1
    assert not (tmp_path / "a.ctxindex").exists()


def test_a_box_outside_its_query_is_said_before_any_work(
    call, revisited: Path, bundle: Bundle, tmp_path: Path, content, monkeypatch
) -> None:
    changed = pickle.loads(pickle.dumps(content))  # noqa: S301
    changed["gnd"][69]["bbx"] = [0, 0, 82, 40]  # of 80 pixels
    (tmp_path / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(changed))
    (tmp_path / "jpg").symlink_to(revisited / "jpg")
    monkeypatch.setattr(ObservedExtractor, "extract", lambda self, photos: pytest.fail("extracts"))
    result = call("eval", tmp_path, "--model", bundle.path, "-o", tmp_path / "a.ctxindex", "-q")
    assert result.code == 14 and "the box 0,0,82,40 does not lie in the photo of 80×64 pixels" in result.err
    assert f"the query {content['qimlist'][69]}.jpg" in result.err
    assert not (tmp_path / "a.ctxindex").exists()


@pytest.mark.parametrize("junk", [True, False])
def test_sets_as_they_were_before_they_were_revisited(
    load_reference, revisited: Path, tmp_path: Path, content, junk: bool
) -> None:
    """Right photos in one list, ``ok``; boxes and junk may be missing; names may have their suffix."""
    random = np.random.default_rng(0)
    gnd = []
    for number, truth in enumerate(content["gnd"]):
        old = {"bbx": None if number % 3 else truth["bbx"], "ok": np.concatenate([truth["easy"], truth["hard"]])}
        if number % 3 == 1:
            del old["bbx"]
        gnd.append({**old, "junk": truth["junk"]} if junk else old)
    names = [f"{name}.jpg" if number % 2 else name for number, name in enumerate(content["imlist"])]
    changed = {"imlist": names, "qimlist": content["qimlist"], "gnd": gnd}
    (tmp_path / "gnd_oxford5k.pkl").write_bytes(pickle.dumps(changed))
    (tmp_path / "jpg").symlink_to(revisited / "jpg")
    dataset = open_set(tmp_path)
    assert [query.box is None for query in dataset.queries] == [number % 3 > 0 for number in range(70)]
    assert dataset.database == tuple(sorted(f"{name}.jpg" for name in content["imlist"]))
    rankings = [random.permutation(86).tolist() for _ in gnd]
    plain = load_reference("retrieval_scores").revisited
    expected = plain(rankings, [{"junk": [], **truth} for truth in gnd], DEPTHS)
    named = [[Ranked(f"{content['imlist'][n]}.jpg", 0.0) for n in ranking] for ranking in rankings]
    found = figures(dataset, judge(dataset, zip(dataset.queries, named, strict=True)))
    assert list(found) == ["ok"] and found["ok"].queries == 70
    assert found["ok"].mean_average_precision == expected[0]


def _as_text(content: dict, folder: Path, photos: Path, prefix: str) -> None:
    """Write the lists of text files that Oxford's authors published; queries are photos of the database here."""
    (folder / "images").symlink_to(photos)
    (folder / "gt").mkdir()
    for number, truth in enumerate(content["gnd"]):
        name = folder / "gt" / f"scene_{number}"
        edges = " ".join(map(str, truth["bbx"]))
        Path(f"{name}_query.txt").write_text(f"{prefix}{content['qimlist'][number]} {edges}\n")
        for kind, key in (("good", "easy"), ("ok", "hard"), ("junk", "junk")):
            Path(f"{name}_{kind}.txt").write_text("".join(f"{content['imlist'][n]}\n" for n in truth[key]))


@pytest.mark.parametrize("prefix", ["oxc1_", ""])
def test_the_lists_that_oxford_was_published_with(revisited: Path, tmp_path: Path, content, prefix: str) -> None:
    _as_text(content, tmp_path, revisited / "jpg", prefix)
    dataset = open_set(tmp_path)
    assert (dataset.kind, len(dataset.database)) == ("oxford", len(list((revisited / "jpg").iterdir())))
    (task,) = dataset.tasks
    by_name = {query.name: query for query in dataset.queries}
    assert len(by_name) == 70
    for name, truth in zip(content["qimlist"], content["gnd"], strict=True):
        query = by_name[f"images/{name}.jpg"]
        assert query.box == Box(**dict(zip(("x0", "y0", "x1", "y1"), truth["bbx"], strict=True)))
        right = [content["imlist"][n] for key in ("easy", "hard") for n in truth[key]]
        assert task.relevance[query.key].positives == tuple(f"images/{photo}.jpg" for photo in right)
        assert task.relevance[query.key].junk == {f"images/{content['imlist'][n]}.jpg" for n in truth["junk"]}


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("scene_3_query.txt", "", "scene_3_query.txt must be one line"),
        ("scene_3_query.txt", "{photo} 1 2 3\n", "must be one line"),
        ("scene_3_query.txt", "{photo} 1 2 3 x\n", "must be one line"),
        ("scene_3_query.txt", "{photo} 9 2 3 4\n", "x0 < x1"),
        ("scene_3_query.txt", "{photo} 1 2 nan 4\n", "finite"),
        ("scene_3_query.txt", "nowhere 1 2 3 4\n", "'nowhere' is not among the photos"),
        ("scene_3_ok.txt", "nowhere\n", "scene_3_ok.txt: 'nowhere' is not among the photos: complete the data set"),
        ("scene_3_ok.txt", "\x1b[31m\n", r"'\x1b[31m' is not among"),
        ("scene_3_ok.txt", "{photo}\n{photo}\n", "2 times"),
        ("scene_3_junk.txt", None, "scene_3_junk.txt cannot be read: No such file"),
        ("scene_3_junk.txt", "\udcff", "scene_3_junk.txt cannot be read: it is not text"),
    ],
)
def test_lists_of_oxford_that_are_wrong(
    revisited: Path, tmp_path: Path, content, file: str, text: str | None, words: str
) -> None:
    _as_text(content, tmp_path, revisited / "jpg", "")
    path = tmp_path / "gt" / file
    path.unlink()
    if text is not None:
        path.write_bytes(text.format(photo=content["imlist"][0]).encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        open_set(tmp_path)
    assert words in str(caught.value) and "\x1b" not in str(caught.value)


def test_interrupted_it_goes_on_to_the_same_rankings(
    call, evaluated, revisited: Path, tmp_path: Path, monkeypatch
) -> None:
    """Ctrl-C comes when all queries and thirty photos are extracted; the rest, and no more, is extracted then."""
    options = [str(tmp_path / "a.ctxindex") if o == str(evaluated.archive) else o for o in evaluated.options]
    options += ["--global", "--rankings", str(tmp_path / "r.jsonl"), "-q"]
    taken = []
    take = QueryCache.take

    def interrupted(self, result) -> None:
        taken.append(result.name)
        if len(taken) == 31:
            raise KeyboardInterrupt
        take(self, result)

    with monkeypatch.context() as patch:
        patch.setattr(QueryCache, "take", interrupted)
        result = call(*options)
    assert result.code == 130 and "run the same command again to continue" in result.err
    assert not (tmp_path / "r.jsonl").exists()
    first, taken[:] = set(taken[:30]), []
    with monkeypatch.context() as patch:
        patch.setattr(QueryCache, "take", lambda self, result: (taken.append(result.name), take(self, result)))
        assert call(*options).code == 0
    assert not first & set(taken) and len(taken) == 86 - 30
    assert (tmp_path / "r.jsonl").read_bytes() == evaluated.rankings.read_bytes()


def test_a_full_disk_leaves_no_part_of_the_rankings(
    tmp_path: Path, full_disk: Callable[[], AbstractContextManager[None]]
) -> None:
    with full_disk(), pytest.raises(StorageError, match="--rankings"), RankingsFile(tmp_path / "r.jsonl") as file:
        file.write(Query(name="a.jpg"), [Ranked("b.jpg", 1.0)], "asmk")
    assert list(tmp_path.iterdir()) == []
