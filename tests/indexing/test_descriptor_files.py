"""Descriptor files of DELF and DELG, as the library writes them, to archives and answers, without a network."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ctxdeploy.core.delf_files import read_local
from ctxdeploy.core.errors import ConfigError, MismatchError, NoPhotosError
from ctxdeploy.core.progress import Display
from ctxdeploy.index import Codebook, DescriptorSource, Index, IndexConfig
from ctxdeploy.indexing.config import IndexingConfig
from ctxdeploy.indexing.described_photo import list_descriptors
from ctxdeploy.indexing.descriptor_files import DescriptorFilesJob
from ctxdeploy.indexing.report import IndexingReport

DIM, GLOBAL_DIM, SILENT = 16, 24, Display(quiet=True)
NAMES = [f"{folder}/photo{number}.jpg" for folder in ("a", "b/c") for number in range(6)]
Write = Callable[..., dict[str, NDArray[np.float32]]]


@pytest.fixture
def write(load_reference: Callable[[str], ModuleType], tmp_path: Path) -> Write:
    """Write the files of some photos, of which each half shows the same; return the global vectors."""
    writer = load_reference("delf_files")

    def write(*suffixes: str, names: list[str] = NAMES, folder: str = "files") -> dict[str, NDArray[np.float32]]:
        vectors = {}
        for place, name in enumerate(names):
            random, scene = np.random.default_rng(place), np.random.default_rng(100 + place // 6)
            local = scene.standard_normal((40, DIM)) + 0.3 * random.standard_normal((40, DIM))
            places, strengths = random.uniform(1, 500, (40, 2)), random.uniform(100, 300, 40)
            whole = scene.standard_normal(GLOBAL_DIM) + 0.3 * random.standard_normal(GLOBAL_DIM)
            vectors[name] = (whole / np.linalg.norm(whole)).astype(np.float32)
            for suffix in suffixes:
                path = tmp_path / folder / (name + suffix)
                path.parent.mkdir(parents=True, exist_ok=True)
                if suffix == ".delg_global":
                    path.write_bytes(writer.datum(vectors[name]))
                else:
                    path.write_bytes(writer.features(local, places, random.choice([0.5, 1, 2], 40), strengths))
        return vectors

    return write


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., IndexingReport]:
    def run(folder: str = "files", archive: str = "a.ctxindex", **settings: Any) -> IndexingReport:
        photos = list_descriptors(tmp_path / folder)
        return DescriptorFilesJob(tmp_path / archive, photos, IndexingConfig(**settings), SILENT).run()

    return run


def test_answers_are_those_of_the_same_arrays(tmp_path: Path, write: Write, run: Any) -> None:
    vectors = write(".delg_local", ".delg_global")
    report = run(words=16, geometry="codes", global_vectors="fp32")
    assert (report.found, report.indexed, report.failed, report.descriptors) == (12, 12, 0, 12 * 40)
    made = Index.open(tmp_path / "a.ctxindex")
    assert len(made.codebook) == 16
    config = IndexConfig(geometry="codes", global_vectors="fp32", global_dim=GLOBAL_DIM)
    arrays = {name: read_local(tmp_path / "files" / f"{name}.delg_local") for name in NAMES}
    with Index.create(tmp_path / "b.ctxindex", made.codebook, config=config) as other:
        for name in NAMES:
            other.add(name, arrays[name], global_descriptor=vectors[name])
    other = Index.open(tmp_path / "b.ctxindex")
    assert sorted(made.names()) == NAMES
    for name in NAMES:
        assert made.search(name) == other.search(name)
        assert made.search(arrays[name]) == other.search(arrays[name])
        assert made.search_global([name], 12) == other.search_global([name], 12)
        assert np.array_equal(made.features(name).positions, other.features(name).positions)
        assert np.array_equal(made.features(name).codes, other.features(name).codes)
    assert {hit.name[:2] for hit in made.search("a/photo0.jpg", top=6)} == {"a/"}
    assert made.source is not None and made.source.model == "descriptor files .delg_local, .delg_global"


def test_a_damaged_file_and_one_of_another_size_are_listed_and_the_others_go_on(
    tmp_path: Path, write: Write, run: Any, load_reference: Any
) -> None:
    write(".delf")
    writer, files = load_reference("delf_files"), tmp_path / "files" / "a"
    path = files / "photo0.jpg.delf"
    path.write_bytes(path.read_bytes()[:-7])
    one = np.ones((3, DIM + 1))
    (files / "photo1.jpg.delf").write_bytes(writer.features(one, one[:, :2], one[:, 0], one[:, 0]))
    (files / "photo2.jpg.delf").write_bytes(b"")
    report = run(words=16)
    assert (report.indexed, report.failed) == (10, 2)
    reasons = {failure["name"]: failure["reason"] for failure in report.failures}
    assert reasons["a/photo0.jpg"].startswith("photo0.jpg.delf does not hold descriptors as the DELF library writes")
    assert reasons["a/photo1.jpg"] == f"descriptors have dimension {DIM + 1}, but the codebook has {DIM}"
    assert [remark["name"] for remark in report.remarks] == ["a/photo2.jpg"]
    with Index.open(tmp_path / "a.ctxindex") as index:
        assert {failure["name"] for failure in index.failures()} == set(reasons)


def test_a_second_run_takes_what_is_new_or_changed(tmp_path: Path, write: Write, run: Any) -> None:
    write(".delg_local", ".delg_global", names=NAMES[:8])
    assert run(words=16).indexed == 8
    again = run()
    assert (again.indexed, again.replaced, again.unchanged) == (0, 0, 8)
    write(".delg_local", ".delg_global", names=NAMES)
    whole = tmp_path / "files" / f"{NAMES[0]}.delg_global"
    whole.write_bytes(whole.read_bytes() + b"\x08\x08")  # of its vector alone: now damaged
    (tmp_path / "files" / f"{NAMES[11]}.delg_global").unlink()
    (tmp_path / "files" / f"{NAMES[5]}.delg_local").unlink()
    (tmp_path / "files" / f"{NAMES[5]}.delg_global").unlink()
    report = run(sync=True)
    reasons = {failure["name"]: failure["reason"] for failure in report.failures}
    assert set(reasons) == {NAMES[0], NAMES[11]} and report.removed == 1
    assert reasons[NAMES[0]].startswith("photo0.jpg.delg_global is not an array")
    assert reasons[NAMES[11]] == "it has a .delg_local file, but no .delg_global"
    assert report.indexed == 3
    assert run().given_up == 2


def test_global_vectors_alone_need_no_codebook(tmp_path: Path, write: Write, run: Any) -> None:
    vectors = write(".delg_global")
    with pytest.raises(
        ConfigError, match=r"--words is about local descriptors, and .* holds \.delg_global files alone"
    ):
        run(words=16)
    assert run().indexed == 12
    with Index.open(tmp_path / "a.ctxindex") as index:
        assert not index.keeps_local and index.config.global_vectors == "fp16"
        for name, hits in zip(NAMES, index.search_global(list(NAMES), 6), strict=True):
            assert hits[0].name == name and {hit.name[:2] for hit in hits} == {name[:2]}
            assert np.allclose(index.global_vectors([name])[0], vectors[name], atol=1e-3)


def test_vectors_that_some_photos_lack_are_left_out_or_refused(tmp_path: Path, write: Write, run: Any) -> None:
    write(".delg_local", ".delg_global")
    (tmp_path / "files" / f"{NAMES[3]}.delg_global").unlink()
    with pytest.raises(ConfigError, match=r"--global int8: 1 of 12 photos have no \.delg_global file"):
        run(words=16, global_vectors="int8")
    assert run(words=16).indexed == 12
    with Index.open(tmp_path / "a.ctxindex") as index:
        assert not index.config.keeps_global


def test_without_files_of_vectors_they_are_sums(tmp_path: Path, write: Write, run: Any) -> None:
    write(".delf")
    assert run(words=16, global_vectors="fp16").indexed == 12
    with Index.open(tmp_path / "a.ctxindex") as index:
        assert index.config.global_dim == DIM and {h.name[:2] for h in index.search_global([NAMES[0]], 6)[0]} == {"a/"}


def test_a_codebook_that_is_given(tmp_path: Path, write: Write, run: Any) -> None:
    write(".delf")
    codebook = Codebook.from_centroids(np.random.default_rng(0).standard_normal((32, DIM)).astype(np.float32))
    codebook.save(tmp_path / "codebook")
    assert run(codebook=tmp_path / "codebook").indexed == 12
    with Index.open(tmp_path / "a.ctxindex") as index:
        assert index.codebook.id == codebook.id
    Codebook.from_centroids(np.ones((2, 5), np.float32)).save(tmp_path / "other")
    with pytest.raises(ConfigError, match=f"has dimension 5, the descriptors {DIM}"):
        run(archive="b.ctxindex", codebook=tmp_path / "other")
    assert not (tmp_path / "b.ctxindex").exists()


def test_what_is_not_such_a_folder(tmp_path: Path, write: Write, run: Any) -> None:
    with pytest.raises(ConfigError, match=r"--descriptors .*files is not a folder"):
        run()
    (tmp_path / "files").mkdir()
    with pytest.raises(NoPhotosError, match=r"holds no descriptor files \(looked for \.delf, \.delg_local or"):
        run()
    write(".delf", ".delg_global", names=["x"])
    with pytest.raises(ConfigError, match=r"holds \.delf, \.delg_global files, of two networks"):
        run()
    shutil.rmtree(tmp_path / "files")
    write(".delf")
    random = np.random.default_rng(0).standard_normal((16, DIM)).astype(np.float32)
    source = DescriptorSource(model="m", preprocessing="p")
    Index.create(tmp_path / "net.ctxindex", Codebook.from_centroids(random), source=source).close()
    with pytest.raises(
        MismatchError, match=r"was made by a network, and .*files holds \.delf files: choose another -o"
    ):
        run(archive="net.ctxindex")
    run(words=16)
    shutil.rmtree(tmp_path / "files")
    write(".delg_local")
    with pytest.raises(MismatchError, match=r"was made of \.delf files, and .*files holds \.delg_local files"):
        run()
