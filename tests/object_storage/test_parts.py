"""Servers of shards and their front on object storage: each fetches what it opens, and no more."""

from pathlib import Path

import pytest

from ctxdeploy.archive import archive_folder
from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.part import Part
from ctxdeploy.index import Index
from ctxdeploy.object_storage.config import CacheConfig
from ctxdeploy.sharding import ShardedIndex, Shards, ShardServer
from tests.reference.s3_proxy import Bucket, Proxy, grow, send, vectors


class InProcess:
    """A transport to a server of this process."""

    def __init__(self, server: ShardServer) -> None:
        self.server, self.part = server, server.part

    def ask(self, request: bytes, *, deadline: Deadline) -> bytes:
        return self.server.answer(request, deadline=deadline)


@pytest.fixture
def many(archive: Path) -> Path:
    """Make an archive of four shards."""
    for _ in range(3):
        grow(archive, 3)
    return archive


def stems(archive: Path, part: Part | None = None) -> set[str]:
    with Index.open(archive) as index:
        shards = index.state.manifest.shards
        return {entry.sha256 for entry in (shards if part is None else part.each_of(shards))}


def fetched(proxy: Proxy) -> set[str]:
    return {path.rpartition("/")[2] for method, path in proxy.requests if method == "GET" and "/files/" in path}


def test_each_fetches_what_it_opens(bucket: Bucket, many: Path, proxy: Proxy, tmp_path: Path) -> None:
    send(many, bucket.url)
    folders = [archive_folder(bucket.url, cache=CacheConfig(folder=tmp_path / f"machine-{n}")) for n in range(3)]
    servers = []
    for number, folder in enumerate(folders[:2], 1):
        part = Part(number=number, count=2)
        proxy.reset()
        servers.append(ShardServer(folder, part, threads=1))
        own, names = stems(many, part), {path.stem for path in (many / "names").iterdir()}
        assert fetched(proxy) & stems(many) == own
        assert not fetched(proxy) & names
    transports = [InProcess(server) for server in servers]
    proxy.reset()
    front = ShardedIndex.open(folders[2], Shards(transports, patience=60.0))
    assert fetched(proxy) and not fetched(proxy) & stems(many)
    with Index.open(many) as here:
        asked = vectors("2")
        assert front.search_batch([asked], top=20) == here.search_batch([asked], top=20)
        assert len(front) == len(here) == 14
    for server in servers:
        server.close()


def test_a_server_moves_on(bucket: Bucket, many: Path, proxy: Proxy) -> None:
    send(many, bucket.url)
    part = Part(number=1, count=2)
    server = ShardServer(archive_folder(bucket.url), part, threads=1)
    proxy.reset()
    assert not server.refresh()
    assert [method for method, _ in proxy.requests] == ["HEAD"]
    grow(many)
    send(many, bucket.url)
    assert server.refresh()
    assert [state.number for state in server.states] == [4, 5]
    assert server.photos == 5 + 3 + 1
    server.close()
