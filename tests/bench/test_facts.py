"""What is counted and read beside the times: operations, energy, synthetic archives."""

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ctxdeploy.bench import peers
from ctxdeploy.bench.cases import label_of_against, parse_against
from ctxdeploy.bench.inputs import SKEW, build_archive, draw_queries
from ctxdeploy.bench.machine import Energy, machine, peak_memory, software
from ctxdeploy.bench.results import drift_of
from ctxdeploy.bench.roofline import _of_event
from ctxdeploy.bench.statistics import percentiles
from ctxdeploy.core import bundle as bundles
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.progress import Display
from ctxdeploy.index import Index


@pytest.mark.parametrize(
    ("kind", "inputs", "output", "operations"),
    [  # a multiply-add for each output and each of its inputs, two operations each
        ("Conv", [[2, 8, 9, 7], [6, 4, 3, 3]], [2, 6, 7, 5], 2 * (2 * 6 * 7 * 5) * (4 * 9)),  # two groups
        ("ConvTranspose", [[1, 8, 5, 5], [8, 3, 2, 2]], [1, 3, 6, 6], 2 * (8 * 5 * 5) * (3 * 4)),
        ("MatMul", [[3, 4, 5], [3, 5, 6]], [3, 4, 6], 2 * 3 * 4 * 5 * 6),
        ("MatMul", [[2, 3, 4, 5], [5, 6]], [2, 3, 4, 6], 2 * 2 * 3 * 4 * 5 * 6),
        ("Gemm", [[5, 4], [5, 6], [6]], [4, 6], 2 * 4 * 5 * 6),  # the first transposed
    ],
)
def test_operations_of_nodes(kind: str, inputs: list[list[int]], output: list[int], operations: int) -> None:
    event = {
        "op_name": kind,
        "input_type_shape": [{"float": shape} for shape in inputs],
        "output_type_shape": [{"float": output}],
    }
    assert _of_event(event) == operations


def test_operations_of_a_graph_whose_sizes_are_computed_in_it(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper, save

    from ctxdeploy.bench.roofline import count_operations

    node, value = helper.make_node, helper.make_tensor_value_info
    nodes = [
        node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
        node("Transpose", ["real"], ["planes"], perm=[0, 3, 1, 2]),
        node("Shape", ["planes"], ["size"], start=2),
        node("Div", ["size", "two"], ["half"]),
        node("Concat", ["lead", "half"], ["sizes"], axis=0),
        node("Resize", ["planes", "", "", "sizes"], ["small"], mode="linear"),
        node("Conv", ["small", "weights"], ["found"], pads=[1] * 4),
        node("Relu", ["found"], ["y"]),
    ]
    constants = {
        "two": np.array([2], np.int64),
        "lead": np.array([1, 3], np.int64),
        "weights": np.zeros((5, 3, 3, 3), np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "half",
        [value("image", TensorProto.UINT8, ["B", "H", "W", 3])],
        [value("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m.onnx")
    artefact = bundles.Artefact(
        file="m.onnx", sha256="", bytes=0, format="onnx", precision="fp32", target="onnxruntime"
    )
    bundle = bundles.Bundle(
        path=tmp_path,
        network={},
        source={},
        preprocessing=bundles.Preprocessing(),
        extraction=bundles.Extraction(),
        shapes=bundles.ShapeRange(),
        artefacts=(artefact,),
    )
    found = count_operations(bundle, [(21, 40), (8, 8), (21, 40)])
    assert found == {(21, 40): 2.0 * 10 * 20 * 5 * 27, (8, 8): 2.0 * 4 * 4 * 5 * 27}


def test_synthetic_archives_have_the_word_statistics_of_photos(tmp_path: Path) -> None:
    display = Display(quiet=True)
    names = build_archive(tmp_path / "a", [300, 2000], 200, 2048, 3, display)
    with Index.open(tmp_path / "a") as index, Index.open(tmp_path / "a", at=names[0]) as small:
        assert (len(small), len(index), names) == (300, 2000, ["photos-300", "photos-2000"])
        info = index.info()
        assert 75 < info["words_per_image"] < 81  # 0.405 of 200, some drawn twice
        shards = index._snapshot.shards
        counts = sum(np.diff(shard.word_offsets).astype(float) for shard in shards)
        assert abs(len(counts) * (counts**2).sum() / counts.sum() ** 2 - SKEW) < 0.5
        bits = np.unpackbits(np.ascontiguousarray(shards[1].codes).view(np.uint8)).mean()
        assert abs(bits - 0.5) < 0.01  # never zeros
        queries = draw_queries(index, 3, 200, 1)
        assert [query.shape for query in queries] == [(200, 128)] * 3
        assert all(len(index.search(query, 5)) == 5 for query in queries)
        again = draw_queries(index, 3, 200, 1)
        assert all(np.array_equal(a, b) for a, b in zip(queries, again, strict=True))
    with pytest.raises(ConfigError, match="--words"):
        build_archive(tmp_path / "b", [5], 200, 70_000, 3, display)


def test_energy_is_that_of_all_packages_and_survives_a_wrap(tmp_path: Path) -> None:
    assert not Energy(tmp_path)
    assert Energy(tmp_path).joules([], []) is None
    for name, value in (("intel-rapl:0", 10), ("intel-rapl:1", 900), ("intel-rapl:0:0", 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{value}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("999\n")
    energy = Energy(tmp_path)
    before = energy.read()
    assert before == [10, 900]  # parts of a package are in it
    assert energy.joules(before, [30, 100]) == pytest.approx((20 + 200) / 1e6)
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert len(Energy(tmp_path).read()) == 1


def test_the_machine_and_the_software_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = machine()
    assert facts == machine()
    assert facts["processor"] and facts["processors"] >= 1
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    found = software()
    assert found["environment"]["OPENBLAS_CORETYPE"] == "Haswell"
    assert len(found["code_sha256"]) == 64 and found["versions"]["numpy"] == np.__version__
    assert "commit" not in found  # a tracked result makes the checkout dirty, and must go on after that
    assert (peak_memory() or 0) > 10_000_000


def test_percentiles_and_drift() -> None:
    found = percentiles([float(i) for i in range(101)])
    assert [found[name] for name in ("p05", "p25", "p50", "p75", "p95", "p99")] == [5, 25, 50, 75, 95, 99]
    assert percentiles([]) == {}
    assert drift_of(np.array([[1.0], [1.0], [1.0], [1.0], [1.2], [1.2]])) == pytest.approx(0.2)
    assert drift_of(np.ones((2, 1))) is None


def test_another_configuration_is_parsed_or_refused() -> None:
    found = parse_against("backend=openvino, threads=2", ("backend", "threads"))
    assert found == {"backend": "openvino", "threads": 2}
    assert label_of_against(found) == "against backend openvino, threads 2"
    for text in ("", "threads", "threads=", "threads=0", "threads=x", "colour=red", "threads=1,threads=2"):
        with pytest.raises(ConfigError, match="--against"):
            parse_against(text, ("backend", "threads"))


def test_the_tiny_bundle_has_no_convolutions(load_reference: Callable[[str], ModuleType], tmp_path: Path) -> None:
    from ctxdeploy.bench.roofline import count_operations

    load_reference("trt/tiny_bundle").write(tmp_path / "tiny.ctxbundle")
    assert count_operations(bundles.open(tmp_path / "tiny.ctxbundle"), [(8, 8)]) == {(8, 8): 0.0}


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
