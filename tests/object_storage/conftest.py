"""An S3 server, one in front of it that fails as it is told, and small archives to publish."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy.index import Codebook, Index
from ctxdeploy.object_storage import mirror
from tests.reference.s3_proxy import DIM, SECRET, Bucket, Proxy, at, grow

for _package in ("fsspec", "s3fs", "boto3", "moto.server"):
    pytest.importorskip(_package, reason="the extras remote and test are not installed")


@pytest.fixture(scope="session")
def moto() -> Iterator[int]:
    """Start moto's server; give its port."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    yield running.get_host_and_port()[1]
    running.stop()


@pytest.fixture(scope="session")
def raw(moto: int) -> Any:
    """Return what asks the server itself: to connect takes half a second, here and in ``running``."""
    import boto3

    session = boto3.session.Session("testing", SECRET, region_name="us-east-1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        return session.resource("s3", endpoint_url=f"http://127.0.0.1:{moto}")


@pytest.fixture(scope="session")
def running(moto: int) -> Iterator[Proxy]:
    """Start the server that S3 is asked through: one for all tests, so that they connect once."""
    with Proxy(moto) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        at.cache_clear()
        running.closing.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def proxy(running: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Proxy]:
    """Give the server that S3 is asked through, by the environment; and a cache of this test alone."""
    for name, value in {
        "NO_PROXY": "127.0.0.1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_ENDPOINT_URL": running.url,
        "CTXDEPLOY_ARCHIVE_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CTXDEPLOY_CACHE_SIZE", raising=False)
    monkeypatch.setattr(mirror, "open_objects", at)
    running.reset()
    mirror._objects.cache_clear()
    yield running
    mirror._objects.cache_clear()
    running.reset()


@pytest.fixture
def bucket(raw: Any, proxy: Proxy) -> Iterator[Bucket]:
    made = raw.create_bucket(Bucket="photos")
    yield Bucket(raw=made, url="s3://photos/a.ctxindex")
    made.objects.all().delete()
    made.delete()


@pytest.fixture(scope="session")
def codebook() -> Codebook:
    return Codebook.train(np.random.default_rng(1).normal(size=(400, DIM)).astype(np.float32), words=8)


@pytest.fixture
def archive(tmp_path: Path, codebook: Codebook) -> Path:
    """Make an archive of five photos in state 1, with what stands for a model."""
    folder = tmp_path / "a.ctxindex"
    Index.create(folder, codebook).close()
    (folder / "model").mkdir()
    (folder / "model" / "bundle.json").write_text(json.dumps({"format": "a bundle"}))
    (folder / "model" / "model.onnx").write_bytes(bytes(range(256)) * 40)
    grow(folder, 5)
    return folder
