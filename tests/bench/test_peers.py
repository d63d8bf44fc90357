"""asmk is measured with the loops of OpenBLAS that are fastest on this processor."""

import os

import pytest

from ctxdeploy.bench import peers


@pytest.mark.parametrize(
    ("processor", "flags", "given", "core"),
    [
        ("AMD EPYC 9B45", ["avx2", "avx512f"], None, "SkylakeX"),
        ("AMD EPYC 9B45", ["avx2", "avx512f"], "Haswell", "Haswell"),
        ("AMD EPYC 7B13", ["avx2"], None, None),
        ("Intel(R) Xeon(R) 6980P", ["avx2", "avx512f"], None, None),
    ],
)
def test_the_peer_gets_the_fastest_loops(
    processor: str, flags: list[str], given: str | None, core: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "machine", lambda: {"processor": processor, "vector_flags": flags})
    monkeypatch.setenv("OPENBLAS_CORETYPE", given or "")  # so that it is put back
    if given is None:
        monkeypatch.delenv("OPENBLAS_CORETYPE")
    assert peers.choose_openblas() == core == os.environ.get("OPENBLAS_CORETYPE")


def test_the_loops_are_chosen_before_anything_is_loaded_that_loads_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "machine", lambda: {"processor": "AMD EPYC", "vector_flags": ["avx512f"]})
    monkeypatch.setenv("OPENBLAS_CORETYPE", "")
    monkeypatch.delenv("OPENBLAS_CORETYPE")

    def load(module: str, extra: str) -> None:
        raise LookupError(f"{module} with {os.environ.get('OPENBLAS_CORETYPE')}")

    monkeypatch.setattr(peers, "require", load)
    with pytest.raises(LookupError, match="with SkylakeX"):
        peers.AsmkSubject({})
