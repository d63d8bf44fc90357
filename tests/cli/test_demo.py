"""The demo as ``make demo`` runs it, and what it must not do to a folder that is not its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ctxdeploy.demo.run import MARKER
from ctxdeploy.models import DEFAULT

# As where the extra `export` is not installed.
_WITHOUT_PYTORCH = """
import sys
sys.modules.update(dict.fromkeys(("torch", "onnxscript", "onnx_ir", "matplotlib")))
from ctxdeploy.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_demo_finds_the_right_photos_without_pytorch_and_can_be_run_again(call, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    (folder / "photos.ctxindex").mkdir(parents=True)  # as an earlier run that was killed leaves it
    (folder / "photos.ctxindex" / "half").write_text("of a file")
    (folder / MARKER).touch()
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_PYTORCH, "demo", "-o", str(folder), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["queries"] == 15 and found["model"] == DEFAULT
    # By chance one of fifteen would be right. The views are easy: any trained network finds nearly all.
    assert found["first_right"] >= 14
    assert found["wanted"] == 60
    assert found["right"] >= 52
    page = Path(found["page"]).read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 15 * 9
    assert f"{DEFAULT}; {found['first_right']} of 15 queries" in page and "untrained" not in page
    assert call("verify", found["archive"]).code == 0
    info = call("info", found["archive"], "--json").json[0]
    assert info["model"]["source"]["file"] == f"{DEFAULT}.pth" and info["images"] == 60


def test_demo_leaves_the_folders_of_others_alone(call, tmp_path: Path) -> None:
    (tmp_path / "photos.ctxindex").mkdir()
    (tmp_path / "photos.ctxindex" / "mine").write_text("years of work")
    result = call("demo", "-o", tmp_path)
    assert result.code == 18
    assert "choose a new folder with -o" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["photos.ctxindex"]
    assert (tmp_path / "photos.ctxindex" / "mine").exists()
