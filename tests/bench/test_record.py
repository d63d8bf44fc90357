"""The file of a measurement: it goes on with its own windows and refuses all others."""

import json
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.bench.record import Record, differences
from ctxdeploy.core.errors import ConfigError, StorageError

CONFIGURATION: dict[str, Any] = {
    "settings": {"photos": "abc"},
    "cases": {"main": {"role": "main", "units": 1, "threads": 1}},
    "machine": {"processor": "one"},
    "software": {"environment": {"OMP_NUM_THREADS": "1"}},
}


def window(block: int, seconds: list[float]) -> dict[str, Any]:
    return {"block": block, "load_average": 0.5, "cases": {"main": {"seconds": seconds, "stages": {}}}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of an interrupted run: two windows."""
    record = Record.begin(tmp_path / "r.json", "extract", CONFIGURATION, restart=False)
    record.begin_session({"started": "now"})
    record.append(window(0, [1.0, 2.0]))
    record.append(window(0, [1.5, 2.5]))
    return record.path


def changed(name: str, key: str, value: Any) -> dict[str, Any]:
    return {**CONFIGURATION, name: {**CONFIGURATION[name], key: value}}


def test_the_same_configuration_goes_on(path: Path) -> None:
    record = Record.begin(path, "extract", CONFIGURATION, restart=False)
    assert len(record.windows) == 2
    record.append(window(1, [1.0, 2.0]))
    assert [found["block"] for found in Record.read(path).windows] == [0, 0, 1]
    assert [file.name for file in path.parent.iterdir()] == ["r.json"]


def test_of_two_processes_on_one_file_the_second_stops(path: Path) -> None:
    one, other = (Record.begin(path, "extract", CONFIGURATION, restart=False) for _ in range(2))
    one.append(window(1, [1.0, 2.0]))
    with pytest.raises(ConfigError, match="another process"):
        other.append(window(1, [3.0, 4.0]))
    one.append(window(1, [1.0, 2.0]))
    assert [found["cases"]["main"]["seconds"] for found in Record.read(path).windows[2:]] == [[1.0, 2.0]] * 2


@pytest.mark.parametrize(
    ("configuration", "said"),
    [
        (changed("settings", "photos", "def"), 'settings.photos: "abc" there, "def" here'),
        (changed("machine", "processor", "two"), "machine.processor"),
        (changed("software", "environment", {}), "software.environment.OMP_NUM_THREADS"),
        (changed("cases", "main", {"role": "main", "units": 1, "threads": 2}), "cases.main.threads: 1 there, 2 here"),
    ],
)
def test_another_configuration_is_refused(path: Path, configuration: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        Record.begin(path, "extract", configuration, restart=False)
    with pytest.raises(ConfigError, match="kind"):
        Record.begin(path, "search", CONFIGURATION, restart=False)
    assert len(Record.read(path).windows) == 2  # untouched
    assert Record.begin(path, "extract", configuration, restart=True).windows == []


def test_what_is_no_record_is_refused(path: Path, tmp_path: Path) -> None:
    whole = path.read_text()
    content = json.loads(whole)
    without, longer, negative = (json.loads(whole) for _ in range(3))
    del without["windows"][0]["cases"]["main"]
    longer["windows"][1]["cases"]["main"]["seconds"] = [1.0]
    negative["windows"][1]["cases"]["main"]["seconds"] = [1.0, -1.0]
    damaged = {
        "cannot be read": [whole[: len(whole) // 2], "", "[" * 100_000],
        "is not a result of": ["{}", "[1]", json.dumps({**content, "format": "other"})],
        "has format 2": [json.dumps({**content, "format_version": 2})],
        "is damaged": [
            json.dumps({**content, "configuration": changed("settings", "photos", "def")}),
            json.dumps({key: value for key, value in content.items() if key != "windows"}),
            *map(json.dumps, (without, longer, negative)),
        ],
    }
    for said, texts in damaged.items():
        for text in texts:
            path.write_text(text)
            with pytest.raises(ConfigError, match=said):
                Record.read(path)
    with pytest.raises(ConfigError, match="does not exist"):
        Record.read(tmp_path / "none.json")


def test_a_file_that_cannot_be_written_stays(path: Path) -> None:
    record = Record.read(path)
    record.content["strange"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        record.write()
    assert len(Record.read(path).windows) == 2
    (path.parent / "file").touch()
    with pytest.raises(StorageError, match="-o"):
        Record(path.parent / "file" / "r.json", Record.read(path).content).write()


def test_differences_are_named() -> None:
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": [1]}) == [
        "a.c: 2 there, 3 here",
        "d: null there, [1] here",
    ]
    assert differences({"a": 1}, {"a": 1}) == []
