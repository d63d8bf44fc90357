"""What tests keep for later runs is made once, and made again where it was changed."""

from collections.abc import Callable
from pathlib import Path


def test_made_once_and_again_where_a_test_has_changed_it(artefacts: Callable[..., Path], tmp_path: Path) -> None:
    made = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "file").write_text("content")

    # Of another name for each run: workers and runs share what is kept.
    name = f"probe{tmp_path.parent.name}".replace("-", "")
    first = artefacts(name, make, ["ctxdeploy/core"])
    assert artefacts(name, make, ["ctxdeploy/core"]) == first and len(made) == 1
    assert artefacts(name, make, ["ctxdeploy/cli"]) != first and len(made) == 2
    second = artefacts(name, make, ["ctxdeploy/core"])
    (second / "file").write_text("changed")
    assert (artefacts(name, make, ["ctxdeploy/core"]) / "file").read_text() == "content" and len(made) == 4
    for path in second.parent.glob(f"{name}*"):
        path.unlink() if path.is_file() else (path / "file").unlink()
    second.rmdir()
