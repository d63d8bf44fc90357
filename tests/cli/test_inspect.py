"""``ctxdeploy inspect``: its folder, its page, and what it refuses."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from ctxdeploy.core.bundle import Bundle


@pytest.fixture(scope="session")
def made(bundle: Bundle, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inspection of a photo; not to be changed."""
    from ctxdeploy.cli.main import run

    folder = tmp_path_factory.mktemp("inspection") / "out"
    assert run(["inspect", str(photos / "coffee_0.jpg"), "--model", str(bundle.path), "-o", str(folder), "-q"]) == 0
    return folder


def test_folder(made: Path, bundle: Bundle, photos: Path) -> None:
    facts = json.loads((made / "inspection.json").read_text(encoding="ascii"))
    assert facts["photo"] == str(photos / "coffee_0.jpg")
    assert facts["model"]["model_id"] == bundle.model_id
    assert facts["preprocessing"]["format"] == "JPEG"
    assert facts["preprocessing"]["input_size"][0] == 256
    assert [level["scale"] for level in facts["scales"]] == [1.0, 0.707]
    assert sum(level["selected"] for level in facts["scales"]) == facts["descriptors"]
    assert sum(level["share"] for level in facts["scales"]) == pytest.approx(1.0)
    assert [line.split(":")[0] for line in facts["missing"]] == ["bandwidth and self-confidence", "edges"]
    names = {picture["file"] for picture in facts["pictures"]}
    assert names == {
        "input.png",
        *(f"{kind}{scale}.png" for kind in ("attention", "selected") for scale in ("", "-1", "-0.707")),
    }
    assert {path.name for path in made.iterdir()} == names | {"index.html", "inspection.json"}
    for picture in facts["pictures"]:
        with Pillow.open(made / picture["file"]) as image:
            assert list(image.size) == picture["size"]
            assert np.asarray(image).std(axis=(0, 1)).max() > 2


def test_page(made: Path, read_page: Callable[[Path], Any]) -> None:
    page = read_page(made / "index.html")
    links = [image.attributes["src"] for image in page.all("img")]
    assert len(links) == 7 and links == [link.attributes["href"] for link in page.all("a")]
    for image in page.all("img"):
        with Pillow.open(made / image.attributes["src"]) as picture:
            assert [int(image.attributes[side]) for side in ("width", "height")] == list(picture.size)
    assert page.one("h1").text == "coffee_0.jpg"
    missing = page.texts("p", "bad")
    assert missing[0] == "Not shown – bandwidth and self-confidence: the network has no learned smoothing."
    facts = page.facts()
    assert facts["EXIF orientation"] == "1: none"
    assert facts["box"] == "none, the whole photo"
    assert facts["centre of its cell"].endswith("in the original photo (the strongest of its scale)")
    told = json.loads((made / "inspection.json").read_text(encoding="ascii"))
    assert [row[4] for row in page.tables()[0][1:]] == [f"{level['selected']}" for level in told["scales"]]
    keys = [f"scale {level['scale']:g}: {level['selected']}" for level in told["scales"]]
    assert any(legend.texts("span") == keys for legend in page.all("div", "legend"))


def test_again(call: Callable[..., Any], bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    """Another inspection replaces the first, whose pictures are gone, and says what it did."""
    folder = tmp_path / "out"
    options = ("--model", bundle.path, "-o", folder)
    first = call(
        "inspect", photos / "coffee_0.jpg", *options, "--box", "40,30,200,180", "--at", "100,90", "--json", "-q"
    )
    assert (first.code, first.err) == (0, "")
    (facts,) = first.json
    assert facts["output"] == str(folder)
    assert facts["preprocessing"]["box"] == [40, 30, 200, 180]
    assert facts["chosen"]["asked"] == [100, 90]
    assert (folder / "whole.png").is_file()
    (folder / ".tmp-01234567-index.html").mkdir()  # of a run that was killed
    second = call("inspect", photos / "coffee_0.jpg", *options, "--scale", "0.707")
    assert second.code == 0
    assert second.err == f"wrote {folder / 'index.html'}\n"
    assert re.search(r"coffee_0\.jpg: JPEG, \d+×\d+ → 256×\d+, \d+ descriptors", second.out)
    assert "at scale 0.707" in second.out
    assert "not shown: edges: the network has no graph refinement" in second.out
    assert not (folder / "whole.png").exists()
    assert not list(folder.glob(".*"))


def test_odd_names(
    call: Callable[..., Any],
    bundle: Bundle,
    photos: Path,
    tmp_path: Path,
    monkeypatch: Any,
    read_page: Callable[[Path], Any],
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "a <b>\n\x1b[31m\u202e&.jpg"
    shutil.copy(photos / "coffee_0.jpg", tmp_path / name)
    assert call("inspect", name, "--model", bundle.path, "-q").code == 0
    page = read_page(tmp_path / f"{name}.inspection" / "index.html")
    assert page.one("h1").raw == page.one("title").raw == "a <b>\\n\\x1b[31m\\u202e&.jpg"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--at", "1"), 2, "--at '1' is not two numbers: give it as x,y"),
        (("--at", "5000,3"), 14, "5000,3 does not lie in the photo"),
        (("--scale", "0.5"), 2, "--scale 0.5 is not one of the bundle's: give 1, 0.707"),
        (("--box", "1,2,3"), 2, "box '1,2,3' is not four numbers"),
        (("--box", "0,0,9000,9"), 14, "does not lie in the photo"),
        (("--threads", "0"), 2, "--threads"),
        (("--model", "nothing.ctxbundle"), 12, "nothing.ctxbundle is not a bundle"),
    ],
)
def test_mistakes(
    call: Callable[..., Any],
    bundle: Bundle,
    photos: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    result = call("inspect", photos / "coffee_0.jpg", "--model", bundle.path, "-o", tmp_path / "out", *options)
    assert (result.code, result.out) == (code, "")
    assert words in result.err
    assert len([line for line in result.err.splitlines() if line.startswith("ctxdeploy: ")]) == 1
    assert not list(tmp_path.iterdir())


def test_photo_that_is_none(call: Callable[..., Any], bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    for name, words in (("broken.jpg", "not a photo"), ("none.jpg", "cannot be read")):
        result = call("inspect", tmp_path / name, "--model", bundle.path, "-o", tmp_path / "out")
        assert (result.code, result.err.count("\n")) == (14, 1)
        assert name in result.err and words in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["notes.txt", "index.html", "input.png"])
def test_folder_of_something_else(
    call: Callable[..., Any], bundle: Bundle, photos: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("mine")
    result = call("inspect", photos / "coffee_0.jpg", "--model", bundle.path, "-o", tmp_path)
    assert result.code == 2
    assert f"holds {name}, which  ctxdeploy inspect  did not write: choose another -o" in result.err
    assert [path.name for path in tmp_path.iterdir()] == [name]
    result = call("inspect", photos / "coffee_0.jpg", "--model", bundle.path, "-o", tmp_path / name)
    assert result.code == 2
    assert "is a file, not a folder" in result.err


def test_file_beside_an_inspection(
    call: Callable[..., Any], made: Path, bundle: Bundle, photos: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "out"))
    (folder / "selected-mine.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert call("inspect", photos / "rocket_0.jpg", "--model", bundle.path, "-o", folder).code == 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_full_disk_leaves_no_half_page(
    call: Callable[..., Any], made: Path, bundle: Bundle, photos: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "former"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write = Path.write_bytes

    def failing(path: Path, content: bytes) -> int:
        if path.name.startswith("selected"):
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", failing)
    for output in (folder, tmp_path / "new"):
        result = call("inspect", photos / "rocket_0.jpg", "--model", bundle.path, "-o", output)
        assert result.code == 18
        assert f"{output / 'index.html'} cannot be written: No space left on device" in result.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not (tmp_path / "new").exists()
