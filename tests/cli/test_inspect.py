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
from ctxdeploy.report.inspection.colours import colour_map, mark_colours
from ctxdeploy.report.inspection.drawing import Frame, Line, Ring, fitted, marked, over_photo


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


def test_page(made: Path) -> None:
    page = (made / "index.html").read_text(encoding="utf-8")
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) > 7
    assert all((made / link).is_file() for link in links)
    for words in ("coffee_0.jpg", "self-confidence: the network has no learned smoothing", "EXIF orientation"):
        assert words in page
    assert "<script" not in page and "http" not in page


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


def test_odd_names(call: Callable[..., Any], bundle: Bundle, photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    name = "a <b>\n&.jpg"
    shutil.copy(photos / "coffee_0.jpg", tmp_path / name)
    assert call("inspect", name, "--model", bundle.path, "-q").code == 0
    page = (tmp_path / f"{name}.inspection" / "index.html").read_text(encoding="utf-8")
    assert "<h1>a &lt;b&gt;\n&amp;.jpg</h1>" in page


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


def test_colour_map_is_even() -> None:
    """256 colours whose lightness (CIE L*) grows in even steps."""
    table = colour_map()
    assert table.shape == (256, 3) and len(np.unique(table, axis=0)) == 256
    share = table / 255.0
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    lightness = np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)
    steps = np.convolve(np.diff(lightness), np.ones(16) / 16, "valid")
    assert steps.min() > 0.15 and steps.max() < 0.7
    assert lightness[0] < 10 and lightness[-1] > 90


def test_colours_of_scales_differ() -> None:
    for count in (1, 2, 7, 12):
        colours = np.array(mark_colours(count), float)
        apart = np.linalg.norm(colours[:, None] - colours[None], axis=2) + np.eye(count) * 999
        assert apart.min() > 25


def test_drawing() -> None:
    """Marks lie where they are said to, cells have sharp edges."""
    photo = fitted(np.zeros((30, 60, 3), np.uint8), 200)
    assert photo.size == (200, 100)
    red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    marks = [
        Line(start=(0.1, 0.5), end=(0.4, 0.5), width=6, colour=red),
        Frame(edges=(0.5, 0.2, 0.7, 0.8), width=4, colour=green),
        Ring(centre=(0.85, 0.5), radius=0.1, width=4, colour=blue),
    ]
    pixels = np.asarray(marked(photo, marks))
    assert pixels[50, 50, 0] > 200 and pixels[40, 50, 0] < 10
    assert pixels[50, 101, 1] > 200 and pixels[50, 120, 1] < 10
    assert pixels[50, 151, 2] > 200 and pixels[50, 170, 2] < 10
    shares = np.array([[0.0, 1.0], [1.0, 0.0]])
    cells = np.asarray(over_photo(shares, photo)).astype(int).sum(axis=2)
    assert cells[25, 99] < cells[25, 100] and cells[75, 99] > cells[75, 100]
    assert len(np.unique(cells)) == 2
