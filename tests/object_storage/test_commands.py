"""The command line on object storage: index, publish, push, fetch, query, gc, as the page says."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctxdeploy.cli.main import run
from ctxdeploy.core.samples import ViewConfig, make_view, sample_photo
from ctxdeploy.index import Index
from tests.reference.s3_proxy import SECRET, Bucket, Proxy, grow, send


@dataclass(frozen=True)
class Result:
    """What a command printed and returned."""

    code: int
    out: str
    err: str


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run ``ctxdeploy`` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Result:
        capfd.readouterr()
        code = run([os.fspath(a) if isinstance(a, Path) else str(a) for a in arguments])
        captured = capfd.readouterr()
        assert SECRET not in captured.out + captured.err
        return Result(code, captured.out, captured.err)

    return call


def test_push_fetch_and_collect(call: Callable[..., Result], bucket: Bucket, archive: Path, tmp_path: Path) -> None:
    done = call("push", archive, bucket.url)
    assert (done.code, done.out) == (0, "s3://photos/a.ctxindex: 5 photos published (6 files, 0.0 MB)\n")
    assert call("push", archive, bucket.url).out == "s3://photos/a.ctxindex: all was there already\n"
    here = tmp_path / "elsewhere"
    here.mkdir()
    os.chdir(here)
    assert call("fetch", bucket.url).out == "a.ctxindex: fetched (s3://photos/a.ctxindex)\n"
    assert call("fetch", bucket.url).out == "a.ctxindex: nothing newer is there (s3://photos/a.ctxindex)\n"
    grow(here / "a.ctxindex")
    receipt = json.loads(call("push", here / "a.ctxindex", bucket.url, "--json", "-q").out)
    assert (receipt["changed"], receipt["images"], receipt["uploaded"]) == (True, 6, 3)
    refused = call("push", archive, bucket.url)
    assert (refused.code, refused.err.count("another machine published it")) == (15, 1)
    assert json.loads(call("fetch", bucket.url, archive, "--json", "-q").out)["changed"] is True
    assert call("gc", bucket.url).out.startswith(
        "s3://photos/a.ctxindex: 0 files and 0 former states removed (0.0 MB); "
    )
    assert call("gc", bucket.url, "--grace-days", "0.5").code == 2
    names = call("names", bucket.url)
    assert names.out.split() == [f"{number}.jpg" for number in range(6)]
    assert json.loads(call("names", bucket.url, "--json").out)["archive"] == bucket.url
    assert call("names", "s3://photos/none").code == 15
    for command, text in (
        (("verify", bucket.url), f"{bucket.url} is on object storage: bring it here with  ctxdeploy fetch"),
        (("extract", here, "-o", "s3://photos/parts"), "s3://photos/parts (-o) is on object storage: give a folder"),
    ):
        refused = call(*command)
        assert refused.code == 2 and text in refused.err, refused.err
    for command in (("remove", bucket.url, "0.jpg"), ("compact", bucket.url), ("merge", bucket.url, archive)):
        refused = call(*command)
        assert (refused.code, refused.err.count("is read only here")) == (15, 1)


def test_a_store_that_fails(call: Callable[..., Result], bucket: Bucket, archive: Path, proxy: Proxy) -> None:
    send(archive, bucket.url)
    proxy.reset(lambda number, method, path: 403)
    done = call("names", bucket.url)
    assert done.code == 15
    assert done.err.startswith(
        "ctxdeploy: error: s3://photos/a.ctxindex/CURRENT cannot be read: the server answered 403"
    )
    assert call("push", archive, bucket.url).code in (15, 18)


@pytest.mark.slow
def test_index_query_and_publish(
    call: Callable[..., Result], bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: Proxy
) -> None:
    photos, random = tmp_path / "photos", np.random.default_rng(5)
    photos.mkdir()
    for scene in ("astronaut", "coffee"):
        for view in range(2):
            shown = make_view(sample_photo(scene), random, ViewConfig(longest=224))
            shown.save(photos / f"{scene}-{view}.jpg", quality=90)
    model = ("--model", "ctx-small")
    first = call("index", photos, "-o", bucket.url, *model)
    assert first.code == 0, first.err
    assert "s3://photos/a.ctxindex: 4 photos published" in first.err
    asked = call("query", photos / "coffee-0.jpg", "--index", bucket.url, "--json", "--cache-size", "2GB")
    assert asked.code == 0, asked.err
    answer: dict[str, Any] = json.loads(asked.out)
    local = json.loads(call("query", photos / "coffee-0.jpg", "--index", tmp_path / "a.ctxindex", "--json").out)
    assert answer["results"] == local["results"]
    assert answer["results"][0]["name"] == "coffee-0.jpg" and answer["archive"] == bucket.url
    facts = json.loads(call("info", bucket.url, "--json").out)
    assert (facts["images"], facts["last_run"] is not None, facts["path"]) == (4, True, bucket.url)
    # On another machine, of which one photo cannot be read.
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    (photos / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    os.replace(photos / "coffee-1.jpg", photos / "cup.jpg")  # noqa: PTH105
    second = call("index", photos, "-o", bucket.url)
    assert second.code == 19
    assert "a.ctxindex: fetched from s3://photos/a.ctxindex" in second.err
    assert "5 photos published" in second.err
    # The first one takes that in, and goes on.
    monkeypatch.chdir(tmp_path)
    parts = tmp_path / "parts"
    assert call("extract", photos, "-o", parts, *model, "-q").code == 0
    third = call("publish", bucket.url, parts)
    assert third.code in (0, 19), third.err
    assert "took in what was published" in third.err
    with Index.open(tmp_path / "a.ctxindex") as index:
        assert "cup.jpg" in index
    assert call("index", photos, "-o", bucket.url, "--dry-run").code == 0
    proxy.reset(lambda number, method, path: 500 if method == "PUT" else None)
    (photos / "new.jpg").write_bytes((photos / "cup.jpg").read_bytes())
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    failed = call("index", photos, "-o", bucket.url)
    assert failed.code == 18
    assert "cannot be written: the server answered 500" in failed.err
    proxy.reset()
    assert call("index", photos, "-o", bucket.url).code == 0
    assert "new.jpg" in call("names", bucket.url).out
