"""Small archives of many shards, and the servers of their parts in this process."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ctxdeploy.core.deadline import Deadline
from ctxdeploy.core.part import Part
from ctxdeploy.core.types import GlobalDescriptor, LocalDescriptors, PhotoDescriptors
from ctxdeploy.index import Codebook, GlobalQuantiser, Index, IndexConfig
from ctxdeploy.sharding import Shards, ShardServer

DIM, WORDS, GLOBAL_DIM, COUNT = 40, 24, 16, 46
Rows = NDArray[np.float32]


class InProcess:
    """A transport to a server of this process, which can be made to fail.

    Attributes:
        asked: kinds and bytes of requests, in order.
        before: called before each request; may raise, or wait.
        after: called with each reply; returns what comes instead.
    """

    def __init__(self, server: ShardServer) -> None:
        self.server, self.part = server, server.part
        self.asked: list[int] = []
        self.before: Callable[[Deadline], None] = lambda deadline: None
        self.after: Callable[[bytes], bytes] = lambda reply: reply

    def ask(self, request: bytes, *, deadline: Deadline) -> bytes:
        self.asked.append(len(request))
        self.before(deadline)
        return self.after(self.server.answer(request, deadline=deadline))


Made = tuple[Shards, list[InProcess]]


@pytest.fixture
def serve() -> Iterator[Callable[..., Made]]:
    """Return a function of (path, parts) that makes servers of all parts of an archive, and what asks them."""
    closing: list[Any] = []

    def start(path: Path, parts: int, patience: float = 60.0) -> Made:
        servers = [ShardServer(path, Part(number=number, count=parts), threads=1) for number in range(1, parts + 1)]
        transports = [InProcess(server) for server in servers]
        shards = Shards(transports, patience=patience)
        closing.extend([shards, *servers])
        return shards, transports

    yield start
    for one in closing:
        one.close()


def scenes(count: int, dim: int = DIM, seed: int = 1) -> list[Rows]:
    """Return descriptors of photos; three of a scene share most of them. The fifth photo has none."""
    random = np.random.default_rng(seed)
    shared = random.normal(size=(-(-count // 3), 18, dim))
    photos = []
    for number in range(count):
        own = random.normal(size=(4 + number % 3 * 4, dim))
        rows = np.concatenate([shared[number // 3, number % 3 :], own])
        photos.append((rows + 0.2 * random.normal(size=rows.shape)).astype(np.float32)[: 0 if number == 4 else None])
    return photos


def photo(name: str, rows: Rows, seed: int, config: IndexConfig) -> PhotoDescriptors:
    """Return a photo as an extractor gives it."""
    random = np.random.default_rng(seed)
    vector = random.normal(size=GLOBAL_DIM)
    vector = (vector / np.linalg.norm(vector)).astype(np.float32)
    descriptors = LocalDescriptors(
        vectors=rows,
        positions=random.uniform(0, 600, (len(rows), 2)).astype(np.float32),
        scales=np.ones(len(rows), np.float32),
    )
    return PhotoDescriptors(
        name=name,
        descriptors=descriptors,
        size=(640, 480 + seed),
        global_descriptor=GlobalDescriptor(vector=vector) if config.keeps_global else None,
    )


def write(path: Path, config: IndexConfig, codebook: Codebook | None, quantiser: GlobalQuantiser | None = None) -> Path:
    """Make an archive: equal photos in different shards, removed ones, names of other bytes, two commits."""
    photos = scenes(COUNT)
    photos[31] = photos[2]
    names = [f"a/{number:03d}.jpg" if number % 4 else f"b/é{number:03d}\udce9.jpg" for number in range(COUNT)]
    with Index.create(path, codebook, config=config, quantiser=quantiser) as index:
        for number, (name, rows) in enumerate(zip(names, photos, strict=True)):
            index.add_many([photo(name, rows, 2 if number == 31 else number, config)])
            if number == 20:
                index.commit()
        index.remove([names[7], names[8], names[40]])
    return path


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Archives of all kinds, of 6 to 16 shards; not to be changed."""
    root = tmp_path_factory.mktemp("shards")
    codebook = Codebook.from_centroids(np.random.default_rng(7).normal(size=(WORDS, DIM)).astype(np.float32))
    kept = {"global_vectors": "fp32", "global_dim": GLOBAL_DIM}
    clustered = np.random.default_rng(3).normal(size=(400, GLOBAL_DIM))
    clustered = (clustered / np.linalg.norm(clustered, axis=1, keepdims=True)).astype(np.float32)
    cells: dict[str, Any] = {"global_vectors": "pq", "global_dim": GLOBAL_DIM, "global_search": "ivf"}
    configs = {
        "descriptors": IndexConfig(geometry="descriptors", shard_images=4, **kept),
        "idf": IndexConfig(geometry="codes", idf=True, shard_images=7),
        "floats": IndexConfig(binary=False, geometry="positions", shard_images=5),
        "regional": IndexConfig(aggregation="regional", query_assignment=3, shard_images=3),
        "cells": IndexConfig(shard_images=6, **cells),
        "alone": IndexConfig(shard_images=5, **(kept | {"global_vectors": "int8"})),
    }
    quantiser = GlobalQuantiser.train(clustered, configs["cells"], cells=8)
    return {
        name: write(root / name, config, None if name == "alone" else codebook, quantiser if name == "cells" else None)
        for name, config in configs.items()
    }
