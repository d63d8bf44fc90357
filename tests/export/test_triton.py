"""Triton repositories: the schema, the graph's real inputs and outputs, and the documented client over gRPC."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from ctxdeploy.core.bundle import OUTPUT_NAMES, Artefact, Bundle, Extraction, ShapeRange
from ctxdeploy.core.engines import EngineKey
from ctxdeploy.core.errors import BackendError, BundleError, ConfigError, MissingExtraError, StorageError
from ctxdeploy.core.files import file_sha256
from ctxdeploy.core.types import Preprocessing
from ctxdeploy.export import TritonConfig, write_model_repository
from ctxdeploy.export.triton import CONFIG, model_config

schema = pytest.importorskip("tritonclient.grpc.model_config_pb2")
text_format = pytest.importorskip("google.protobuf.text_format")

DOCS = Path(__file__).parents[2] / "docs" / "triton.md"


# Of an engine for at most two photos.
KEY = EngineKey(
    target="tensorrt",
    version="11.4.0.1",
    gpu="NVIDIA A30",
    capabilities=("8.0",),
    options={"shapes": {"low": [1, 1, 1, 3], "typical": [1, 240, 320, 3], "high": [2, 320, 320, 3]}},
)


def artefact(path: Path, **settings: Any) -> Artefact:
    fixed = {"file": path.name, "sha256": file_sha256(path), "bytes": path.stat().st_size}
    return Artefact(**fixed, **{"format": "onnx", "precision": "fp32", "target": "onnxruntime", **settings})


@pytest.fixture(scope="session")
def served(small_graph: Any, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return a bundle of the small graph, once in fp32 for two runtimes, and an engine (any bytes)."""
    folder = tmp_path_factory.mktemp("served") / "small net.ctxbundle"
    folder.mkdir()
    onnx.save(small_graph, folder / "model.onnx")
    (folder / "model.engine").write_bytes(b"an engine")
    graph = artefact(folder / "model.onnx")
    return Bundle(
        path=folder,
        network={"family": "ctx"},
        source={"weights_sha256": "0" * 64},
        preprocessing=Preprocessing(image_size=320),
        extraction=Extraction(scales=(1.414, 0.5), top_k=60, dim=64),
        shapes=ShapeRange(batch=(1, 4), height=(1, 320), width=(1, 320)),
        artefacts=(
            graph,
            replace(graph, target="openvino"),
            artefact(
                folder / "model.engine",
                format="engine",
                precision="fp16",
                target="tensorrt",
                details={"key": KEY.metadata()},
            ),
        ),
    )


def read(folder: Path) -> Any:
    return text_format.Parse((folder / CONFIG).read_text(encoding="utf-8"), schema.ModelConfig())


def test_repository(served: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    written = write_model_repository(served, folder)
    assert [path.name for path in written] == ["small_net-fp32-onnx", "small_net-fp16-tensorrt"]
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        "small_net-fp16-tensorrt/1/model.plan",
        "small_net-fp16-tensorrt/config.pbtxt",
        "small_net-fp32-onnx/1/model.onnx",
        "small_net-fp32-onnx/config.pbtxt",
    ]
    assert file_sha256(written[0] / "1" / "model.onnx") == served.artefacts[0].sha256
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    assert list(tmp_path.iterdir()) == [folder], "no staging folder is left"
    graph, engine = read(written[0]), read(written[1])
    assert (graph.name, graph.backend, graph.platform) == (written[0].name, "onnxruntime", "onnxruntime_onnx")
    assert (engine.name, engine.backend, engine.platform) == (written[1].name, "tensorrt", "tensorrt_plan")
    assert engine.instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU
    assert list(engine.instance_group[0].profile) == ["0"]
    assert not graph.instance_group[0].profile
    assert (graph.max_batch_size, engine.max_batch_size) == (4, 2), "what the engine was built for"
    assert list(engine.dynamic_batching.preferred_batch_size) == [1, 2]
    assert max(warm_up.batch_size for warm_up in engine.model_warmup) == 2
    assert list(graph.dynamic_batching.preferred_batch_size) == [2, 4]
    assert graph.dynamic_batching.max_queue_delay_microseconds == 2000


def test_names_types_and_shapes_are_the_graphs(served: Bundle, small_graph: Any) -> None:
    """Triton compares ``config.pbtxt`` with the model when it loads it, without the batch dimension."""
    message = text_format.Parse(model_config(served, served.artefacts[0], TritonConfig()), schema.ModelConfig())
    types = {onnx.TensorProto.UINT8: schema.TYPE_UINT8, onnx.TensorProto.FLOAT: schema.TYPE_FP32}

    def found(values: Any) -> list[Any]:
        described = []
        for value in values:
            batch, *rest = value.type.tensor_type.shape.dim
            assert batch.dim_param, "Triton batches only over a dynamic first dimension"
            dims = [-1 if dim.dim_param else dim.dim_value for dim in rest]
            described.append((value.name, types[value.type.tensor_type.elem_type], dims))
        return described

    def wanted(values: Any) -> list[Any]:
        return [(value.name, value.data_type, list(value.dims)) for value in values]

    assert wanted(message.input) == found(small_graph.graph.input)
    assert wanted(message.output) == found(small_graph.graph.output)


def test_provenance(served: Bundle) -> None:
    message = text_format.Parse(model_config(served, served.artefacts[2], TritonConfig()), schema.ModelConfig())
    parameters = {key: value.string_value for key, value in message.parameters.items()}
    assert parameters["model_id"] == served.model_id
    assert parameters["precision"] == "fp16"
    assert parameters["preprocessing_hash"] == served.preprocessing.hash
    assert Preprocessing(**json.loads(parameters["preprocessing"])) == served.preprocessing
    assert parameters["artefact_sha256"] == served.artefacts[2].sha256
    assert "intra_op_thread_count" not in parameters


def test_cpu(served: Bundle) -> None:
    config = TritonConfig(kind="cpu", threads=3, instances=2, max_batch=1, name="photos")
    message = text_format.Parse(model_config(served, served.artefacts[0], config), schema.ModelConfig())
    assert message.name == "photos-fp32-onnx"
    assert (message.instance_group[0].kind, message.instance_group[0].count) == (schema.ModelInstanceGroup.KIND_CPU, 2)
    assert message.parameters["intra_op_thread_count"].string_value == "3"
    assert message.max_batch_size == 1
    assert not message.HasField("dynamic_batching")


def test_batches_fit_where_the_model_runs(served: Bundle) -> None:
    for kind, batch in (("cpu", 1), ("gpu", served.shapes.batch[1]), ("auto", served.shapes.batch[1])):
        text = model_config(served, served.artefacts[0], TritonConfig(kind=kind))
        message = text_format.Parse(text, schema.ModelConfig())
        assert message.instance_group[0].kind == getattr(schema.ModelInstanceGroup, f"KIND_{kind.upper()}")
        assert message.max_batch_size == batch
        assert message.HasField("dynamic_batching") == (batch > 1)
        assert max(warm_up.batch_size for warm_up in message.model_warmup) <= batch
    told = text_format.Parse(
        model_config(served, served.artefacts[0], TritonConfig(kind="cpu", max_batch=4)), schema.ModelConfig()
    )
    assert told.max_batch_size == 4


ranges = st.tuples(st.integers(1, 900), st.integers(1, 900)).map(lambda pair: (min(pair), max(pair)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shapes=st.builds(ShapeRange, batch=st.integers(1, 300).map(lambda n: (1, n)), height=ranges, width=ranges),
    preferred=st.none() | st.lists(st.integers(1, 300), max_size=3).map(tuple),
    kind=st.sampled_from(("cpu", "gpu", "auto")),
    instances=st.integers(1, 8),
    delay=st.integers(0, 10**6),
)
def test_every_range(served: Bundle, shapes: ShapeRange, preferred: Any, kind: str, instances: int, delay: int) -> None:
    """Warm-ups are shapes that the bundle takes, preferred batches at most the largest: Triton refuses others."""
    bundle = replace(served, shapes=shapes)
    config = TritonConfig(kind=kind, instances=instances, queue_delay=delay, preferred=preferred)
    if preferred and max(preferred) > shapes.batch[1]:
        with pytest.raises(ConfigError, match="preferred"):
            model_config(bundle, served.artefacts[0], config)
        return
    message = text_format.Parse(model_config(bundle, served.artefacts[0], config), schema.ModelConfig())
    alone = kind == "cpu" and preferred is None
    assert message.max_batch_size == (1 if alone else shapes.batch[1])
    batches = list(message.dynamic_batching.preferred_batch_size)
    assert batches == sorted(set(batches))
    assert all(1 <= batch <= message.max_batch_size for batch in batches)
    assert len({warm_up.name for warm_up in message.model_warmup}) == len(message.model_warmup) >= 1
    for warm_up in message.model_warmup:
        (image,) = warm_up.inputs.values()
        assert image.data_type == schema.TYPE_UINT8
        assert image.WhichOneof("input_data_type") == "random_data"
        shapes.check((warm_up.batch_size, *image.dims))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"kind": "npu"}, "npu"),
        ({"instances": 0}, "instances"),
        ({"queue_delay": -1}, "queue_delay"),
        ({"max_batch": 0}, "max_batch"),
        ({"threads": 0}, "threads"),
        ({"preferred": (2, 0)}, "preferred"),
        ({"warm_up": ((0, 5),)}, "warm_up"),
        ({"name": "../outside"}, "outside"),
        ({"name": ""}, "is not a name"),
        ({"queue_delay": 2**31}, "queue_delay"),
    ],
)
def test_configuration_is_checked(setting: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TritonConfig(**setting)


def test_what_the_bundle_does_not_take(served: Bundle, tmp_path: Path) -> None:
    for config, words in (
        (TritonConfig(max_batch=5), r"max_batch 5 is more than the 4 of model\.onnx"),
        (TritonConfig(max_batch=3), r"max_batch 3 is more than the 2 of model\.engine"),
        (TritonConfig(warm_up=((320, 321),)), "width is 321"),
        (TritonConfig(max_batch=2, preferred=(3,)), "preferred batch of 3"),
    ):
        with pytest.raises(ConfigError, match=words):
            write_model_repository(served, tmp_path / "models", config)
    pairs = replace(served, shapes=ShapeRange(batch=(2, 4)))
    with pytest.raises(ConfigError, match="single photos"):
        write_model_repository(pairs, tmp_path / "models")
    for details, error in (({}, BackendError), ({"key": {**KEY.metadata(), "options": {}}}, BundleError)):
        old = replace(served, artefacts=(replace(served.artefacts[2], details=details),))
        with pytest.raises(error, match=r"build it (again|anew)"):
            write_model_repository(old, tmp_path / "models")
    only = replace(served, artefacts=(served.artefacts[1],))
    with pytest.raises(BundleError, match=r"openvino/fp32.*--target onnxruntime"):
        write_model_repository(only, tmp_path / "models")
    assert not list(tmp_path.iterdir())


def test_two_engines_of_one_precision(served: Bundle, tmp_path: Path) -> None:
    other = replace(served.artefacts[2], file="other.engine")
    with pytest.raises(BundleError, match="several engines"):
        write_model_repository(replace(served, artefacts=(*served.artefacts, other)), tmp_path / "models")


def test_folder_with_other_models(served: Bundle, tmp_path: Path) -> None:
    """Models are added to a repository; one of the same name stays as it is, and nothing else is added then."""
    other = tmp_path / "models" / "other" / CONFIG
    other.parent.mkdir(parents=True)
    other.write_text("kept")
    write_model_repository(served, tmp_path / "models")
    assert other.read_text() == "kept"
    with pytest.raises(BundleError, match=r"small_net-fp32-onnx exists.*--triton"):
        write_model_repository(served, tmp_path / "models")
    renamed = write_model_repository(served, tmp_path / "models", TritonConfig(name="second"))
    assert [path.name for path in renamed] == ["second-fp32-onnx", "second-fp16-tensorrt"]


def test_nothing_is_left_after_an_error(served: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second rename fails, as on a full disk: the first model is taken away again, the folder's own stay."""
    (tmp_path / "models" / "other").mkdir(parents=True)
    replace, calls = os.replace, []

    def failing(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(StorageError, match="No space left"):
        write_model_repository(served, tmp_path / "models")
    assert [path.name for path in tmp_path.rglob("*")] == ["models", "other"]


def test_copies_where_links_are_impossible(served: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(source: Any, target: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", failing)
    written = write_model_repository(served, tmp_path / "models")
    copy = written[0] / "1" / "model.onnx"
    assert copy.stat().st_ino != (served.path / "model.onnx").stat().st_ino
    assert file_sha256(copy) == served.artefacts[0].sha256


def test_without_tritonclient(served: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient.grpc.model_config_pb2", None)
    with pytest.raises(MissingExtraError, match=r"\[triton\]"):
        write_model_repository(served, tmp_path / "models")


def client_example() -> str:
    (text,) = DOCS.read_text(encoding="utf-8").split("```python\n")[1:]
    return text.partition("```")[0]


@pytest.fixture
def server(served: Bundle, session_of: Callable[..., Any], small_graph: Any, tmp_path: Path) -> Iterator[str]:
    """Yield the address of a server that speaks Triton's protocol and runs the repository's ONNX file."""
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    folder = write_model_repository(served, tmp_path / "models")[0]
    run = session_of(onnx.load(folder / "1" / "model.onnx"))

    class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
        def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
            return service_pb2.ModelConfigResponse(config=read(folder))

        def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
            assert (request.model_name, request.inputs[0].datatype) == (folder.name, "UINT8")
            image = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(request.inputs[0].shape)
            response = service_pb2.ModelInferResponse(model_name=folder.name)
            found = dict(zip(OUTPUT_NAMES, run(image), strict=True))
            for output in request.outputs:
                array = found[output.name]
                response.outputs.add(name=output.name, datatype="FP32", shape=array.shape)
                response.raw_output_contents.append(array.tobytes())
            return response

    server = grpc.server(futures.ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


def test_client_of_the_documentation(
    server: str, served: Bundle, samples: Any, session_of: Callable[..., Any], small_graph: Any, tmp_path: Path
) -> None:
    """The client decodes, scales, asks over gRPC, and returns what the graph computes from the same pixels."""
    import tritonclient.grpc

    from ctxdeploy.core.samples import sample_photo

    example: dict[str, Any] = {}
    exec(compile(client_example(), str(DOCS), "exec"), example)
    photo = tmp_path / "photo.png"
    Pillow.fromarray(sample_photo("chelsea")).save(photo)
    with tritonclient.grpc.InferenceServerClient(server) as client:
        found = example["describe"](client, "small_net-fp32-onnx", photo)
    from ctxdeploy.runtime import decode_photo

    pixels = decode_photo(photo, served.preprocessing).pixels
    assert max(pixels.shape) == 320
    vectors, attention, positions, _ = session_of(small_graph)(pixels[None])
    valid = attention[0] > 0
    np.testing.assert_array_equal(found.vectors, vectors[0][valid])
    factors = np.array([451, 300]) / (pixels.shape[1], pixels.shape[0])  # to the size of the original
    np.testing.assert_allclose(found.positions, positions[0][valid] * factors, rtol=1e-5)


@pytest.mark.slow
def test_client_of_the_documentation_has_types(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "client.py").write_text(client_example(), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", str(DOCS.parents[1] / "pyproject.toml"), "client.py"]
    result: Any = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
