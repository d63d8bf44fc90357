"""The tables of docs/pairs.md are what the stored results say."""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def rows(first: str) -> dict[str, list[str]]:
    """Return the rows of the table of docs/pairs.md that has such a column, by their first cells."""
    lines = (ROOT / "docs" / "pairs.md").read_text(encoding="utf-8").splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("|") and first in line)
    found = {}
    for line in lines[begin + 2 :]:
        if not line.startswith("|"):
            break
        label, *cells = (cell.strip().replace("`", "") for cell in line.strip("|").split("|"))
        found[label] = cells
    return found


def results(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def test_duplicates() -> None:
    stored = results("duplicates")["results"]
    kinds = ("half", "r75q70", "q40", "bright", "crop4", "crop10")
    assert rows("half size") == {
        rule: [*(f"{100 * of['found'][kind]:.0f} %" for kind in kinds), str(of["frames_of_one_scene"])]
        for rule, of in stored.items()
    }
    assert not any(of["other_photos"] or of["other_scenes"] for of in stored.values())
    assert re.search(r"\b80 planted", (ROOT / "docs" / "pairs.md").read_text(encoding="utf-8"))


def test_pairs() -> None:
    stored = results("pairs")
    assert rows("recall | least") == {
        label: [str(of["pairs"]), *(f"{of[what]:.3f}" for what in ("recall", "least_recall", "useless"))]
        for label, of in stored["pairs"].items()
    }
    text = (ROOT / "docs" / "pairs.md").read_text(encoding="utf-8")
    assert f"most photos ({sum(stored['scenes'].values())}) among all its {stored['photos']}" in text
    whole = stored["registered"].pop("all pairs")
    assert {scene: of["registered"] for scene, of in whole.items()} == stored["scenes"]
    lost = {scene for models in stored["registered"].values() for scene, of in models.items() if of["missing"]}
    assert lost <= {"office_desk"} and "but for two photos of `office_desk`, which chance decides" in text
    assert max(len(of["missing"]) for models in stored["registered"].values() for of in models.values()) <= 2
