"""Maps and edges of a photo: those of PyTorch in float64, of every network, from the graph that is shipped."""

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow

import ctxdeploy.core.bundle
from ctxdeploy.core.bundle import Artefact, Bundle, Extraction, ShapeRange
from ctxdeploy.core.errors import BackendError, ConfigError, PhotoError
from ctxdeploy.core.samples import sample_photo
from ctxdeploy.core.types import Preprocessing
from ctxdeploy.export import untrained_network
from ctxdeploy.export.graph import build_graph
from ctxdeploy.export.networks import Architecture, Edges, Lit, NetworkConfig, Refinement, Smoothing, l2_attention
from ctxdeploy.report import write_inspection
from ctxdeploy.runtime import Box, Extractor, decode_photo
from ctxdeploy.runtime.inspection import Inspection, InspectionConfig, inspect_photo
from ctxdeploy.runtime.inspection.graph import Block, BundleGraph
from ctxdeploy.runtime.inspection.maps import edges_of

ReadPage = Callable[[Path], Any]
SIZE, TOP_K = 176, 90
GAUSSIAN, WIDE = (Smoothing(kind="gaussian", kernel_size=size) for size in (3, 5))
# Family, smoothing, refinement, LIT, scales. One scale alone has no Concat in its graph.
VARIANTS: dict[str, tuple[str, Smoothing, Refinement | None, Lit | None, tuple[float, ...]]] = {
    "both": ("ctx", GAUSSIAN, Refinement(), None, (1.0,)),
    "softmax": (
        "ctx",
        Smoothing(kind="gaussian", kernel_size=5),
        Refinement(blocks=1, edges=Edges.SOFTMAX),
        None,
        (1.0,),
    ),
    "topk": ("ctx", Smoothing(), Refinement(blocks=1, edges=Edges.TOPK, neighbours=7), None, (1.0,)),
    "attention": ("ctx", Smoothing(), Refinement(blocks=1, edges=Edges.ATTENTION, dim=8), None, (1.0,)),
    "how": ("how", Smoothing(), None, None, (1.414, 1.0)),
    "fire": ("fire", Smoothing(kind="none"), None, Lit(steps=2, templates=24, dim=64), (1.0, 0.707)),
}
DENSE = [name for name in VARIANTS if name != "fire"]
SLOW = ("softmax", "topk", "attention", "how")  # 5 to 10 seconds of tracing each
FORMS = ("functions", "inlined")


class Case:
    """A network, the bundles of its graph, and a photo seen through each."""

    def __init__(self, name: str, folder: Path, photo: Path) -> None:
        family, smoothing, refinement, lit, scales = VARIANTS[name]
        share = 0.5 if name in ("both", "how") else 1.0
        config = NetworkConfig(
            family=family,
            architecture=Architecture.RESNET18_HALF,
            skip_layer=1,
            dim=32,
            smoothing=smoothing,
            refinement=refinement,
            lit=lit,
        )
        extraction = Extraction(scales=scales, top_k=TOP_K if lit is None else 20, top_share=share, dim=32)
        photos = [
            np.asarray(Pillow.fromarray(sample_photo(n)).resize((160, 120))) for n in ("coffee", "rocket", "page")
        ]
        self.network = untrained_network(config, extraction, photos, seed=3)
        self.photo = photo
        proto = build_graph(self.network)
        protos = {"functions": proto, "inlined": onnx.inliner.inline_local_functions(proto)}
        self.bundles = {form: self._bundle(folder / form, protos[form].SerializeToString()) for form in FORMS}
        self.found = {form: inspect_photo(bundle, photo) for form, bundle in self.bundles.items()}
        self._expected: dict[float, dict[str, Any]] = {}

    def expected(self, scale: float) -> dict[str, Any]:
        """Return what PyTorch computes at one scale in float64."""
        if scale not in self._expected:
            self._expected[scale] = torch_level(self.network, self.found["functions"].photo.pixels, scale)
        return self._expected[scale]

    def _bundle(self, folder: Path, model: bytes) -> Bundle:
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(model)
        sha = hashlib.sha256(model).hexdigest()
        artefact = Artefact(
            file="model.onnx", sha256=sha, bytes=len(model), format="onnx", precision="fp32", target="onnxruntime"
        )
        Bundle(
            path=folder,
            network=self.network.config.metadata(),
            source={"file": "none.pth", "sha256": sha, "weights_sha256": sha, "format": "none"},
            preprocessing=Preprocessing(image_size=SIZE),
            extraction=self.network.extraction,
            shapes=ShapeRange(height=(1, SIZE), width=(1, SIZE)),
            artefacts=(artefact,),
        ).write_manifest()
        return ctxdeploy.core.bundle.open(folder)


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo of 300×200 pixels."""
    path = tmp_path_factory.mktemp("photo") / "astronaut.png"
    Pillow.fromarray(sample_photo("astronaut")[60:260, 80:380]).save(path)
    return path


@pytest.fixture(scope="session")
def case_of(tmp_path_factory: pytest.TempPathFactory, photo: Path) -> Callable[[str], Case]:
    """Return a function that makes a case, once."""
    made: dict[str, Case] = {}

    def make(name: str) -> Case:
        if name not in made:
            made[name] = Case(name, tmp_path_factory.mktemp(name), photo)
        return made[name]

    return make


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in DENSE])
def dense(request: pytest.FixtureRequest, case_of: Callable[[str], Case]) -> Case:
    """Each network whose descriptors are positions."""
    return case_of(request.param)


@torch.no_grad()
def torch_level(network: Any, pixels: NDArray[np.uint8], scale: float) -> dict[str, Any]:
    """Return what PyTorch computes at one scale in float64."""
    double = copy.deepcopy(network).double()
    x = double.normalise(torch.from_numpy(pixels.copy())[None])
    x = x if scale == 1.0 else double.resize(x, scale)
    grid = double.backbone(x)
    nodes = [grid.flatten(2).transpose(1, 2)]
    for block in double.refinement.blocks if double.refinement is not None else ():
        nodes.append(block(nodes[-1]))
    features = nodes[-1].transpose(1, 2).reshape(grid.shape)
    level: dict[str, Any] = {"attention": l2_attention(features)[0].numpy(), "nodes": [n[0].numpy() for n in nodes]}
    if double.config.smoothing.kind == "gaussian":
        predicted = double.smoothing.predict(features)[0]
        level["bandwidth"] = torch.nn.functional.softplus(predicted[0]).numpy()
        level["confidence"] = torch.sigmoid(predicted[1]).numpy()
        level["features"], level["smoothed"] = features[0].numpy(), double.smoothing(features)[0].numpy()
    return level


@pytest.mark.parametrize("form", FORMS)
def test_maps_are_those_of_pytorch(dense: Case, form: str) -> None:
    found = dense.found[form]
    for level in found.levels:
        expected = dense.expected(level.scale)
        assert level.attention is not None
        np.testing.assert_allclose(level.attention, expected["attention"], rtol=1e-4)
        assert level.attention.std() > 0.01 * level.attention.mean()
        for name in ("bandwidth", "confidence"):
            values = getattr(level, name)
            assert (values is None) == (name not in expected)
            if values is not None:
                np.testing.assert_allclose(values, expected[name], rtol=1e-4)
                assert values.std() > 0


@pytest.mark.parametrize("form", FORMS)
def test_smoothing_of_a_position_is_that_of_pytorch(dense: Case, form: str) -> None:
    """A position's smoothed features are the sum over its window with the shares that are shown."""
    found = dense.found[form]
    level = found.levels[-1]
    if dense.network.config.smoothing.kind != "gaussian":
        assert level.kernel(0, 0) is None
        return
    expected = dense.expected(level.scale)
    size = dense.network.config.smoothing.kernel_size
    assert level.kernel_size == size
    rows, columns = expected["bandwidth"].shape
    for row, column in ((0, 0), (rows - 1, 2), (rows // 2, columns // 2)):
        shares = level.kernel(row, column)
        assert shares is not None and shares.shape == (size, size)
        total = np.zeros(len(expected["features"]))
        for i in range(size):
            for j in range(size):
                y, x = row + i - size // 2, column + j - size // 2
                if 0 <= y < rows and 0 <= x < columns:
                    total += shares[i, j] * expected["features"][:, y, x]
        np.testing.assert_allclose(total, expected["smoothed"][:, row, column], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_edges_are_those_of_pytorch(dense: Case, form: str) -> None:
    """With the weights that are shown, each block makes the features that PyTorch makes."""
    found = dense.found[form]
    chosen = found.chosen
    assert chosen is not None
    refinement = dense.network.refinement
    assert len(chosen.blocks) == (0 if refinement is None else len(refinement.blocks))
    level = found.levels[chosen.level]
    expected = dense.expected(level.scale)
    assert level.attention is not None
    row = chosen.row * level.attention.shape[1] + chosen.column
    for number, edges in enumerate(chosen.blocks):
        x, after = expected["nodes"][number : number + 2]
        weight = refinement.blocks[number].weight.detach().double().numpy()
        taken = np.maximum(edges.weights.reshape(-1) @ x @ weight, 0.0)
        np.testing.assert_allclose(x[row] + taken, after[row], rtol=2e-3, atol=1e-4)
        assert np.abs(taken).max() > 1e-3
        config = dense.network.config.refinement
        assert edges.block.edges == config.edges.value
        for matrix, own in zip(edges.block.projections, refinement.blocks[number].projections(), strict=True):
            np.testing.assert_array_equal(matrix, own.detach().numpy())
        if config.edges is Edges.TOPK:
            assert edges.block.neighbours == config.neighbours
            assert edges.count <= config.neighbours - 1


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_super_features_are_those_of_pytorch(case_of: Callable[[str], Case], form: str) -> None:
    case = case_of("fire")
    found = case.found[form]
    assert found.chosen is None
    double = copy.deepcopy(case.network).double()
    for level in found.levels:
        with torch.no_grad():
            x = double.normalise(torch.from_numpy(found.photo.pixels.copy())[None])
            grid = double.backbone(x if level.scale == 1.0 else double.resize(x, level.scale))
            vectors, shares = double.lit(grid.flatten(2).transpose(1, 2))
        maps = level.super_features
        assert maps is not None and level.attention is not None
        np.testing.assert_allclose(maps.strengths, torch.linalg.vector_norm(vectors[0], dim=1), rtol=1e-3)
        expected = shares[0].T.reshape(-1, *grid.shape[2:]).numpy()
        np.testing.assert_allclose(maps.shares, expected, rtol=5e-3, atol=1e-6)
        total = sum(s * m for s, m in zip(maps.strengths, maps.shares, strict=True)) / maps.strengths.sum()
        np.testing.assert_allclose(level.attention, total * level.attention.size, rtol=1e-4)
        assert level.attention.mean() == pytest.approx(1.0, rel=1e-3)
    assert "super-features" in found.missing[0]


@pytest.mark.slow
def test_position_asked_of_super_features(case_of: Callable[[str], Case]) -> None:
    case = case_of("fire")
    found = inspect_photo(case.bundles["functions"], case.photo, InspectionConfig(at=(150, 100)))
    chosen, maps = found.chosen, found.levels[found.level].super_features
    assert chosen is not None and maps is not None
    best = maps.strongest(1, (chosen.row, chosen.column))[0]
    assert maps.shares[best, chosen.row, chosen.column] == maps.shares[:, chosen.row, chosen.column].max()


@pytest.mark.parametrize("name", ["both", *(pytest.param(name, marks=pytest.mark.slow) for name in ("how", "fire"))])
def test_descriptors_are_those_of_the_extractor(name: str, case_of: Callable[[str], Case]) -> None:
    case = case_of(name)
    found = case.found["functions"]
    expected = Extractor(case.bundles["functions"]).extract_one(case.photo)
    for part in ("positions", "scales"):
        np.testing.assert_array_equal(getattr(found.descriptors, part), getattr(expected, part))
    np.testing.assert_allclose(found.descriptors.attention, expected.attention, rtol=1e-5)
    np.testing.assert_allclose(found.descriptors.vectors, expected.vectors, rtol=1e-3, atol=1e-4)
    assert sum(level.selected for level in found.levels) == len(expected)


def test_chosen_cells_are_the_strongest(dense: Case) -> None:
    found = dense.found["functions"]
    attention = [level.attention for level in found.levels if level.attention is not None]
    chosen = [level.chosen for level in found.levels if level.chosen is not None]
    assert sum(int(mask.sum()) for mask in chosen) == len(found.descriptors)
    kept = np.concatenate([values[mask] for values, mask in zip(attention, chosen, strict=True)])
    left = np.concatenate([values[~mask] for values, mask in zip(attention, chosen, strict=True)])
    assert len(left) == 0 or kept.min() >= left.max()
    np.testing.assert_allclose(np.sort(kept)[::-1] / found.strongest, found.descriptors.attention, rtol=1e-5)
    assert found.chosen is not None and found.chosen.rank is not None
    rank = found.chosen.rank - 1
    assert found.chosen.position == pytest.approx(tuple(found.descriptors.positions[rank]), abs=1e-2)
    assert found.descriptors.scales[rank] == np.float32(found.levels[found.chosen.level].scale)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("box", [None, Box(x0=40, y0=30, x1=270, y1=190)])
def test_position_is_one_of_the_original_photo(
    orientation: int, box: Box | None, case_of: Callable[[str], Case], tmp_path: Path
) -> None:
    case = case_of("both")
    stored = {1: None, 3: Pillow.Transpose.ROTATE_180, 6: Pillow.Transpose.ROTATE_90, 8: Pillow.Transpose.ROTATE_270}
    upright = Pillow.open(case.photo)
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    turn = stored[orientation]
    (upright if turn is None else upright.transpose(turn)).save(tmp_path / "turned.png", exif=exif)
    bundle = case.bundles["functions"]
    for at in ((41.0, 31.0), (200.5, 111.0), (269.0, 188.0)):
        config = InspectionConfig(box=box, at=at)
        turned = inspect_photo(bundle, tmp_path / "turned.png", config)
        plain = inspect_photo(bundle, case.photo, config)
        np.testing.assert_array_equal(turned.photo.pixels, plain.photo.pixels)
        assert turned.preparation.orientation == orientation
        assert turned.chosen is not None and plain.chosen is not None
        for name in ("row", "column", "position", "rank"):
            assert getattr(turned.chosen, name) == getattr(plain.chosen, name)
        attention = turned.levels[turned.level].attention
        assert attention is not None
        rows, columns = attention.shape
        left, upper, right, lower = (0, 0, 300, 200) if box is None else (40, 30, 270, 190)
        assert turned.chosen.row == int((at[1] - upper) / (lower - upper) * rows)
        assert turned.chosen.column == int((at[0] - left) / (right - left) * columns)
        x, y = turned.chosen.position
        assert abs(x - at[0]) < (right - left) / columns / 2 + 1e-3
        assert abs(y - at[1]) < (lower - upper) / rows / 2 + 1e-3


@pytest.mark.parametrize("kind", ["threshold", "topk", "softmax", "attention"])
def test_edge_weights_are_those_of_plain_loops(kind: str) -> None:
    random = np.random.default_rng(2)
    rows, columns = 4, 5
    nodes = np.maximum(random.normal(size=(rows * columns, 6)), 0).astype(np.float32)
    nodes[7] = 0.0  # a position without activation
    parameter = {"threshold": 0.4, "softmax": 0.1, "attention": 0.1}.get(kind, 0.0)
    query, key = random.normal(size=(2, 6, 3))
    matrices = (query, key) if kind == "attention" else ()
    block = Block(nodes="x", edges=kind, parameter=parameter, neighbours=4, projections=matrices)
    for cell in ((0, 0), (1, 2), (3, 4)):
        here = cell[0] * columns + cell[1]
        found = edges_of(nodes, block, cell, (rows, columns))
        similarity = []
        for other in nodes.astype(float):
            norms = max(np.sqrt(sum(v * v for v in nodes[here].astype(float))), 1e-12) * max(
                np.sqrt(sum(v * v for v in other)), 1e-12
            )
            similarity.append(sum(a * b for a, b in zip(nodes[here].astype(float), other, strict=True)) / norms)
        if kind == "attention":
            unit = [nodes[i].astype(float) / max(np.sqrt(sum(nodes[i].astype(float) ** 2)), 1e-12) for i in range(20)]
            asked = [sum(unit[here][c] * query[c, d] for c in range(6)) for d in range(3)]
            offered = [[sum(one[c] * key[c, d] for c in range(6)) for d in range(3)] for one in unit]
            similarity = [sum(a * b for a, b in zip(asked, other, strict=True)) for other in offered]
        if kind == "threshold":
            edges = [max(s - 0.4, 0.0) for s in similarity]
        elif kind == "topk":
            edges = [max(s, 0.0) if s >= sorted(similarity)[-4] else 0.0 for s in similarity]
        else:
            edges = [np.exp(s / 0.1) for s in similarity]
        total = max(sum(edges), 1e-12)
        np.testing.assert_allclose(found.similarity.reshape(-1), similarity, atol=1e-12)
        np.testing.assert_allclose(found.weights.reshape(-1), [e / total for e in edges], atol=1e-12)
        others = sorted((e / total for i, e in enumerate(edges) if i != here and e > 0), reverse=True)
        assert [edge.weight for edge in found.strongest(3)] == pytest.approx(others[:3], abs=1e-12)
        assert found.count == len(others)
        assert found.own == pytest.approx(edges[here] / total, abs=1e-12)


def test_pages_of_every_network(dense: Case, tmp_path: Path, read_page: ReadPage) -> None:
    check_page(dense.found["functions"], dense, tmp_path / "page", read_page)


@pytest.mark.slow
def test_page_of_super_features(case_of: Callable[[str], Case], tmp_path: Path, read_page: ReadPage) -> None:
    case = case_of("fire")
    check_page(case.found["functions"], case, tmp_path / "page", read_page)


def check_page(found: Inspection, case: Case, folder: Path, read_page: ReadPage) -> None:
    """Write a page: all its pictures are there, in their sizes, and none is of one colour."""
    facts = write_inspection(folder, found, case.bundles["functions"], case.photo, 10)
    page = read_page(folder / "index.html")
    names = {picture["file"] for picture in facts["pictures"]}
    assert {image.attributes["src"] for image in page.all("img")} == names
    assert {link.attributes["href"] for link in page.all("a")} == names
    assert {path.name for path in folder.iterdir()} == names | {"index.html", "inspection.json"}
    for picture in facts["pictures"]:
        with Pillow.open(folder / picture["file"]) as image:
            assert (image.format, list(image.size)) == ("PNG", picture["size"])
            large = picture["section"] == "edges" or picture["file"] in ("input.png", "attention.png", "selected.png")
            assert image.size == ((1024, 681) if large else (512, 340)), picture
            assert np.asarray(image).std(axis=(0, 1)).max() > 2, picture
    sections = {picture["section"] for picture in facts["pictures"]}
    config = case.network.config
    assert ("bandwidth" in sections) == ("confidence" in sections) == (config.smoothing.kind == "gaussian")
    assert ("edges" in sections) == (config.refinement is not None)
    assert ("superfeatures" in sections) == (config.lit is not None)
    titles = {
        "bandwidth": "Bandwidth of the smoothing",
        "edges": "Edges of the graph",
        "superfeatures": "Super-features",
    }
    assert {titles[name] for name in sections & titles.keys()} == set(page.texts("h2")) & set(titles.values())
    assert page.texts("p", "bad") == [f"Not shown – {line}." for line in facts["missing"]]
    kernel = facts["chosen"] and facts["chosen"]["kernel"]
    shares = [[f"{100 * share:.1f} %" for share in row] for row in kernel or []]
    assert page.tables()[:-1] == ([shares] if kernel else [])


def test_parameter_of_a_block_is_that_of_its_node(case_of: Callable[[str], Case]) -> None:
    """Thresholds that differ are told apart, whatever the exporter made one constant of."""
    case = case_of("both")
    path = case.bundles["functions"].file(case.bundles["functions"].artefacts[0])
    graph = BundleGraph(path)
    assert [block.parameter for block in graph.levels(1)[0].blocks] == [0.5, 0.5]
    proto = onnx.load(path)
    second = [node for node in proto.graph.node if node.op_type.startswith("GraphConvolution")][1]
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.75), "another"))
    second.input[2] = "another"
    for model in (proto, onnx.inliner.inline_local_functions(proto)):
        changed = path.with_name("changed.onnx")
        onnx.save(model, changed)
        assert [block.parameter for block in BundleGraph(changed).levels(1)[0].blocks] == [0.5, 0.75]
        changed.unlink()


def test_graph_of_another_form_has_no_maps(make_bundle: Callable[..., Bundle], photo: Path) -> None:
    bundle = make_bundle(image_size=64)
    found = inspect_photo(bundle, photo)
    expected = Extractor(bundle).extract_one(photo)
    np.testing.assert_array_equal(found.descriptors.positions, expected.positions)
    assert found.chosen is None and found.levels[0].attention is None
    assert "export" in found.missing[0]


def test_network_that_returns_nan(make_bundle: Callable[..., Bundle], photo: Path) -> None:
    with pytest.raises(BackendError, match="NaN or infinity"):
        inspect_photo(make_bundle(image_size=64, nan=True), photo)


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({"scale": 3.0}, ConfigError, r"--scale 3 .*: give 1$"),
        ({"at": (300.5, 20)}, PhotoError, r"astronaut\.png: .* 300\.5,20 .* 300×200 pixels"),
        ({"at": (float("nan"), 20)}, ConfigError, "--at nan,20"),
        ({"threads": 0}, ConfigError, "--threads"),
    ],
)
def test_mistakes(
    config: dict[str, Any], error: type[Exception], words: str, case_of: Callable[[str], Case], photo: Path
) -> None:
    with pytest.raises(error, match=words):
        inspect_photo(case_of("both").bundles["functions"], photo, InspectionConfig(**config))


def test_position_outside_of_the_box(case_of: Callable[[str], Case], photo: Path) -> None:
    with pytest.raises(PhotoError, match=r"100,150 does not lie in the box 0,0,90,90"):
        config = InspectionConfig(box=Box(x0=0, y0=0, x1=90, y1=90), at=(100, 150))
        inspect_photo(case_of("both").bundles["functions"], photo, config)


@pytest.mark.parametrize(
    ("mode", "name", "colour", "conversion"),
    [
        ("L", "grey.jpg", "grey, 8 bits", "grey in all three channels"),
        ("CMYK", "print.jpg", "CMYK", "converted to RGB"),
        ("RGBA", "glass.png", "RGB with transparency", "composited on white"),
        ("I;16", "scan.png", "I;16", "divided by 257, from 16 bits to 8"),
        ("P", "few.gif", "palette", "converted to RGB"),
    ],
)
def test_preparation(
    mode: str, name: str, colour: str, conversion: str, make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    if mode == "I;16":
        samples = np.arange(120 * 80, dtype=np.uint16).reshape(80, 120) * 6
        image = Pillow.fromarray(samples)
    else:
        image = Pillow.fromarray(sample_photo("coffee")).resize((120, 80)).convert(mode)
    image.save(tmp_path / name)
    bundle = make_bundle(image_size=64)
    found = inspect_photo(bundle, tmp_path / name)
    done = found.preparation
    assert (done.colour, done.conversion) == (colour, conversion)
    assert (done.stored_size, done.original_size, done.input_size) == ((120, 80), (120, 80), (64, 43))
    assert (done.box, done.orientation, done.turn, done.left_out) == (None, 1, "none", ())
    assert done.bytes == (tmp_path / name).stat().st_size
    np.testing.assert_array_equal(found.photo.pixels, decode_photo(tmp_path / name, bundle.preprocessing).pixels)


@pytest.mark.parametrize("size", [(1, 1), (700, 3), (3, 170)])
def test_photos_of_odd_shapes(size: tuple[int, int], case_of: Callable[[str], Case], tmp_path: Path) -> None:
    case = case_of("both")
    Pillow.fromarray(sample_photo("coffee")).resize(size).save(tmp_path / "odd.png")
    found = inspect_photo(case.bundles["functions"], tmp_path / "odd.png", InspectionConfig(at=size))
    expected = Extractor(case.bundles["functions"]).extract_one(tmp_path / "odd.png")
    np.testing.assert_array_equal(found.descriptors.positions, expected.positions)
    level = found.levels[0]
    assert found.chosen is not None and level.attention is not None
    assert (found.chosen.row + 1, found.chosen.column + 1) == level.attention.shape
    kernel = level.kernel(found.chosen.row, found.chosen.column)
    assert kernel is not None and kernel.sum() == pytest.approx(1.0)
    facts = write_inspection(tmp_path / "page", found, case.bundles["functions"], tmp_path / "odd.png", 5)
    assert facts["scales"][0]["positions"] == level.attention.size
    for block, edges in zip(facts["chosen"]["blocks"], found.chosen.blocks, strict=True):
        assert edges.weights.sum() == pytest.approx(1.0)
        assert len(block["strongest"]) == min(edges.count, 5)
