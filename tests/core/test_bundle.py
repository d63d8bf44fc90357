"""The bundle: what it refuses, and that nothing but ``BundleError`` comes of a damaged one."""

import contextlib
import copy
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import ctxdeploy.core.bundle
from ctxdeploy.core.bundle import FORMAT_VERSION, MANIFEST, MAX_MANIFEST, Artefact, Bundle, Extraction, ShapeRange
from ctxdeploy.core.errors import ArchiveError, BundleError, ConfigError
from ctxdeploy.core.files import file_sha256
from ctxdeploy.core.types import Preprocessing
from ctxdeploy.index import Codebook
from ctxdeploy.indexing.codebook import add_codebook, codebook_of

# As a file of protocol buffers: the name of a producer, 2043 bytes long.
DATA = b"\x08\x0a\x12\xfb\x0f" + (bytes(range(256)) * 8)[:2043]


def write(folder: Path) -> Bundle:
    """Write a bundle around bytes that no runtime will read."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(DATA)
    sha = hashlib.sha256(DATA).hexdigest()
    artefact = Artefact(
        file="model.onnx",
        sha256=sha,
        bytes=len(DATA),
        format="onnx",
        precision="fp32",
        target="onnxruntime",
        parity={"cosine_min": 0.99995, "photos": [{"photo": "a", "shape": [3, 4]}]},
    )
    bundle = Bundle(
        path=folder,
        network={"family": "how", "architecture": "resnet18", "mean": [0.1, 0.2, 0.3]},
        source={"file": "how.pth", "sha256": "a" * 64, "format": "how", "weights_sha256": "b" * 64},
        preprocessing=Preprocessing(image_size=512),
        extraction=Extraction(scales=(1.414, 0.5), top_k=77, dim=32),
        shapes=ShapeRange(batch=(1, 8), height=(16, 512), width=(16, 512)),
        artefacts=(artefact,),
        tools={"ctxdeploy": "0.1.0", "torch": "2.13"},
    )
    bundle.write_manifest()
    return bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write(tmp_path / "bundle")


@pytest.fixture
def edit(bundle: Bundle) -> Callable[[Callable[[dict[str, Any]], Any]], None]:
    """Return a function that changes ``bundle.json``."""

    def change(how: Callable[[dict[str, Any]], Any]) -> None:
        path = bundle.path / MANIFEST
        manifest = json.loads(path.read_text())
        how(manifest)
        path.write_text(json.dumps(manifest))

    return change


def test_round_trip(bundle: Bundle) -> None:
    assert ctxdeploy.core.bundle.open(bundle.path) == bundle
    assert ctxdeploy.core.bundle.open(str(bundle.path)).artefact().parity["cosine_min"] == 0.99995
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    assert manifest["format_version"] == 2 and "codebook" not in manifest
    assert manifest["model_id"] == bundle.model_id
    assert [output["shape"] for output in manifest["outputs"]] == [
        ["batch", 77, 32],
        ["batch", 77],
        ["batch", 77, 2],
        ["batch", 77],
    ]


def test_a_flipped_bit(bundle: Bundle) -> None:
    path = bundle.path / "model.onnx"
    path.write_bytes(DATA[:100] + bytes([DATA[100] ^ 1]) + DATA[101:])
    with pytest.raises(BundleError, match=r"model\.onnx is damaged"):
        ctxdeploy.core.bundle.open(bundle.path)
    assert ctxdeploy.core.bundle.open(bundle.path, check_hashes=False) == bundle


def test_a_graph_with_weights_in_another_file_is_refused(bundle: Bundle) -> None:
    """Whatever is done to that file, no hash of the bundle would tell."""
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "w")
    (bundle.path / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    node = onnx.helper.make_node("Add", ["image", "w"], ["y"])
    data = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [], [tensor])).SerializeToString()
    (bundle.path / "model.onnx").write_bytes(data)
    listed = replace(bundle.artefacts[0], sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    replace(bundle, artefacts=(listed,)).write_manifest()
    with pytest.raises(
        BundleError, match=r"model\.onnx takes weights from another file, which the hashes of the bundle"
    ):
        ctxdeploy.core.bundle.open(bundle.path)


@pytest.mark.parametrize("check_hashes", [True, False])
def test_a_file_of_another_size_or_none(bundle: Bundle, check_hashes: bool) -> None:
    path = bundle.path / "model.onnx"
    path.write_bytes(DATA[:-1])
    with pytest.raises(BundleError, match=r"model\.onnx has 2047 bytes instead of 2048: export the bundle anew"):
        ctxdeploy.core.bundle.open(bundle.path, check_hashes=check_hashes)
    path.unlink()
    with pytest.raises(BundleError, match=r"model\.onnx is missing"):
        ctxdeploy.core.bundle.open(bundle.path, check_hashes=check_hashes)
    path.mkdir()
    with pytest.raises(BundleError, match=r"model\.onnx is missing"):
        ctxdeploy.core.bundle.open(bundle.path, check_hashes=check_hashes)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda m: m["extraction"].update(scales=[1.0, 0.5]), "model_id"),
        (lambda m: m["extraction"].update(top_k=78), "model_id"),
        (lambda m: m["extraction"].update(dim=33), "model_id"),
        (lambda m: m["network"].update(architecture="resnet50"), "model_id"),
        (lambda m: m["source"].update(weights_sha256="c" * 64), "model_id"),
        (lambda m: m.update(model_id="0" * 64), "model_id"),
        (lambda m: m["preprocessing"].update(image_size=1024), "preprocessing_hash"),
        (lambda m: m["preprocessing"].update(draft=True), "preprocessing_hash"),
        (lambda m: m.pop("preprocessing_hash"), "preprocessing_hash"),
    ],
)
def test_edited_settings(bundle: Bundle, edit: Any, change: Callable[[dict[str, Any]], Any], key: str) -> None:
    edit(change)
    with pytest.raises(BundleError, match=f"{key} does not fit the settings beside it: export the bundle anew"):
        ctxdeploy.core.bundle.open(bundle.path)


def test_a_bundle_of_format_1_opens(bundle: Bundle, edit: Any) -> None:
    def older(manifest: dict[str, Any]) -> None:
        manifest["format_version"] = 1
        for artefact in manifest["artefacts"]:
            del artefact["details"]

    edit(older)
    assert ctxdeploy.core.bundle.open(bundle.path).artefact().details == {}


@pytest.mark.parametrize("version", [0, 5, "1", None])
def test_another_format_version(bundle: Bundle, edit: Any, version: Any) -> None:
    edit(lambda m: m.update(format_version=version))
    expected = f"has bundle format {version}, this ctxdeploy reads 1 to {FORMAT_VERSION}: upgrade"
    with pytest.raises(BundleError, match=expected):
        ctxdeploy.core.bundle.open(bundle.path)


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "a/../../model.onnx", "a\\..\\..\\model.onnx"])
def test_a_file_outside_the_folder(bundle: Bundle, edit: Any, name: str) -> None:
    (bundle.path.parent / "model.onnx").write_bytes(DATA)
    edit(lambda m: m["artefacts"][0].update(file=name))
    with pytest.raises(BundleError, match=r"names a file outside the bundle|is missing"):
        ctxdeploy.core.bundle.open(bundle.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["artefacts"].clear(), "it lists no artefact"),
        (lambda m: m.pop("artefacts"), "missing 'artefacts'"),
        (lambda m: m["source"].pop("weights_sha256"), "missing 'weights_sha256'"),
        (lambda m: m["artefacts"][0].pop("sha256"), "sha256"),
        (lambda m: m["artefacts"][0].update(file=5), "artefact file 5 is not a file name"),
        (lambda m: m["artefacts"][0].update(file="x" * 5000), "is missing"),
        (lambda m: m["artefacts"][0].update(file="a\0b"), "is not a file name"),
        (lambda m: m["input"]["ranges"].update(batch=[1, float("inf")]), "infinity"),
        (lambda m: m["input"]["ranges"].update(batch=[8, 1]), "the range 8..1 of batch is empty"),
        (lambda m: m["input"]["ranges"].update(depth=[1, 2]), "depth"),
        (lambda m: m.update(tools=7), "tools"),
        (lambda m: m.update(network=7), "not valid"),
        (lambda m: m["preprocessing"].update(revision=2), "revision 2 is not known here"),
        (lambda m: m.update(format="zip"), "is not a ctxdeploy-bundle manifest"),
    ],
)
def test_invalid_manifests(bundle: Bundle, edit: Any, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    edit(change)
    with pytest.raises(BundleError, match=message):
        ctxdeploy.core.bundle.open(bundle.path)


def test_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is not a bundle \(no bundle.json\): make one with  ctxdeploy export"):
        ctxdeploy.core.bundle.open(tmp_path)
    with pytest.raises(BundleError, match="is not a bundle"):
        ctxdeploy.core.bundle.open(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match=r"bundle.json cannot be read"):
        ctxdeploy.core.bundle.open(tmp_path / "file")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\0", "[" * 100_000, "\ufeff{}"])
def test_a_manifest_that_is_none(bundle: Bundle, text: str) -> None:
    (bundle.path / MANIFEST).write_text(text, encoding="utf-8")
    with pytest.raises(BundleError, match=MANIFEST):
        ctxdeploy.core.bundle.open(bundle.path)


@pytest.mark.parametrize("what", ["pipe", "/dev/zero", "endless", "sparse"])
def test_a_manifest_without_end_is_not_waited_for(bundle: Bundle, what: str) -> None:
    file = bundle.path / MANIFEST
    file.unlink()
    if what == "pipe":
        os.mkfifo(file)
    elif what == "endless":
        file.write_bytes(b"[" * (MAX_MANIFEST + 1))
    elif what == "sparse":
        with file.open("wb") as opened:
            opened.truncate(1 << 40)
    else:
        file.symlink_to(what)
    with pytest.raises(BundleError, match=r"cannot be read: it (is not a regular file|has [0-9,]+ bytes, more)"):
        ctxdeploy.core.bundle.open(bundle.path)


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
def test_an_artefact_without_end_is_not_waited_for(bundle: Bundle, kind: str) -> None:
    (bundle.path / "model.onnx").unlink()
    if kind == "pipe":
        os.mkfifo(bundle.path / "model.onnx")
    else:
        (bundle.path / "model.onnx").symlink_to(kind)
    with pytest.raises(BundleError, match=r"model.onnx is missing"):
        ctxdeploy.core.bundle.open(bundle.path)


def test_a_message_does_not_quote_a_manifest_without_end(bundle: Bundle, edit: Any) -> None:
    edit(lambda manifest: manifest["extraction"].update(scales=[1.0] * 10_000))
    with pytest.raises(BundleError, match=r"bundle.json is not valid \(--scales .*…\): export") as refused:
        ctxdeploy.core.bundle.open(bundle.path)
    assert len(str(refused.value)) < 400 + len(str(bundle.path))


def test_many_entries_of_one_file_are_one_to_read(bundle: Bundle, edit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []
    monkeypatch.setattr(ctxdeploy.core.bundle, "file_sha256", lambda path: hashed.append(path) or file_sha256(path))
    edit(lambda manifest: manifest.update(artefacts=manifest["artefacts"] * 400))
    assert len(ctxdeploy.core.bundle.open(bundle.path).artefacts) == 400
    assert hashed == [bundle.path / "model.onnx"]
    edit(lambda manifest: manifest.update(artefacts=manifest["artefacts"] * 50))
    with pytest.raises(BundleError, match=r"bundle.json is not valid \(it lists 20,000 artefacts, more than 500\)"):
        ctxdeploy.core.bundle.open(bundle.path)


def test_a_manifest_that_is_not_utf8(bundle: Bundle) -> None:
    (bundle.path / MANIFEST).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleError, match=r"bundle.json cannot be read"):
        ctxdeploy.core.bundle.open(bundle.path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, inner in items for place in _places(inner, (*at, key)))]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_anywhere_is_refused_or_harmless(bundle: Bundle, data: st.DataObject) -> None:
    manifest = copy.deepcopy(json.loads(json.dumps(bundle.metadata())))
    *way, last = data.draw(st.sampled_from([place for place in _places(manifest) if place]))
    target = manifest
    for key in way:
        target = target[key]
    target[last] = data.draw(JSON)
    (bundle.path / MANIFEST).write_text(json.dumps(manifest))
    try:
        opened = ctxdeploy.core.bundle.open(bundle.path)
    except BundleError:
        return
    assert opened.model_id == bundle.model_id
    assert opened.preprocessing == bundle.preprocessing
    json.dumps(opened.metadata())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1, exclude_max=True), length=st.integers(0, 4), new=st.binary(max_size=4))
def test_any_bytes_anywhere_are_refused_or_harmless(bundle: Bundle, position: float, length: int, new: bytes) -> None:
    text = json.dumps(bundle.metadata()).encode()
    start = int(position * len(text))
    (bundle.path / MANIFEST).write_bytes(text[:start] + new + text[start + length :])
    with contextlib.suppress(BundleError):
        assert ctxdeploy.core.bundle.open(bundle.path).model_id == bundle.model_id


def test_model_id_is_of_what_decides_the_descriptors(bundle: Bundle) -> None:
    artefact = bundle.artefacts[0]
    same = [
        replace(bundle, artefacts=(replace(artefact, precision="int8", format="engine", target="tensorrt"),)),
        replace(bundle, path=Path("elsewhere"), tools={}, shapes=ShapeRange()),
        replace(bundle, preprocessing=Preprocessing(image_size=64)),
        replace(bundle, source={**bundle.source, "file": "renamed.pth", "sha256": "d" * 64}),
    ]
    assert {other.model_id for other in same} == {bundle.model_id}
    others = [
        replace(bundle, source={**bundle.source, "weights_sha256": "c" * 64}),
        replace(bundle, extraction=replace(bundle.extraction, scales=(0.5, 1.414))),
        replace(bundle, extraction=replace(bundle.extraction, top_k=78)),
        replace(bundle, network={**bundle.network, "architecture": "resnet50"}),
    ]
    assert len({bundle.model_id, *(other.model_id for other in others)}) == 5


def test_an_absent_artefact_names_those_there_are(bundle: Bundle) -> None:
    assert bundle.file(bundle.artefact("openvino", "fp32")) == bundle.path / "model.onnx"
    message = "no tensorrt/fp16 artefact, only onnxruntime/fp32: export one with  --target tensorrt --precision fp16"
    with pytest.raises(BundleError, match=f"{message}, or use  --precision fp32$"):
        bundle.artefact("tensorrt", "fp16")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": ()}, r"--scales \(\): give at least one scale"),
        ({"scales": (1.0, 1.0)}, "each once"),
        ({"scales": (0.01,)}, r"scale 0.01 is not a number from 0.05 to 4 .*\(--scales\)"),
        ({"scales": (4.0001,)}, "--scales"),
        ({"scales": (0.707107,)}, "at most four decimals"),
        ({"scales": (float("nan"),)}, "--scales"),
        ({"top_k": 0}, r"--top-k 0 is outside 1..65536"),
        ({"top_k": 65537}, r"--top-k 65537"),
        ({"dim": 0}, "descriptor dimension 0"),
    ],
)
def test_extraction_names_its_flag(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Extraction(**options)


def test_every_scale_with_four_decimals_is_one() -> None:
    for number in range(500, 40001):
        Extraction(scales=(number / 10000,))


def test_shapes_out_of_range_say_which() -> None:
    shapes = ShapeRange(batch=(1, 4), height=(16, 100), width=(16, 200))
    shapes.check((4, 100, 200, 3))
    shapes.check((1, 16, 16, 3))
    for shape, message in [
        ((5, 50, 50, 3), r"the input's batch is 5, but this bundle takes 1..4"),
        ((1, 101, 50, 3), r"height is 101, but this bundle takes 16..100"),
        ((1, 50, 15, 3), r"width is 15, but this bundle takes 16..200"),
        ((1, 50, 50, 4), "B×H×W×3 is needed"),
        ((50, 50, 3), "B×H×W×3 is needed"),
    ]:
        with pytest.raises(ConfigError, match=message):
            shapes.check(shape)
    for wrong in ((0, 4), (5, 4)):
        with pytest.raises(ConfigError, match=r"of width is empty or not positive"):
            ShapeRange(width=wrong)


def _codebook(path: Path, dim: int = 32, words: int = 20, *, compact: bool = False) -> Codebook:
    codebook = Codebook.from_centroids(np.random.default_rng(words).normal(size=(words, dim))).rounded()
    codebook.save(path, compact=compact)
    return codebook


@pytest.mark.parametrize("compact", [False, True])
def test_a_bundle_carries_a_codebook(bundle: Bundle, tmp_path: Path, compact: bool) -> None:
    assert bundle.codebook is None and codebook_of(bundle) is None
    given = _codebook(tmp_path / "c", compact=compact)
    carrying = add_codebook(bundle, tmp_path / "c")
    opened = ctxdeploy.core.bundle.open(bundle.path)
    assert opened == carrying and opened.codebook is not None and opened.codebook.words == 20
    assert opened.metadata()["format_version"] == 3
    found = codebook_of(opened)
    assert found is not None and found.id == given.id and np.array_equal(found.centroids, given.centroids)
    # What identifies the descriptors stays: archives made without the codebook go on.
    assert (opened.model_id, opened.preprocessing.hash) == (bundle.model_id, bundle.preprocessing.hash)
    other = _codebook(tmp_path / "d", words=30)
    found = codebook_of(add_codebook(opened, tmp_path / "d"))
    assert found is not None and found.id == other.id
    assert sorted(file.name for file in bundle.path.iterdir()) == [MANIFEST, "codebook.safetensors", "model.onnx"]


def test_a_codebook_that_does_not_fit_is_not_taken(bundle: Bundle, tmp_path: Path) -> None:
    before = (bundle.path / MANIFEST).read_bytes()
    _codebook(tmp_path / "c", dim=16)
    with pytest.raises(ConfigError, match="has dimension 16, the model 32: give the codebook of this model, or none"):
        add_codebook(bundle, tmp_path / "c")
    _codebook(tmp_path / "d")
    data = bytearray((tmp_path / "d").read_bytes())
    data[-1] ^= 1
    (tmp_path / "d").write_bytes(data)
    with pytest.raises(ArchiveError, match="is damaged"):
        add_codebook(bundle, tmp_path / "d")
    assert (bundle.path / MANIFEST).read_bytes() == before
    assert sorted(file.name for file in bundle.path.iterdir()) == [MANIFEST, "model.onnx"]


def test_a_damaged_codebook_is_found_when_the_bundle_is_opened(bundle: Bundle, tmp_path: Path, edit: Any) -> None:
    _codebook(tmp_path / "c")
    add_codebook(bundle, tmp_path / "c")
    path = bundle.path / "codebook.safetensors"
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"codebook.safetensors is damaged \(its sha256 is not the recorded one\)"):
        ctxdeploy.core.bundle.open(bundle.path)
    path.write_bytes(sound)
    for change, message in (
        ({"id": "0" * 64}, "is not the codebook that its bundle describes"),
        ({"words": 21}, "is not the codebook that its bundle describes"),
        ({"file": "../c"}, "names a file outside the bundle"),
        ({"file": 7}, "codebook file 7 is not a file name"),
        ({"colour": 1}, "colour"),
    ):
        manifest = json.loads((bundle.path / MANIFEST).read_text())
        edit(lambda m, change=change: m["codebook"].update(change))
        with pytest.raises(BundleError, match=message):
            codebook_of(ctxdeploy.core.bundle.open(bundle.path))
        (bundle.path / MANIFEST).write_text(json.dumps(manifest))
    path.unlink()
    with pytest.raises(BundleError, match=r"codebook.safetensors is missing"):
        ctxdeploy.core.bundle.open(bundle.path)


def test_the_settings_of_a_global_descriptor_stand_only_where_there_is_one() -> None:
    local, both = Extraction(), Extraction(global_dim=2048, global_scales=(1.0, 0.5))
    assert "global_dim" not in local.metadata()  # the ids of bundles made before stay
    assert Extraction(**{**both.metadata()}) == both
    assert (local.gives, both.gives) == (("local",), ("local", "global"))
    alone = Extraction(top_k=0, global_dim=512, global_scales=(1.0,))
    assert (alone.gives, alone.outputs) == (("global",), ("global",))


@pytest.mark.parametrize(
    "settings",
    [{"top_k": 0}, {"global_dim": 8}, {"global_scales": (1.0,)}, {"global_dim": 8, "global_scales": (1.0, 1.0)}],
)
def test_settings_of_a_global_descriptor_that_do_not_fit(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Extraction(**settings)
