"""No field of any file that a command shows reaches the terminal as anything but text on its own line."""

import ast
import json
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ctxdeploy.cli
from ctxdeploy.archive import store_origin
from ctxdeploy.core.bundle import MANIFEST, Artefact, Bundle, CodebookFile, Extraction, ShapeRange
from ctxdeploy.core.files import checksum, file_sha256
from ctxdeploy.core.types import Preprocessing
from ctxdeploy.index import Codebook, Index
from ctxdeploy.runtime.sources import PhotoList

# A title of the window, a colour, C1's own escape, the other direction, a line of its own.
EVIL = "\x1b]0;x\x07\x1b[31mred\x9b31m\u202etxt\nFORGED: all is well\r\x00\x85\u2028"
_FORBIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@pytest.fixture
def harmless(call: Callable[..., Any]) -> Callable[..., Any]:
    """Run a command and check what it printed."""

    def run(*arguments: object) -> Any:
        result = call(*arguments)
        for text in (result.out, result.err):
            found = _FORBIDDEN.search(text)
            assert found is None, f"{arguments}: {text[max(found.start() - 60, 0) : found.end() + 20]!r}"
            assert not any(line.lstrip().startswith("FORGED") for line in text.split("\n")), (arguments, text)
        assert "Traceback" not in result.err
        return result

    return run


def spoilt(value: Any) -> Iterator[Any]:
    """Yield copies of a JSON value, in each of which one text, number or key is replaced by a hostile one."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield {**value, f"{key}{EVIL}": inner}
            yield {(f"{name}{EVIL}" if name == key else name): found for name, found in value.items()}
            yield from ({**value, key: found} for found in spoilt(inner))
    elif isinstance(value, list):
        for place, inner in enumerate(value[:2]):
            yield from ([*value[:place], found, *value[place + 1 :]] for found in spoilt(inner))
        yield [*value, EVIL]
    else:
        yield f"{value}{EVIL}" if isinstance(value, str) else EVIL


def write_bundle(folder: Path) -> Path:
    folder.mkdir()
    data = bytes(500)
    (folder / "model.onnx").write_bytes(data)
    (folder / "codebook.safetensors").write_bytes(data)
    sha256 = file_sha256(folder / "model.onnx")
    artefact = Artefact(
        file="model.onnx",
        sha256=sha256,
        bytes=len(data),
        format="engine",
        precision="fp32",
        target="onnxruntime",
        parity={"cosine_min": 0.9, "verdict": "passed", "photos": [{"photo": "a", "shape": [3, 4]}]},
        details={"key": {"gpu": "a GPU"}, "kept": ["layer"]},
    )
    Bundle(
        path=folder,
        network={"family": "how", "architecture": "resnet18", "mean": [0.1, 0.2, 0.3]},
        source={"file": "how.pth", "sha256": "a" * 64, "format": "how", "weights_sha256": "b" * 64},
        preprocessing=Preprocessing(image_size=512),
        extraction=Extraction(scales=(1.0,), top_k=77, dim=8),
        shapes=ShapeRange(),
        artefacts=(artefact,),
        tools={"ctxdeploy": "0.1.0", "torch": "2.13"},
        codebook=CodebookFile(file="codebook.safetensors", sha256=sha256, bytes=len(data), words=16, id="c" * 64),
    ).write_manifest()
    return folder


def sealed(manifest: Any, folder: Path) -> Any:
    """Return a spoilt manifest with the hashes of what it says, where it can still be opened."""
    try:
        source, network, extraction = manifest["source"], manifest["network"], manifest["extraction"]
        whole = Bundle(
            path=folder,
            network=network,
            source=source,
            preprocessing=Preprocessing(**manifest["preprocessing"]),
            extraction=Extraction(**{**extraction, "scales": tuple(extraction["scales"])}),
            shapes=ShapeRange(),
            artefacts=(),
        )
        return {**manifest, "model_id": whole.model_id, "preprocessing_hash": whole.preprocessing.hash}
    except Exception:  # it is refused, whatever its hashes are
        return manifest


def test_depth_of_a_bundle(tmp_path: Path, harmless: Callable[..., Any]) -> None:
    folder = write_bundle(tmp_path / "b")
    whole = json.loads((folder / MANIFEST).read_text())
    for depth in (30, 100, 400, 900, 100_000):
        tools = '{"a": ' * depth + "1" + "}" * depth
        (folder / MANIFEST).write_text(json.dumps(whole).replace(json.dumps(whole["tools"]), tools))
        harmless("info", folder)


def test_every_field_of_a_bundle(tmp_path: Path, harmless: Callable[..., Any]) -> None:
    folder = write_bundle(tmp_path / "b")
    whole = json.loads((folder / MANIFEST).read_text())
    assert harmless("info", folder).code == 0
    shown = 0
    for changed in spoilt(whole):
        (folder / MANIFEST).write_text(json.dumps(sealed(changed, folder)))
        result = harmless("info", folder)
        shown += result.code == 0 and "FORGED" in result.out
        harmless("verify", folder)
    assert shown > 20, "fields that are shown as they are"
    for changed in ([EVIL], EVIL, {EVIL: EVIL}, {"format": EVIL}, {**whole, "format_version": EVIL}):
        (folder / MANIFEST).write_text(json.dumps(changed))
        for command in (
            ("info", folder),
            ("query", "x.jpg", "--model", folder),
            ("inspect", "x.jpg", "--model", folder),
        ):
            assert harmless(*command).code != 0


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive with hostile names, failures, place and extraction."""
    random = np.random.default_rng(0)
    vectors = random.standard_normal((100, 8), np.float32)
    path = tmp_path / "a.ctxindex"
    failure = {"name": f"f{EVIL}.jpg", "reason": EVIL, "stage": EVIL, "file": None, "seconds": 0.0}
    with Index.create(path, Codebook.train(vectors, words=8)) as index:
        for number in range(3):
            index.add(f"{number}{EVIL}.jpg", vectors[:20])
        index.commit()
        index.record_failures([failure])
        index.commit()
    store_origin(path, PhotoList(place=f"/{EVIL}", photos=[]), {"backend": EVIL, EVIL: EVIL, "nested": {EVIL: [EVIL]}})
    return path


@pytest.mark.slow
def test_every_field_of_an_archive(archive: Path, tmp_path: Path, harmless: Callable[..., Any]) -> None:
    commands: list[tuple[object, ...]] = [
        *(("info", archive), ("info", archive, "--failures"), ("names", archive), ("verify", archive)),
        *(("snapshot", archive), ("remove", archive, f"gone{EVIL}"), ("compact", archive), ("repair", archive)),
        *(("info", archive, "--at", EVIL), ("snapshot", archive, EVIL), ("merge", archive, archive)),
        *(("index", tmp_path, "-o", archive, "--dry-run"), ("query", f"0{EVIL}.jpg", "--index", archive)),
    ]
    for command in commands:
        harmless(*command)
    for name in ("origin.json", "CURRENT", next(path.name for path in archive.glob("manifest-*.json"))):
        whole = (archive / name).read_text()
        parsed = json.loads(whole) if name.endswith(".json") else None
        changes = list(spoilt(parsed)) if isinstance(parsed, dict) else [f"{EVIL}{whole}", f"{whole} {EVIL}", EVIL]
        for changed in changes:
            if isinstance(changed, dict) and "checksum" in changed:
                changed = {**changed, "checksum": checksum(changed)}
            text = changed if isinstance(changed, str) else json.dumps(changed)
            (archive / name).write_bytes(text.encode())
            harmless("info", archive)
            harmless("verify", archive)
        (archive / name).write_text(whole)


@pytest.mark.parametrize("name", ["l.txt", "l.csv", "l.tsv", "l.jsonl"])
def test_every_field_of_a_list(tmp_path: Path, name: str, harmless: Callable[..., Any]) -> None:
    lines = {
        "l.txt": [f"ftp://h/{EVIL}", f"s{EVIL}://x", "", f"a\0{EVIL}"],
        "l.csv": [f"pat{EVIL}", f'path,name\n"{EVIL}/","{EVIL}/"', f'path,box\na,"{EVIL}"', f"path\nftp://{EVIL}"],
        "l.tsv": [f"path\tx0\ty0\tx1\ty1\na\t{EVIL}\t1\t2\t3".replace("\n", " ", 1), f"path\n{EVIL}\t{EVIL}"],
        "l.jsonl": [
            json.dumps(changed)
            for changed in spoilt({"path": "a.jpg", "name": "b", "box": [1, 2, 3, 4], "x0": 1, "y0": "2"})
        ],
    }
    for text in lines[name]:
        (tmp_path / name).write_text(text)
        harmless("index", tmp_path / name, "--model", "nowhere", "--dry-run")


def test_every_field_of_a_ground_truth(tmp_path: Path, harmless: Callable[..., Any]) -> None:
    truth = {
        "scenes": {"one": ["a.jpg", "b.jpg"], "two": ["c.jpg", "d.jpg"]},
        "small_scenes": {"three": ["a.jpg"]},
        "kinds": {"one": "night"},
        "junk_pairs": [["a.jpg", "c.jpg"]],
    }
    said = 0
    for name in "abc":
        (tmp_path / f"{name}.jpg").touch()
    for changed in (*spoilt(truth), [EVIL], EVIL):
        (tmp_path / "gnd.json").write_text(json.dumps(changed))
        result = harmless("eval", tmp_path)
        assert result.code != 0
        said += "FORGED" in result.err
    assert said, "fields that are named in a message"


@pytest.mark.slow
def test_the_kinds_of_a_ground_truth(tmp_path: Path, harmless: Callable[..., Any]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (4, 96, 128, 3), np.uint8)
    name = f"a{EVIL.replace(chr(0), '').replace('/', '')}.jpg"
    for file, pixels in zip((name, "b.jpg", "c.jpg", "d.jpg"), noise, strict=True):
        Image.fromarray(pixels).save(tmp_path / file, "JPEG")
    truth = {"scenes": {f"one{EVIL}": [name, "b.jpg"], "two": ["c.jpg", "d.jpg"]}, "kinds": {f"one{EVIL}": EVIL}}
    (tmp_path / "gnd.json").write_text(json.dumps(truth))
    result = harmless("eval", tmp_path, "--html", tmp_path / "page.html", "-o", tmp_path / "a.ctxindex")
    assert result.code == 0 and "FORGED" in result.out, result
    assert not _FORBIDDEN.search((tmp_path / "page.html").read_text().replace("\t", ""))


@pytest.mark.slow
def test_files_that_are_something_else(tmp_path: Path, harmless: Callable[..., Any]) -> None:
    for data in (
        pickle.dumps({EVIL: EVIL}),
        json.dumps({EVIL: EVIL}).encode(),
        EVIL.encode(),
        f"<html>{EVIL}".encode(),
    ):
        (tmp_path / f"x{EVIL.split(chr(0))[0].replace('/', '')}.pth").write_bytes(data)
        for path in tmp_path.glob("x*.pth"):
            harmless("export", path, "-o", tmp_path / "out")
            harmless("info", path)
            harmless("verify", path)
            harmless("diff", path, path)
            harmless("index", path)
            harmless("query", path, "--index", path)


def test_arguments(harmless: Callable[..., Any], tmp_path: Path) -> None:
    for command in ("export", "index", "query", "info", "verify", "remove", "snapshot", "models", "bench", EVIL):
        harmless(command, f"x{EVIL}")
        harmless(command, f"--{EVIL}")
        harmless(command, "--model", EVIL, EVIL)


def test_commands_have_one_way_to_the_terminal() -> None:
    folder = Path(ctxdeploy.cli.__file__).parent
    for path in folder.glob("*.py"):
        if path.name in ("options.py", "main.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert name not in ("click.echo", "click.secho", "print", "sys.stdout.write", "sys.stderr.write"), path
