"""What is said while the service prepares itself."""

import logging
from typing import Any

import pytest

from ctxdeploy.core import progress
from ctxdeploy.core.errors import StorageError
from ctxdeploy.index import WarmUp
from ctxdeploy.service import rehearsing
from ctxdeploy.service.readiness import Readiness


def warmed(compiled: int, *, kept: bool) -> WarmUp:
    folder = "/code" if kept else None
    return WarmUp(loops=78, compiled=compiled, read=0, seconds=24.4, processor="znver4", folder=folder, kept=kept)


class Nothing:
    """No archives."""

    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize(
    ("result", "wanted"),
    [
        (warmed(0, kept=True), []),
        (warmed(78, kept=True), ["78 search kernels were compiled in 24 s and are kept in /code"]),
        (warmed(78, kept=False), ["could not be kept, so that every start compiles them: fill a folder ahead with"]),
        (StorageError("no temporary folder can be written: name one with TMPDIR"), ["name one with TMPDIR"]),
    ],
)
def test_what_was_compiled_is_logged(
    result: Any, wanted: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def warm_up() -> WarmUp:
        if isinstance(result, StorageError):
            raise result
        return result

    monkeypatch.setattr(rehearsing, "warm_up", warm_up)
    with caplog.at_level(logging.INFO, "ctxdeploy.service"):
        rehearsing.rehearse(Nothing(), Readiness(), None)  # type: ignore[arg-type]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(wanted) and all(text in line for text, line in zip(wanted, said, strict=True))


def test_that_it_compiles_is_logged_at_once_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "_announced", set())
    monkeypatch.setattr(progress, "_speaking", None)
    rehearsing.LogDisplay()
    progress.announce("compiling the loops of the index, once: up to 20 s")
    progress.announce("compiling: fill a folder with  ctxdeploy warm-up")
    progress.announce("machine code is not read from /shared")
    assert [record.getMessage() for record in caplog.records] == [
        "compiling the loops of the index, once: up to 20 s; `ctxdeploy warm-up` does this beforehand",
        "compiling: fill a folder with  ctxdeploy warm-up",
        "machine code is not read from /shared",
    ]
