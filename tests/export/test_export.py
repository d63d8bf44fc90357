"""``export()``: from a checkpoint to a bundle that opens, and nothing at all when something is wrong."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ctxdeploy.core.bundle
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.errors import BackendError, BundleError, CheckpointError, ConfigError, ParityError, StorageError
from ctxdeploy.core.files import file_sha256
from ctxdeploy.core.progress import Display
from ctxdeploy.core.types import Precision
from ctxdeploy.evaluation import AsmkRetrieval
from ctxdeploy.export import ExportConfig, export_bundle, load_checkpoint
from ctxdeploy.export import bundle_builder as artefacts
from ctxdeploy.export.graph import graph
from ctxdeploy.export.parity import TOLERANCES, ParityPhotos, ParityRun, torch_runner
from ctxdeploy.export.parity.verify import largest_batch, measure
from ctxdeploy.export.preflight import REFERENCE, plan
from ctxdeploy.runtime.backends import BackendConfig, open_backend

Image = NDArray[np.uint8]


@pytest.fixture(scope="module")
def photos(samples: Mapping[str, Image]) -> ParityPhotos:
    return ParityPhotos(
        parity={"coffee": samples["coffee"][:96, :140], "rocket": samples["rocket"][:90, :81]}, retrieval={}
    )


def only(photo: Image) -> ParityPhotos:
    return ParityPhotos(parity={"coffee": photo}, retrieval={})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, small_network: Any) -> Path:
    from ctxdeploy.export import save_checkpoint

    path = tmp_path_factory.mktemp("checkpoint") / "small.pth"
    save_checkpoint(small_network, path, image_size=320)
    return path


@pytest.fixture
def graph_at_hand(small_graph: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the trace: the graph of the checkpoint's network is built already."""
    monkeypatch.setattr(graph, "build_graph", lambda network, inline: small_graph)


@pytest.fixture(scope="module")
def exported(
    checkpoint: Path, photos: ParityPhotos, samples: Mapping[str, Image], tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """Return a bundle as a user makes it, with all four overrides and a retrieval run."""
    config = ExportConfig(scales=(0.5, 1.0), top_k=50, top_share=0.7, image_size=256, max_batch=3)
    views = {name: samples[name][:70, :90] for name in ("coffee", "rocket", "astronaut", "chelsea")}
    return export_bundle(
        checkpoint,
        tmp_path_factory.mktemp("out") / "deeper" / "bundle",
        config,
        retrieval=AsmkRetrieval,
        photos=replace(photos, retrieval=views),
    ).check()


@pytest.mark.slow
def test_bundle_opens_with_its_figures(exported: Bundle, checkpoint: Path, small_network: Any) -> None:
    opened = ctxdeploy.core.bundle.open(exported.path)
    assert opened.metadata() == exported.metadata()
    assert sorted(path.name for path in exported.path.iterdir()) == ["bundle.json", "model.onnx"]
    assert [path.name for path in exported.path.parent.iterdir()] == ["bundle"], "no staging folder is left"
    parity = opened.artefact().parity
    assert parity["verdict"] == "passed" and parity["seconds"] is None
    assert parity["ranking"]["kind"] == "overlap" and parity["ranking"]["overlap"] > 0.9
    assert {scale["scale"] for scale in parity["by_scale"]} == {0.5, 1.0}
    assert parity["cosine_min"] > 0.9999 and parity["overlap_min"] >= 0.99
    names = {photo["photo"] for photo in parity["photos"]}
    assert {"coffee", "rocket", "tiny", "one pixel", "portrait in a batch of 2"} <= names
    assert opened.source["sha256"] == file_sha256(checkpoint)
    assert opened.source["format"] == "ctx"
    assert opened.network == small_network.config.metadata()
    assert opened.tools.keys() == {"ctxdeploy", "torch", "onnx", "onnxscript", "onnxruntime"}


@pytest.mark.slow
def test_overrides_are_recorded_and_obeyed(
    exported: Bundle, checkpoint: Path, photos: ParityPhotos, samples: Mapping[str, Image]
) -> None:
    assert exported.extraction.scales == (0.5, 1.0)
    assert (exported.extraction.top_k, exported.extraction.top_share, exported.extraction.dim) == (50, 0.7, 64)
    assert exported.preprocessing.image_size == 256
    assert (exported.shapes.batch, exported.shapes.height, exported.shapes.width) == ((1, 3), (1, 256), (1, 256))
    backend = open_backend(exported, BackendConfig(name="onnxruntime"))
    outputs = backend.run(photos.parity["coffee"][None])
    assert outputs.descriptors.shape == (1, 50, 64)
    assert set(np.unique(outputs.scales)) <= {0.0, 0.5, 1.0}
    network = load_checkpoint(checkpoint).network(replace(exported.extraction, top_k=500, top_share=1.0))
    positions = np.count_nonzero(torch_runner(network)(samples["coffee"][None])[1])
    kept = np.count_nonzero(backend.run(samples["coffee"][None]).attention)
    assert 32 < kept == math.ceil(0.7 * positions) < 50
    with pytest.raises(ConfigError, match="batch is 4"):
        backend.run(np.stack([photos.parity["coffee"]] * 4))


@pytest.mark.slow
def test_openvino_computes_the_same(
    checkpoint: Path, small_network: Any, samples: Mapping[str, Image], graph_at_hand: None, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    # One photo here: OpenVINO takes seconds for every new shape on a busy machine.
    config = ExportConfig(targets=("openvino",))
    exported = export_bundle(
        checkpoint, tmp_path / "bundle", config, retrieval=None, photos=only(samples["coffee"][:100, :140])
    )
    bundle = exported.check()
    assert [(a.target, a.file) for a in bundle.artefacts] == [("onnxruntime", "model.onnx"), ("openvino", "model.onnx")]
    photos = {name: samples[name] for name in ("coffee", "astronaut", "rocket")}
    photos.update({"odd": samples["coffee"][:101, :77], "one pixel": samples["coffee"][:1, :1]})
    trial = ParityRun(ParityPhotos(parity=photos, retrieval={}), torch_runner(small_network))
    parity = measure(bundle, bundle.artefacts[1], trial)
    print(f"\nOpenVINO fp32: cosine {parity.cosine:.6f}, overlap {parity.overlap:.4f}")
    parity.check()


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_existing_output_is_left_alone(checkpoint: Path, photos: ParityPhotos, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(BundleError, match="out exists: choose another -o, or remove it first"):
        export_bundle(checkpoint, tmp_path / "out", retrieval=None, photos=photos)
    assert (tmp_path / "out" / "mine").read_text() == "precious"
    assert names_in(tmp_path) == ["out"]


def perturb(proto: Any, path: Path) -> None:
    """Write a graph after changing the largest of its weights."""
    import onnx

    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    largest = max(changed.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = np.frombuffer(largest.raw_data, np.float32).copy()
    values[::7] *= 1.2
    largest.raw_data = values.tobytes()
    onnx.save_model(changed, path)


@pytest.mark.parametrize("batched_only", [False, True])
def test_failed_parity_leaves_nothing(
    batched_only: bool,
    checkpoint: Path,
    photos: ParityPhotos,
    graph_at_hand: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if batched_only:
        # A graph that is right for one photo and wrong for two.
        from ctxdeploy.runtime.backends.onnxruntime import OnnxRuntimeBackend

        run = OnnxRuntimeBackend._run

        def mixing(self: Any, images: Image) -> list[NDArray[np.float32]]:
            arrays = run(self, images)
            return [arrays[0][::-1].copy(), *arrays[1:]]

        monkeypatch.setattr(OnnxRuntimeBackend, "_run", mixing)
    else:
        monkeypatch.setattr(graph, "save_graph", perturb)
    message = r"the exported graph differs from PyTorch: .* no bundle was written, .* are in .*out\.rejected$"
    with pytest.raises(ParityError, match=message):
        export_bundle(checkpoint, tmp_path / "out", retrieval=None, photos=photos)
    assert names_in(tmp_path) == ["out.rejected"]
    kept = tmp_path / "out.rejected"
    assert sorted(names_in(kept)) == ["model.onnx.onnxruntime.rejected.json", "model.onnx.rejected"]
    report = json.loads((kept / "model.onnx.onnxruntime.rejected.json").read_text())
    assert report["parity"]["verdict"].startswith("failed: ")
    assert file_sha256(kept / "model.onnx.rejected") == report["sha256"]
    with pytest.raises(BundleError, match="is not a bundle"):
        ctxdeploy.core.bundle.open(kept)
    # Once more: what was kept stays.
    with pytest.raises(ParityError, match=r"out\.rejected-2$"):
        export_bundle(checkpoint, tmp_path / "out", retrieval=None, photos=photos)


def test_a_rejected_artefact_leaves_the_others(
    checkpoint: Path, samples: Mapping[str, Image], graph_at_hand: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = replace(TOLERANCES[Precision.FP16], cosine=1.1)
    monkeypatch.setitem(TOLERANCES, Precision.FP16, strict)
    config = ExportConfig(precisions=(Precision.FP32, Precision.FP16))
    exported = export_bundle(
        checkpoint, tmp_path / "out", config, retrieval=None, photos=only(samples["coffee"][:100, :140])
    )
    assert [artefact.precision for artefact in exported.rejected] == ["fp16"]
    with pytest.raises(ParityError, match=r"out was written, but without 1 of its artefacts: onnxruntime fp16 failed"):
        exported.check()
    bundle = ctxdeploy.core.bundle.open(tmp_path / "out")
    assert [artefact.precision for artefact in bundle.artefacts] == ["fp32"]
    rejected = {name for name in names_in(bundle.path) if "rejected" in name}
    assert rejected == {"model.fp16.onnx.rejected", "model.fp16.onnx.onnxruntime.rejected.json"}


def test_an_artefact_that_returns_nan_is_kept_with_its_report(
    checkpoint: Path, photos: ParityPhotos, graph_at_hand: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctxdeploy.runtime.backends.onnxruntime import OnnxRuntimeBackend

    run = OnnxRuntimeBackend._run

    def overflowing(self: Any, images: Image) -> list[NDArray[np.float32]]:
        descriptors, *others = run(self, images)
        return [descriptors * np.float32(np.nan if self.precision == "fp16" else 1), *others]

    monkeypatch.setattr(OnnxRuntimeBackend, "_run", overflowing)
    config = ExportConfig(precisions=(Precision.FP32, Precision.FP16))
    exported = export_bundle(checkpoint, tmp_path / "out", config, retrieval=None, photos=photos)
    assert [artefact.precision for artefact in exported.rejected] == ["fp16"]
    report = json.loads((tmp_path / "out" / "model.fp16.onnx.onnxruntime.rejected.json").read_text())
    assert report["parity"]["verdict"].startswith("failed: cosine min nan")
    assert report["parity"]["length_error_max"] is None


@pytest.mark.slow
def test_an_engine_may_take_smaller_batches_than_its_bundle(exported: Bundle) -> None:
    graph_file = exported.artefacts[0]
    shapes = {"high": [1, 256, 256, 3]}
    engine = replace(graph_file, format="engine", details={"key": {"options": {"shapes": shapes}}})
    assert (largest_batch(exported, graph_file), largest_batch(exported, engine)) == (3, 1)


def test_a_graph_that_does_not_load_leaves_nothing(
    checkpoint: Path, photos: Any, graph_at_hand: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "save_graph", lambda proto, path: path.write_bytes(b"no graph"))
    with pytest.raises(BackendError, match="onnxruntime cannot load"):
        export_bundle(checkpoint, tmp_path / "out", retrieval=None, photos=photos)
    assert names_in(tmp_path) == []


def test_a_full_disk_leaves_nothing(
    checkpoint: Path, photos: Any, graph_at_hand: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(proto: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(graph, "save_graph", full)
    with pytest.raises(StorageError, match="out cannot be written: No space left on device"):
        export_bundle(checkpoint, tmp_path / "out", retrieval=None, photos=photos)
    assert names_in(tmp_path) == []


def test_an_output_below_a_file(checkpoint: Path, photos: ParityPhotos, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"cannot be written: (Not a directory|File exists)"):
        export_bundle(checkpoint, tmp_path / "file" / "out", retrieval=None, photos=photos)
    assert (tmp_path / "file").read_text() == "x"


def test_a_photo_larger_than_the_image_size(checkpoint: Path, samples: Mapping[str, Image], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="photo coffee is 240×160, larger than the 128"):
        export_bundle(
            checkpoint,
            tmp_path / "out",
            ExportConfig(image_size=128),
            retrieval=None,
            photos=only(samples["coffee"]),
        )
    with pytest.raises(ConfigError, match="no photo to compare with"):
        export_bundle(checkpoint, tmp_path / "out", retrieval=None, photos=ParityPhotos(parity={}, retrieval={}))
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "--top-k 0 is outside"),
        ({"scales": ()}, "--scales"),
        ({"scales": (9.0,)}, "--scales"),
        ({"image_size": 0}, "--image-size"),
        ({"image_size": 100_000}, "--image-size"),
        ({"max_batch": 0}, "batch"),
    ],
)
def test_impossible_options_are_refused_before_any_work(
    options: dict[str, Any], message: str, checkpoint: Path, photos: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(graph, "build_graph", lambda *a, **k: pytest.fail("the graph was built"))
    with pytest.raises(ConfigError, match=message):
        export_bundle(checkpoint, tmp_path / "out", ExportConfig(**options), retrieval=None, photos=photos)
    assert names_in(tmp_path) == []


def test_no_checkpoint_leaves_nothing(tmp_path: Path, photos: ParityPhotos) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        export_bundle(tmp_path / "none.pth", tmp_path / "out", retrieval=None, photos=photos)
    assert names_in(tmp_path) == []


def test_steps_are_reported(
    checkpoint: Path,
    photos: ParityPhotos,
    graph_at_hand: None,
    tmp_path: Path,
    small_network: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = export_bundle(
        checkpoint, tmp_path / "out", retrieval=None, photos=photos, display=Display(quiet=False)
    ).check()
    said = capsys.readouterr().err.splitlines()
    for step in (
        "loading the checkpoint",
        "tracing the network",
        "making the fp32 graph",
        "comparing onnxruntime fp32",
    ):
        assert step in said
    assert bundle.extraction == small_network.extraction
    assert bundle.preprocessing.image_size == 320


def test_pairs_that_no_runtime_has() -> None:
    jobs, remarks = plan(("onnxruntime", "openvino"), (Precision.FP32, Precision.BF16))
    assert [(job.target, job.precision.label) for job in jobs] == [
        ("onnxruntime", "fp32"),
        ("openvino", "fp32"),
        ("openvino", "bf16"),
    ]
    assert remarks == ["onnxruntime has no bf16: its CPU kernels have no bf16, and compute fp8 in fp32"]
    with pytest.raises(ConfigError, match=r"onnxruntime has no bf16: .*; give --target openvino or tensorrt"):
        ExportConfig(precisions=(Precision.BF16,))
    with pytest.raises(ConfigError, match="target 'coreml' is unknown: give --target onnxruntime, openvino"):
        ExportConfig(targets=("coreml",))
    assert plan(("openvino",), (Precision.INT8,))[0][0] == REFERENCE, "the fp32 graph is always made"


@pytest.mark.slow
def test_int8_must_pass_in_every_runtime_it_is_for(
    checkpoint: Path, samples: Mapping[str, Image], graph_at_hand: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search goes on where one runtime refuses what another accepts."""
    measured: list[tuple[str, str]] = []
    measure_one = artefacts.measure

    def refusing_twice(bundle: Bundle, artefact: Any, trial: ParityRun) -> Any:
        parity = measure_one(bundle, artefact, trial)
        if artefact.precision != "int8":
            return parity
        measured.append((artefact.target, artefact.sha256))
        refused = artefact.target == "onnxruntime" and len({sha for _, sha in measured}) < 3
        return replace(
            parity,
            tolerance=replace(
                parity.tolerance,
                cosine=1.1 if refused else -1.0,
                cosine_p1=-1.0,
                cosine_mean=-1.0,
                overlap=0.0,
                length_error=9.0,
                attention_error=9.0,
            ),
        )

    monkeypatch.setattr(artefacts, "measure", refusing_twice)
    config = ExportConfig(targets=("onnxruntime", "openvino"), precisions=(Precision.INT8,))
    photo = samples["coffee"][:100, :140]
    exported = export_bundle(
        checkpoint, tmp_path / "out", config, retrieval=None, photos=only(photo), calibration={"coffee": photo}
    )
    bundle = exported.check()
    assert [(a.target, a.precision) for a in bundle.artefacts[1:]] == [("onnxruntime", "int8"), ("openvino", "int8")]
    graphs = list(dict.fromkeys(sha for _, sha in measured))
    assert [target for target, sha in measured if sha == graphs[0]] == ["openvino", "onnxruntime"]
    assert bundle.artefacts[1].details["kept_fp32"] and bundle.artefacts[1].sha256 == graphs[-1]
