"""Warming up: nothing is left to compile, in this process and in the next."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.core.errors import StorageError
from ctxdeploy.index import rehearsal, warm_up


@pytest.mark.long  # tests/cli/test_read_only.py compiles them all as well
@pytest.mark.slow
def test_every_loop_is_compiled_once_and_kept_for_the_next_process(
    run_child: Callable[..., Any], tmp_path: Path
) -> None:
    environment = {"CTXDEPLOY_CACHE": str(tmp_path / "kept")}
    found = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        found.append(run_child("warmed", tmp_path / name, environment=environment))
    first, second = found
    assert first["uncalled"] == []
    assert first["report"]["compiled"] >= first["report"]["loops"] > 50
    assert first["before"] and second["before"] == []
    assert first["again"] == second["again"] == []
    assert second["report"]["compiled"] == 0 and second["report"]["read"] > 30
    assert first["report"]["folder"] == second["report"]["folder"] == str(tmp_path / "kept")
    assert first["report"]["kept"] and second["report"]["kept"]


def test_no_temporary_folder_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal.os, "access", lambda path, mode: False)
    monkeypatch.setattr(rehearsal.tempfile, "tempdir", "/proc/nothing")
    with pytest.raises(StorageError, match="name one with TMPDIR"):
        warm_up()
