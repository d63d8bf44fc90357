"""minibench, folders with ``gnd.json``, and photos named as in INRIA Holidays."""

import json
import shutil
from pathlib import Path

import pytest

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.scoring import Relevance
from ctxdeploy.evaluation.table import open_set

SHARED_SCENES = ("toy_dinosaur", "kermit", "graffiti", "doges_palace", "berlin_cathedral")
SHARED_SMALL = ("s_adam", "s_dolltheater", "s_capitol")


def _by_file(path: Path) -> dict[str, list[str]]:
    rows = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
    return {Path(row["query"]).name: [Path(photo[0]).name for photo in row["ranked"]] for row in rows}


def test_minibench_scores_are_those_of_a_plain_scorer(
    call, minibench: Path, bundle: Bundle, codebook: Path, load_reference, tmp_path: Path
) -> None:
    """A part of it: five scenes and three small ones, 30 distractors; two photos are made a junk pair."""
    truth = json.loads((minibench.parent / "gnd.json").read_text(encoding="utf-8"))
    scenes = {scene: truth["scenes"][scene] for scene in SHARED_SCENES}
    small = {scene: truth["small_scenes"][scene] for scene in SHARED_SMALL}
    part = {"scenes": scenes, "small_scenes": small, "kinds": {scene: truth["kinds"][scene] for scene in scenes}}
    part["junk_pairs"] = [scenes["kermit"][:2], *truth["junk_pairs"]]
    for folder in ("images", "distractors"):
        (tmp_path / "part" / folder).mkdir(parents=True)
    for name in (name for files in (*scenes.values(), *small.values()) for name in files):
        (tmp_path / "part" / "images" / name).symlink_to(minibench / name)
    for name in truth["distractors"][:30]:
        (tmp_path / "part" / "distractors" / name).symlink_to(minibench.parent / "distractors" / name)
    (tmp_path / "part" / "README.jpg").write_text("no photo: only images/ and distractors/ are the database")
    (tmp_path / "part" / "gnd.json").write_text(json.dumps(part), encoding="utf-8")
    options = ("--model", bundle.path, "--codebook", codebook, "-o", tmp_path / "a.ctxindex")
    result = call("eval", tmp_path / "part", *options, "--rankings", tmp_path / "r.jsonl", "--json", "-q")
    assert result.code == 0, result.err
    expected = load_reference("retrieval_scores").minibench(_by_file(tmp_path / "r.jsonl"), part)
    found = result.json["figures"]
    assert list(found) == ["all", "capture", "planar", "wild", "small"] and set(expected) == set(found)
    assert {task: figures["mAP"] for task, figures in found.items()} == pytest.approx(expected, abs=1e-9)
    assert (found["all"]["scenes"], found["small"]["scenes"], result.json["kind"]) == (5, 3, "minibench")
    assert found["all"]["queries"] == sum(map(len, scenes.values()))


def _photos(training: Path, folder: Path, names: list[str]) -> None:
    sources = sorted(training.iterdir())
    for name, source in zip(names, sources, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder / name)


def test_a_folder_with_gnd_json(training: Path, tmp_path: Path) -> None:
    _photos(training, tmp_path, ["a/1.jpg", "a/2.jpg", "b/1.jpg", "c.jpg", "d.jpg", "e.jpg"])
    scenes = {"one": ["a/1.jpg", "2.jpg", "c.jpg"], "alone": ["d.jpg"]}
    pairs = [["a/2.jpg", "c.jpg"]]  # named by its path here, and by its file above
    kinds = {"one": "wild", "little": "wild"}
    content = {"scenes": scenes, "small_scenes": {"little": ["b/1.jpg", "e.jpg"]}, "kinds": kinds, "junk_pairs": pairs}
    (tmp_path / "gnd.json").write_text(json.dumps(content))
    dataset = open_set(tmp_path)
    assert (dataset.kind, dataset.database) == ("scenes", ("a/1.jpg", "a/2.jpg", "b/1.jpg", "c.jpg", "d.jpg", "e.jpg"))
    task, wild, small = dataset.tasks
    assert (task.name, wild.name, small.name) == ("all", "wild", "small")
    assert task.groups == wild.groups == (("a/1.jpg", "a/2.jpg", "c.jpg"),)
    assert small.groups == (("b/1.jpg", "e.jpg"),)
    assert task.relevance["a/2.jpg"] == Relevance(positives=("a/1.jpg",), junk=frozenset({"a/2.jpg", "c.jpg"}))


@pytest.mark.parametrize(
    ("scenes", "others", "words"),
    [
        ({"one": ["1.jpg", "c.jpg"]}, {}, "the name of 2 photos"),
        ({"one": ["x.jpg", "c.jpg"]}, {}, "'x.jpg' is not among the photos"),
        ({"one": ["c.jpg", "d.jpg"], "two": ["c.jpg", "e.jpg"]}, {}, "two scenes"),
        ({"one": ["c.jpg"], "two": []}, {}, "no scene with two photos"),
        ({"one": ["c.jpg", "d.jpg"]}, {"junk_pairs": [["c.jpg", "x.jpg"]]}, "'x.jpg' is not among the photos"),
        ({"one": ["c.jpg", "d.jpg"]}, {"kinds": {"one": "small"}}, "a kind of scenes 'small'"),
    ],
)
def test_a_gnd_json_that_does_not_fit(training: Path, tmp_path: Path, scenes, others, words: str) -> None:
    _photos(training, tmp_path, ["a/1.jpg", "b/1.jpg", "c.jpg", "d.jpg", "e.jpg"])
    (tmp_path / "gnd.json").write_text(json.dumps({"scenes": scenes, **others}))
    with pytest.raises(ConfigError, match=words):
        open_set(tmp_path)


@pytest.mark.parametrize("pairs", [[], [["4.jpg", "5.jpg"], ["4.jpg", "6.jpg"], ["5.jpg", "6.jpg"]]])
def test_scenes_that_nothing_answers_are_left_out(
    call, revisited: Path, bundle: Bundle, codebook: Path, tmp_path: Path, pairs
) -> None:
    """Scenes of one photo, and one of three that share nothing by twos, beside a scene of two."""
    folder = tmp_path / "set"
    _photos(revisited / "jpg", folder, [f"{number}.jpg" for number in range(8)])
    shutil.copy(folder / "0.jpg", folder / "1.jpg")
    scenes = {"pair": ["0.jpg", "1.jpg"], "one": ["2.jpg"], "small": ["3.jpg"]}
    scenes |= {"three": ["4.jpg", "5.jpg", "6.jpg"]} if pairs else {}
    (folder / "gnd.json").write_text(json.dumps({"scenes": scenes, "kinds": {"one": "wild"}, "junk_pairs": pairs}))
    options = ("--model", bundle.path, "--codebook", codebook, "-o", tmp_path / "a.ctxindex")
    result = call("eval", folder, *options, "--json", "-q", "--html", tmp_path / "worst.html")
    assert result.code == 0, result.err
    (name, found), *others = result.json["figures"].items()
    assert (name, others, found["mAP"], found["queries"], found["scenes"]) == ("all", [], 100.0, 2, 1)
    assert found["without_positives"] == 2 + (3 if pairs else 0)
    assert f"2 of 1 scenes ({found['without_positives']} without answers)" in call("eval", folder, *options, "-q").out


def test_holidays_from_names_to_figures(call, few: Path, bundle: Bundle, codebook: Path, tmp_path: Path) -> None:
    dataset = open_set(few)
    assert [query.name for query in dataset.queries] == [f"jpg/{n}.jpg" for n in (100000, 100100, 100200)]
    assert dataset.tasks[0].relevance["jpg/100000.jpg"].positives == ("jpg/100001.jpg", "jpg/100002.jpg")
    options = ("--model", bundle.path, "--codebook", codebook, "-o", tmp_path / "a.ctxindex", "--json", "-q")
    found = call("eval", few, *options).json
    assert found["kind"] == "holidays"
    assert found["figures"]["all"] == {
        "mAP": 100.0,
        "mP@1": 100.0,
        "mP@5": 100.0,
        "mP@10": 100.0,
        "queries": 2,
        "without_positives": 1,
        "scenes": None,
    }


def test_a_photo_that_cannot_be_read_is_said_and_never_found(
    call, revisited: Path, bundle: Bundle, codebook: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "holidays"
    folder.mkdir()
    for scene, name in ((0, "100000"), (0, "100001"), (1, "100100"), (1, "100101")):
        shutil.copy(revisited / "jpg" / f"scene{scene:02d}_easy_000000.jpg", folder / f"{name}.jpg")
    (folder / "100101.jpg").write_text("no photo")
    options = ("--model", bundle.path, "--codebook", codebook, "-o", tmp_path / "a.ctxindex", "-q", "--json")
    result = call("eval", folder, *options)
    assert result.code == 19 and "1 of 4 photos could not be read (100101.jpg)" in result.err
    assert result.json["unreadable"] == ["100101.jpg"] and "could not be read" in result.json["warnings"][0]
    assert result.json["figures"]["all"]["mAP"] == 50.0
    # A photo that was changed into one that cannot be read is not passed over in silence.
    (folder / "100001.jpg").write_text("no photo any more")
    assert call("eval", folder, *options).json["unreadable"] == ["100001.jpg", "100101.jpg"]
    (folder / "100100.jpg").write_text("no photo")
    result = call("eval", folder, *options[:4], "-o", tmp_path / "b.ctxindex", "-q")
    assert result.code == 14 and "the query 100100.jpg of holidays" in result.err


def test_what_is_no_data_set(training: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no data set; what is known: revisited: .*gnd.json"):
        open_set(training.parent)
    with pytest.raises(ConfigError, match="is not a folder"):
        open_set(tmp_path / "none")
    _photos(training, tmp_path / "below", ["a.jpg", "b.jpg"])
    (tmp_path / "below" / "gnd.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"there is one in .*below"):
        open_set(tmp_path)
    with pytest.raises(ConfigError, match=r"a\.jpg is not named by a number"):
        open_set(tmp_path / "below", "holidays")
