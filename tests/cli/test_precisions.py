"""Photos of several precisions in one archive: what goes together, and what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ctxdeploy.archive import check_precision, extraction_of, store_origin
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import MismatchError
from ctxdeploy.photo_index import PhotoIndex
from ctxdeploy.runtime.sources import list_photos


def described_in(archive: Path, folder: Path, precision: str) -> None:
    """Let an archive say that its photos were described in a precision; those of the tests' model are fp32."""
    store_origin(archive, list_photos(str(folder)), {"backend": "openvino", "precision": precision})


def with_precisions(bundle: Bundle, **cosines: float | None) -> Bundle:
    """Return the bundle with artefacts of further precisions, of which that mean cosine is known."""
    first = bundle.artefacts[0]
    more = [
        replace(first, precision=precision, parity={} if cosine is None else {**first.parity, "cosine_mean": cosine})
        for precision, cosine in cosines.items()
    ]
    return replace(bundle, artefacts=(*bundle.artefacts, *more))


def test_what_is_near_goes_together(folder: Path, indexed: Path, bundle: Bundle) -> None:
    model = with_precisions(bundle, bf16=0.9999, int8=0.9991, fp16=0.9989, tf32=None)
    for former, now, fits in (
        ("fp32", "fp32", True),
        ("fp32", "bf16", True),
        ("int8", "fp32", True),
        ("bf16", "int8", True),
        ("fp16", "fp16", True),
        ("fp32", "fp16", False),
        ("fp16", "int8", False),
        ("fp32", "tf32", False),
        ("absent", "fp32", False),
    ):
        described_in(indexed, folder, former)
        if not fits:
            with pytest.raises(MismatchError, match=rf"made in {former}; .* in {now} would not rank"):
                check_precision(indexed, model, now)
        elif former == now:
            assert check_precision(indexed, model, now) is None
        else:
            assert f"described in {former} before, now in {now}" in str(check_precision(indexed, model, now))
    (indexed / "origin.json").unlink()
    assert check_precision(indexed, model, "int8") is None, "nobody knows"


def test_indexing_merging_and_dry_runs_are_refused_alike(
    call: Any, folder: Path, indexed: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(indexed, tmp_path / "other.ctxindex"))
    described_in(indexed, folder, "fp32")
    described_in(other, folder, "int8")
    shutil.copy(folder / "coins_0.jpg", folder / "new.jpg")
    for options in (["--dry-run"], []):
        result = call("index", folder, "-o", other, *options)
        assert result.code == 16
        assert "would not rank with its own (how near int8 is to the network was not measured)" in result.err
        assert "give --precision int8, or another archive with -o" in result.err
    with PhotoIndex.open(other, writable=True) as index, pytest.raises(MismatchError, match="would not rank"):
        index.add([("x", folder / "coins_0.jpg")])
    assert call("names", other).out.count("\n") == 18 and call("verify", other).code == 0
    assert extraction_of(other) == {"backend": "openvino", "precision": "int8"}
    result = call("merge", indexed, other, "--conflicts", "keep")
    assert result.code == 16 and f"descriptors in int8 of {other} would not rank with its own" in result.err
    (other / "origin.json").unlink()
    assert call("merge", indexed, other, "--conflicts", "keep").code == 0


def test_a_run_that_adds_nothing_does_not_say_that_it_made_the_photos(call: Any, folder: Path, indexed: Path) -> None:
    made = {"backend": "another", "precision": "fp32"}
    store_origin(indexed, list_photos(str(folder)), made)
    assert call("index", folder, "-o", indexed).code == 0 and extraction_of(indexed) == made
    shutil.copy(folder / "coins_0.jpg", folder / "new.jpg")
    assert call("index", folder, "-o", indexed).code == 0 and extraction_of(indexed) != made
