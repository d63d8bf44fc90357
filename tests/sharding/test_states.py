"""States: every request names one, servers keep former ones for a while, and a front moves on when all can."""

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy.core.errors import ArchiveError, ShardError, StaleStateError
from ctxdeploy.core.part import Part
from ctxdeploy.index import Index, IndexConfig, IndexPart
from ctxdeploy.sharding import ShardedIndex, ShardServer, opening
from ctxdeploy.sharding import server as servers
from ctxdeploy.shared_state import SharedState

ROWS = np.random.default_rng(2).normal(size=(50, 40)).astype(np.float32)


@pytest.fixture
def archive(archives: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(archives["idf"], tmp_path / "archive"))


def remove(path: Path, count: int = 1) -> None:
    with Index.open(path, writable=True) as index:
        index.remove(list(index.names())[:count])


def test_a_former_state_is_answered_from_after_a_commit(archive: Path, serve: Callable[..., Any]) -> None:
    shards, transports = serve(archive, 3)
    with Index.open(archive) as one:
        former = ShardedIndex.open(archive, shards)
        wanted = one.search(ROWS, 60)
        remove(archive, 5)
        assert all(transport.server.refresh() for transport in transports)
        assert not any(transport.server.refresh() for transport in transports)
        assert former.search_batch([ROWS], 60)[0] == wanted
    newer = ShardedIndex.open(archive, shards)
    with Index.open(archive) as one:
        assert newer.search_batch([ROWS], 60)[0] == one.search(ROWS, 60) != wanted
    former.close()
    newer.close()


def test_a_request_for_a_newer_state_has_it_opened(archive: Path, serve: Callable[..., Any]) -> None:
    shards, transports = serve(archive, 2)
    remove(archive)
    index = ShardedIndex.open(archive, shards)
    with Index.open(archive) as one:
        assert index.search_batch([ROWS], 60)[0] == one.search(ROWS, 60)
    assert all(len(transport.server.states) == 2 for transport in transports)
    index.close()


def test_states_are_kept_in_bounded_number_and_for_a_bounded_time(
    archive: Path, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, transports = serve(archive, 2)
    server = transports[0].server
    first = ShardedIndex.open(archive, shards)
    for _ in range(servers.KEPT_STATES - 1):
        remove(archive)
        server.refresh()
    assert len(server.states) == servers.KEPT_STATES
    first.search_batch([ROWS], 3)
    remove(archive)
    server.refresh()
    assert len(server.states) == servers.KEPT_STATES
    query = first.for_query()
    query.search_batch([ROWS], 3)
    assert query.missing == (Part(number=1, count=2),)
    monkeypatch.setattr(servers, "KEPT_SECONDS", -1.0)
    server.refresh()
    assert len(server.states) == 1
    first.close()


def test_a_state_that_is_being_read_is_not_closed(archive: Path, serve: Callable[..., Any]) -> None:
    _, (transport,) = serve(archive, 1)
    server = transport.server
    (key,) = server.states
    with server._reading(key):
        for _ in range(servers.KEPT_STATES + 2):
            remove(archive)
            server.refresh()
        assert key in server.states
    remove(archive)
    server.refresh()
    assert key not in server.states
    with pytest.raises(StaleStateError, match="does not hold the state 2, but") as error, server._reading(key):
        pass
    assert error.value.held == tuple(state.number for state in server.states)


def test_a_front_moves_on_when_every_part_that_is_reached_holds_the_state(
    archive: Path, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, transports = serve(archive, 2)
    state = SharedState(archive, None, opening(shards))
    with state.reading() as index:
        number = index.manifest.number
    remove(archive)
    refresh = ShardServer.refresh
    monkeypatch.setattr(ShardServer, "refresh", lambda self: self is transports[0].server and refresh(self))
    assert not state.refresh()
    with state.reading() as index:
        assert index.manifest.number == number
        assert index.for_query().search_batch([ROWS], 3)

    def gone(deadline: object) -> None:
        raise ShardError("gone")

    transports[1].before = gone  # who is not reached keeps nobody
    assert state.refresh()
    with state.reading() as index:
        assert index.manifest.number == number + 1
        query = index.for_query()
        query.search_batch([ROWS], 3)
        assert query.missing == (Part(number=2, count=2),)
    transports[0].before = gone
    remove(archive)
    assert not state.refresh()
    state.close()


def test_a_part_needs_no_files_of_other_shards(archive: Path, tmp_path: Path, serve: Callable[..., Any]) -> None:
    with Index.open(archive) as one:
        entries, wanted = one.manifest.shards, one.search(ROWS, 60, expand=3)
    shards_of = {}
    for number in (1, 2, 3):
        part = Part(number=number, count=3)
        folder = tmp_path / f"part-{number}"
        shutil.copytree(archive, folder)
        for place, entry in enumerate(entries):
            if place % 3 != number - 1:
                for file in entry.files:
                    (folder / file.file).unlink()
            (folder / entry.names.file).unlink(missing_ok=True)  # type: ignore[union-attr]
        shards_of[number] = folder
        with IndexPart.open(folder, part) as index:
            assert index.photos == sum(entry.live for entry in part.each_of(entries))
            assert len(index) == len(list(index.names())) + sum(
                entry.live for place, entry in enumerate(entries) if place % 3 != number - 1
            )
    shards, transports = serve(archive, 3)
    for transport in transports:
        transport.server.close()
        transport.server = ShardServer(shards_of[transport.part.number], transport.part)
    for entry in entries:  # nor does the front
        for file in entry.files:
            (archive / file.file).unlink()
    front = ShardedIndex.open(archive, shards)
    assert front.search_batch([ROWS], 60, expand=3)[0] == wanted
    front.close()
    for transport in transports:
        transport.server.close()
    with pytest.raises(ArchiveError, match="is missing"):
        Index.open(archive)


@pytest.mark.parametrize("idf", [True, False])
def test_an_empty_archive_is_searched_and_grows(
    archives: dict[str, Path], tmp_path: Path, serve: Callable[..., Any], idf: bool
) -> None:
    path = tmp_path / "empty"
    with Index.open(archives["idf"]) as other:
        Index.create(path, other.codebook, config=IndexConfig(idf=idf)).close()
    shards, transports = serve(path, 2)
    for transport in transports:
        transport.server.prepare()
    index = ShardedIndex.open(path, shards)
    index.prepare()
    for asked in (None, True, False):
        assert index.search_batch([ROWS], 5, expand=3, idf=asked) == [[]]
    assert (list(index.names()), len(index), len(index.subset(prefixes=["a"]))) == ([], 0, 0)
    index.close()
    with Index.open(path, writable=True) as writer:
        writer.add("a", ROWS)
        writer.add("b", ROWS[:9] + np.float32(1))
    with Index.open(path) as one, closing(ShardedIndex.open(path, shards)) as index:
        assert index.search_batch([ROWS], 5) == one.search_batch([ROWS], 5) != [[]]


def test_a_closed_server_says_so(archive: Path) -> None:
    server = ShardServer(archive, Part(number=1, count=2))
    server.close()
    with pytest.raises(ArchiveError, match="is closed"):
        server.refresh()
    with pytest.raises(ArchiveError, match="is closed"):
        server.prepare()


def test_more_parts_than_shards(archive: Path, serve: Callable[..., Any]) -> None:
    shards, transports = serve(archive, 12)
    assert [transport.server.photos for transport in transports][7:] == [0] * 5
    index = ShardedIndex.open(archive, shards)
    with Index.open(archive) as one:
        assert index.search_batch([ROWS], 60, expand=3)[0] == one.search(ROWS, 60, expand=3)
    index.close()
