"""The main job as a user does it: export, index, query, and the default names of everything."""

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ctxdeploy.cli import info
from ctxdeploy.cli.main import COMMANDS
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.cpu import available_processors
from ctxdeploy.core.device import Gpu


def test_three_commands_find_the_right_photos(
    call, checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CTXDEPLOY_INDEX", raising=False)
    monkeypatch.delenv("CTXDEPLOY_MODEL", raising=False)
    exported = call("export", checkpoint, "--json")
    assert exported.code == 0, exported.err
    assert exported.json[0]["artefacts"][0]["parity"]["cosine_min"] >= 0.9999
    indexed = call("index", photos, "--json")
    assert indexed.code == 0, indexed.err
    assert (indexed.json[0]["indexed"], indexed.json[0]["failed"]) == (18, 0)
    assert indexed.json[0]["codebook"]["training"]["explanation"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos.ctxindex", "small.ctxbundle"]
    queries = sorted((photos.parent / "queries").iterdir())
    answered = call("query", *queries, "--top", 3, "--json")
    assert answered.code == 0, answered.err
    right = 0
    for path, answer in zip(queries, answered.json, strict=True):
        assert answer["query"] == str(path)
        assert [hit["rank"] for hit in answer["results"]] == [1, 2, 3]
        assert all(hit["score"] > 0 and 0 <= hit["probability"] <= 1 for hit in answer["results"])
        assert min(answer["seconds"]["extract"], answer["seconds"]["search"]) > 0
        assert answer["archive"] == "photos.ctxindex"
        assert (answer["extraction"]["backend"], answer["extraction"]["precision"]) == ("onnxruntime", "fp32")
        assert answer["extraction"]["device"].startswith("CPU")
        assert 0 < answer["descriptors"] <= 300
        right += answer["results"][0]["name"].startswith(path.name.rpartition("_")[0])
    assert right == len(queries)


def test_a_photo_of_the_archive_finds_itself(call, photos: Path, shared_archive: Path) -> None:
    photo = photos / "coffee_1.jpg"
    result = call("query", photo, "--index", shared_archive, "--json")
    first = result.json[0]["results"][0]
    assert first["name"] == "coffee_1.jpg"
    # One word per descriptor in the archive, five in the query: its own words are a fifth of the query's.
    assert first["score"] > 2 * result.json[0]["results"][1]["score"]


def test_text_output_ranks_the_results(call, photos: Path, shared_archive: Path) -> None:
    result = call("query", photos / "rocket_0.jpg", "--index", shared_archive, "--top", 2)
    lines = result.out.splitlines()
    assert "2 results" in lines[0]
    # Nothing is known of the scores of this untrained network but what three photos each of three things say.
    assert lines[1] == "nothing certain; the nearest:"
    assert re.fullmatch(r"\s+1\s+[\d.]+\s+\d+ %\s+rocket_0\.jpg", lines[2])


def test_box_changes_the_query(call, photos: Path, shared_archive: Path) -> None:
    query = photos / "coffee_0.jpg"
    whole = call("query", query, "--index", shared_archive, "--json").json[0]
    part = call("query", query, "--index", shared_archive, "--box", "20,20,200,150", "--json").json[0]
    assert part["box"] == [20, 20, 200, 150]
    assert part["results"][0]["name"].startswith("coffee")
    assert part["results"][0]["score"] != whole["results"][0]["score"]


def test_environment_names_archive_and_model(call, photos: Path, shared_archive, bundle, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CTXDEPLOY_INDEX", str(shared_archive))
    monkeypatch.setenv("CTXDEPLOY_MODEL", str(bundle.path))
    assert call("query", photos / "coins_0.jpg").code == 0
    assert call("index", photos, "-q").code == 0


def test_info_and_verify(call, bundle: Bundle, shared_archive: Path) -> None:
    facts = call("info", shared_archive, "--json").json[0]
    assert (facts["kind"], facts["images"], facts["failures"]) == ("archive", 18, 0)
    assert facts["source"]["model"] == bundle.model_id
    assert facts["model"]["network"]["architecture"] == "resnet18-half"
    assert facts["extraction"]["precision"] == "fp32"
    facts = call("info", bundle.path, "--json").json[0]
    assert (facts["kind"], facts["model_id"]) == ("bundle", bundle.model_id)
    assert "cosine min" in call("info", bundle.path).out
    for path in (bundle.path, shared_archive):
        result = call("verify", path)
        assert (result.code, result.out) == (0, f"{path}: sound\n")


def test_info_says_where_a_search_runs(call, shared_archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(info, "gpu_present", lambda: None)
    facts = call("info", shared_archive, "--json").json[0]
    count = available_processors()
    assert facts["search"] == {"device": "cpu", "threads": count, "gpu": None, "available_gpu": None}
    line = f"  search: on the CPU, {count} thread{'' if count == 1 else 's'}"
    assert line in call("info", shared_archive).out.splitlines()
    monkeypatch.setattr(info, "gpu_present", lambda: Gpu(name="NVIDIA H200", capability=(9, 0)))
    assert call("info", shared_archive, "--json").json[0]["search"]["available_gpu"] == "NVIDIA H200 (9.0)"
    other = f"{line}; on NVIDIA H200 (9.0) with  --search-device cuda"
    assert other in call("info", shared_archive).out.splitlines()


def test_archive_answers_after_it_was_moved_alone(call, archive: Path, photos: Path, tmp_path: Path) -> None:
    moved = archive.rename(tmp_path / "elsewhere")
    result = call("query", photos / "coins_2.jpg", "--index", moved, "--json")
    assert result.json[0]["results"][0]["name"] == "coins_2.jpg"


def test_help_of_every_command(call) -> None:
    for name in COMMANDS:
        result = call(name, "--help")
        assert result.code == 0
        assert result.out.startswith(f"Usage: ctxdeploy {name}")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["index", "--help"], ["query", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys, contextlib, io\n"
        "from ctxdeploy.cli.main import run\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        f"    code = run({arguments!r})\n"
        "heavy = ('torch', 'onnx', 'onnxruntime', 'openvino', 'faiss', 'numba', 'skimage', 'rich', 'PIL')\n"
        "print(code, [name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0 []\n"


def test_json_is_one_document_a_line_for_names_that_are_no_text(call, bundle, photos, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    name = os.fsdecode(b"caf\xe9 \xe2\x98\x95.jpg")
    (folder / name).write_bytes((photos / "coffee_0.jpg").read_bytes())
    assert call("index", folder, "-o", tmp_path / "a.ctxindex", "--model", bundle.path, "--words", 16, "-q").code == 0
    result = call("query", folder / name, "--index", tmp_path / "a.ctxindex", "--json", "--html", tmp_path / "p.html")
    found = json.loads(result.out)["results"][0]
    assert found["name"] == r"caf\udce9 ☕.jpg" and base64.b64decode(found["name_bytes"]) == os.fsencode(name)
    assert call("query", folder / name, "--index", tmp_path / "a.ctxindex").code == 0
    assert "�" in (tmp_path / "p.html").read_text(encoding="utf-8")


def test_names_cannot_break_or_colour_the_output(call, bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    name = "a\n\x1b[31m\u202eb.jpg"
    (folder / name).write_bytes((photos / "coffee_0.jpg").read_bytes())
    archive = tmp_path / "a.ctxindex"
    assert call("index", folder, "-o", archive, "--model", bundle.path, "--words", 16, "-q").code == 0
    result = call("query", folder / name, "--index", archive)
    assert len(result.out.splitlines()) == 3
    assert "\\n\\x1b[31m" in result.out
    assert "\x1b" not in result.out + result.err
    assert len(call("query", folder / ("no" + name), "--index", archive).err.splitlines()) == 1


def test_telemetry_of_onnxruntime_is_off() -> None:
    code = (
        "import os\n"
        "from ctxdeploy.core.extras import require_onnxruntime\n"
        "require_onnxruntime()\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'])\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ORT_")}
    environment["HOME"] = "/proc/none"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_output_without_a_place_to_go(shared_archive: Path) -> None:
    command = f"{sys.executable} -m ctxdeploy.cli.main info {shared_archive}"
    for redirection in (">&-", "> /dev/full", "| head -c 1 > /dev/null"):
        done = subprocess.run(["bash", "-c", f"{command} {redirection}"], capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr, redirection
        assert "Exception" not in done.stderr, redirection
