"""The demo as ``make demo`` runs it, and what it must not do to a folder that is not its own."""

from pathlib import Path

import pytest

from ctxdeploy.demo.run import MARKER


@pytest.mark.slow
def test_demo_finds_more_than_chance_and_can_be_run_again(call, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    for left in ("untrained.ctxbundle", "photos.ctxindex"):  # as an earlier run that was killed leaves it
        (folder / left).mkdir(parents=True)
        (folder / left / "half").write_text("of a file")
    (folder / MARKER).touch()
    result = call("demo", "-o", folder, "--json")
    assert result.code == 0, result.err
    found = result.json[0]
    assert found["queries"] == 15
    # By chance one of fifteen would be right.
    assert found["first_right"] >= 8
    assert found["wanted"] == 60
    assert found["right"] >= 20
    page = Path(found["page"]).read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 15 * 9
    assert call("verify", found["archive"]).code == 0
    assert call("verify", found["bundle"]).code == 0
    assert "UNTRAINED" in result.err


def test_demo_leaves_the_folders_of_others_alone(call, tmp_path: Path) -> None:
    (tmp_path / "photos.ctxindex").mkdir()
    (tmp_path / "photos.ctxindex" / "mine").write_text("years of work")
    result = call("demo", "-o", tmp_path)
    assert result.code == 18
    assert "choose a new folder with -o" in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["photos.ctxindex"]
    assert (tmp_path / "photos.ctxindex" / "mine").exists()
