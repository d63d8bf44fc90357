"""``ctxdeploy warm-up``: what it says, and its exit code."""

import json
from typing import Any

import pytest

from ctxdeploy.cli.main import run
from ctxdeploy.core.errors import StorageError
from ctxdeploy.index import WarmUp, rehearsal


def report(folder: str | None, *, kept: bool) -> WarmUp:
    """Return what warming up found."""
    return WarmUp(loops=3, compiled=4, read=2, seconds=1.25, processor="znver4", folder=folder, kept=kept)


@pytest.mark.parametrize(
    ("found", "code", "problem"),
    [
        (report("/opt/code", kept=True), 0, ""),
        (report(None, kept=False), StorageError.exit_code, "no folder to keep machine code in can be written"),
        (report("/opt/code", kept=False), StorageError.exit_code, "machine code could not be kept in /opt/code"),
    ],
)
def test_it_fails_where_nothing_is_kept(
    found: WarmUp, code: int, problem: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(rehearsal, "warm_up", lambda: found)
    assert run(["warm-up"]) == code
    said = capsys.readouterr()
    assert said.out.startswith("4 compiled and 2 read, of 3 loops for znver4, in 1.2 s; kept in ")
    assert problem in said.err and bool(said.err) == bool(code)
    assert not code or "CTXDEPLOY_CACHE" in said.err
    assert run(["warm-up", "--json"]) == code
    assert json.loads(capsys.readouterr().out) == found.metadata()
