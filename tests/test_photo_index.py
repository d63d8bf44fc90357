"""The door: create, open, add, search, remove, refresh, from one thread and from many; what it refuses."""

import gc
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ctxdeploy
from ctxdeploy import IndexedPhoto, IndexingConfig, PhotoIndex, QueryConfig
from ctxdeploy.core.errors import (
    ArchiveError,
    BundleError,
    ConfigError,
    MismatchError,
    NoPhotosError,
    PhotoError,
    StorageError,
)
from ctxdeploy.core.samples import ViewConfig, make_view, sample_photo
from ctxdeploy.index import Index
from ctxdeploy.models import DEFAULT, built_in
from ctxdeploy.runtime import ExtractorConfig
from ctxdeploy.shared_state import SharedState

SCENES = ("coffee", "rocket", "chelsea", "astronaut")
THREADS = 4


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two views of each of four scenes, and one file that cannot be read."""
    folder = tmp_path_factory.mktemp("door") / "photos"
    folder.mkdir()
    random = np.random.default_rng(5)
    for scene in SCENES:
        for view in range(2):
            shown = make_view(sample_photo(scene), random, ViewConfig(longest=320))
            shown.save(folder / f"{scene}_{view}.png")
    (folder / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    return folder


@pytest.fixture(scope="module")
def archive(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an archive of the folder, made through the door with the built-in model."""
    path = tmp_path_factory.mktemp("archive") / "photos.ctxindex"
    with PhotoIndex.create(path) as made:
        report = made.add(photos)
    assert (report.indexed, report.failed) == (8, 1)
    return path


def hits_of(index: PhotoIndex, photo: object) -> list[tuple[str, float]]:
    return [(hit.name, hit.score) for hit in index.search(photo, top=4)]  # type: ignore[arg-type]


def test_all_kinds_of_queries_find_the_same(archive: Path, photos: Path) -> None:
    with PhotoIndex.open(archive) as index:
        for scene in SCENES:
            path = photos / f"{scene}_0.png"
            wanted = hits_of(index, path)
            assert wanted[0][0] == path.name and wanted[1][0] == f"{scene}_1.png"
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
                given = [str(path), path.read_bytes(), image, pixels]
                assert [hits_of(index, photo) for photo in given] == [wanted] * len(given)
            (many,) = index.search_many([path], QueryConfig(top=4))
            assert not isinstance(many, PhotoError)
            assert [(hit.name, hit.score) for hit in many.hits] == wanted


def test_a_photo_of_the_archive_is_asked_with_what_is_stored(
    archive: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*given: object, **settings: object) -> object:
        raise AssertionError("a network was loaded")

    with PhotoIndex.open(archive) as index, Index.open(archive) as state:
        (mixed,) = (hits_of(index, photos / "coffee_0.png"),)
        monkeypatch.setattr(index._model, "extractor", load)
        for name in ("coffee_0.png", "rocket_1.png"):
            (codes,) = state.aggregated([name])
            wanted = [(hit.name, hit.score) for hit in state.search(codes, 4)]
            assert wanted[0] == (name, pytest.approx(1.0))
            plain = QueryConfig(top=4, expand=0)
            found = [index.search(photo, config=plain) for photo in (IndexedPhoto(name=name), name)]
            assert [[(hit.name, hit.score) for hit in hits] for hits in found] == [wanted, wanted]
        monkeypatch.undo()
        first, second, third = index.search_many(
            [IndexedPhoto(name="rocket_1.png"), IndexedPhoto(name="nobody"), photos / "coffee_0.png"]
        )
        assert not isinstance(first, PhotoError) and first.is_indexed and first.descriptors is None
        assert first.photo.path == photos / "rocket_1.png"
        assert isinstance(second, PhotoError) and "nobody: the archive holds no photo of this name" in str(second)
        assert not isinstance(third, PhotoError) and not third.is_indexed
        assert [(hit.name, hit.score) for hit in third.hits[:4]] == mixed
        part = index.search("coffee_0.png", box=(0, 0, 150, 150), top=4)
        assert part == index.search(photos / "coffee_0.png", box=(0, 0, 150, 150), top=4)


def test_grey_arrays_are_grey_photos(archive: Path, photos: Path, tmp_path: Path) -> None:
    grey = np.asarray(Image.open(photos / "rocket_0.png").convert("L"))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    with PhotoIndex.open(archive) as index:
        wanted = hits_of(index, tmp_path / "grey.png")
        assert wanted and hits_of(index, grey) == hits_of(index, grey[:, :, None]) == wanted


def test_an_image_keeps_its_orientation_and_colours(archive: Path, photos: Path, tmp_path: Path) -> None:
    with Image.open(photos / "coffee_0.png") as image:
        exif = Image.Exif()
        exif[0x0112] = 6
        image.convert("RGB").rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
        image.convert("CMYK").save(tmp_path / "cmyk.tif")
    with PhotoIndex.open(archive) as index, Image.open(tmp_path / "turned.png") as turned:
        assert (
            hits_of(index, turned) == hits_of(index, tmp_path / "turned.png") == hits_of(index, photos / "coffee_0.png")
        )
        with Image.open(tmp_path / "cmyk.tif") as cmyk:
            assert hits_of(index, cmyk) == hits_of(index, tmp_path / "cmyk.tif")


def test_an_image_takes_nothing_else_of_its_file_along(archive: Path, photos: Path, tmp_path: Path) -> None:
    """Its compression would lose something; tags of another layout, or damaged ones, would spoil what is written."""
    with Image.open(photos / "rocket_0.png") as image:
        pixels = image.convert("RGB")
    pixels.save(tmp_path / "jpeg.tif", compression="jpeg", quality=50)
    pixels.save(tmp_path / "lzw.tif", compression="tiff_lzw")
    exif = Image.Exif()
    exif[0x0112], exif[0x0102], exif[0x0103], exif[0x0111] = 1, (1, 2, 3), 7, 3
    pixels.save(tmp_path / "tags.jpg", exif=exif)
    text_for_orientation = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x01abcd\0\0\0\0"
    pixels.save(tmp_path / "damaged.jpg", exif=text_for_orientation)
    with PhotoIndex.open(archive) as index:
        for file in ("jpeg.tif", "lzw.tif", "tags.jpg", "damaged.jpg"):
            with Image.open(tmp_path / file) as opened:
                assert hits_of(index, opened) == hits_of(index, tmp_path / file), file
        pixels.info["exif"] = b"nonsense"
        assert hits_of(index, pixels) == hits_of(index, photos / "rocket_0.png")


@pytest.mark.parametrize(
    "photo",
    [
        3,
        None,
        np.zeros((4, 4), np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((2, 2, 2, 3), np.uint8),
    ],
)
def test_what_is_not_a_photo_is_refused(archive: Path, photo: object) -> None:
    with PhotoIndex.open(archive) as index, pytest.raises(ConfigError, match="give"):
        index.search(photo)  # type: ignore[arg-type]


def test_a_query_that_cannot_be_read(archive: Path, photos: Path) -> None:
    with PhotoIndex.open(archive) as index:
        with pytest.raises(ConfigError, match="several"):
            next(index.search_many("coffee_0.png"))
        for bad in (photos / "torn.jpg", "nowhere.jpg", "x" * 5000, "a\0b", b"", b"GIF89a"):
            with pytest.raises(PhotoError):
                index.search(bad)
        first, second, third = index.search_many([photos / "coffee_0.png", b"no photo", photos / "rocket_0.png"])
        assert isinstance(second, PhotoError)
        assert not isinstance(first, PhotoError) and first.hits[0].name == "coffee_0.png"
        assert not isinstance(third, PhotoError) and third.hits[0].name == "rocket_0.png"


def test_boxes(archive: Path, photos: Path) -> None:
    with PhotoIndex.open(archive) as index:
        whole, part = index.search(photos / "coffee_0.png"), index.search(photos / "coffee_0.png", box=(0, 0, 150, 150))
        assert part[0].name == "coffee_0.png" and part[0].score < whole[0].score
        with pytest.raises(ConfigError, match="four numbers"):
            index.search(photos / "coffee_0.png", box=(1, 2, 3))
        with pytest.raises(PhotoError, match="does not lie in the photo"):
            index.search(photos / "coffee_0.png", box=(0, 0, 5000, 10))
        with pytest.raises(ConfigError, match="top"):
            index.search(photos / "coffee_0.png", top=0)


def test_threads_find_what_one_finds(archive: Path, photos: Path) -> None:
    queries = [photos / f"{scene}_{view}.png" for scene in SCENES for view in range(2)] * 3
    with PhotoIndex.open(archive) as index, ThreadPoolExecutor(THREADS) as pool:
        wanted = [hits_of(index, query) for query in queries]
        assert list(pool.map(lambda query: hits_of(index, query), queries)) == wanted
        assert list(pool.map(lambda query: hits_of(index, query.read_bytes()), queries)) == wanted


def test_searches_go_on_while_photos_come_and_go(photos: Path, tmp_path: Path) -> None:
    def pairs() -> list[tuple[str, Path]]:
        return [(f"{turn}/{scene}", photos / f"{scene}_1.png") for turn in range(3) for scene in SCENES]

    with PhotoIndex.create(tmp_path / "a") as index:
        index.add([("coffee", photos / "coffee_0.png")])
        stop, seen, failures = threading.Event(), set[int](), list[BaseException]()

        def search() -> None:
            try:
                while not stop.is_set():
                    found = [hit.name for hit in index.search(photos / "coffee_0.png", top=50)]
                    assert found[0] == "coffee"
                    seen.add(len(index))
            except BaseException as error:
                failures.append(error)

        searchers = [threading.Thread(target=search) for _ in range(THREADS)]
        for searcher in searchers:
            searcher.start()
        index.add(pairs())
        assert index.remove([name for name, _ in pairs()[:5]]) == 5
        stop.set()
        for searcher in searchers:
            searcher.join()
        assert failures == []
        assert seen <= {1, 13, 8} and len(index) == 8


def test_pairs_replace_those_of_their_names(photos: Path, tmp_path: Path) -> None:
    with PhotoIndex.create(tmp_path / "a") as index:
        first = index.add([("x", photos / "coffee_0.png"), ("y", (photos / "rocket_0.png").read_bytes())])
        assert (first.found, first.indexed, first.replaced) == (2, 2, 0)
        second = index.add(iter([("x", photos / "chelsea_0.png"), ("bad", b"no photo")]))
        assert (second.found, second.indexed, second.replaced, second.failed) == (2, 0, 1, 1)
        assert index.search(photos / "chelsea_1.png", top=1)[0].name == "x"
        assert [failure["name"] for failure in index.failures()] == ["bad"]
        assert "x" in index and "bad" not in index and sorted(index.names()) == ["x", "y"]


def test_what_was_done_stays_when_the_pairs_end_in_an_error(photos: Path, tmp_path: Path) -> None:
    def pairs(error: BaseException) -> Iterator[tuple[str, Path]]:
        for number in range(8):
            yield f"{type(error).__name__} {number}", photos / "coffee_0.png"
        raise error

    with PhotoIndex.create(tmp_path / "a", extraction=ExtractorConfig(workers=1, lookahead=1)) as index:
        for error in (ValueError("mine"), KeyboardInterrupt(), ConfigError("mine")):
            before = len(index)
            with pytest.raises(type(error)):
                index.add(pairs(error))
            with PhotoIndex.open(tmp_path / "a") as reader:
                assert before < len(reader) == len(index)


def test_pairs_that_change_the_archive_are_refused(photos: Path, tmp_path: Path) -> None:
    with PhotoIndex.create(tmp_path / "a") as index:
        for change in (lambda: index.remove("x"), lambda: index.add([]), index.close):

            def pairs(change: Callable[[], object] = change) -> Iterator[tuple[str, Path]]:
                yield "coffee", photos / "coffee_0.png"
                assert "nobody" not in index  # reading is allowed
                change()

            with pytest.raises(ConfigError, match="being added"):
                index.add(pairs())
        assert index.add([("rocket", photos / "rocket_0.png")]).indexed == 1


@pytest.mark.parametrize("given", [["coffee_0.png"], {"a": "coffee_0.png"}, b"xy", None, 3, [(1, b"x")], [("a",)]])
def test_what_are_no_pairs_is_refused(photos: Path, tmp_path: Path, given: object) -> None:
    with PhotoIndex.create(tmp_path / "a") as index:
        with pytest.raises(ConfigError, match="pairs such as"):
            index.add(given)  # type: ignore[arg-type]
        assert len(index) == 0


def test_an_image_that_cannot_be_read_is_one_failure_among_the_photos(photos: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.png"
    torn.write_bytes((photos / "coffee_0.png").read_bytes()[:4000])
    with PhotoIndex.create(tmp_path / "a") as index, Image.open(torn) as image:
        report = index.add([("torn", image), ("coffee", photos / "coffee_0.png")])
        assert (report.indexed, report.failed) == (1, 1)
        assert index.names() == ["coffee"] and [failure["name"] for failure in index.failures()] == ["torn"]
        first, second = index.search_many([image, photos / "coffee_0.png"])
        assert isinstance(first, PhotoError) and "truncated" in str(first) and not isinstance(second, PhotoError)
        with pytest.raises(PhotoError, match=r"pixels: .* truncated"):
            index.search(image)


def test_any_text_names_a_photo(photos: Path, tmp_path: Path) -> None:
    names = ["", "\udcff.jpg", "x" * 5000, "a\0b"]
    with PhotoIndex.create(tmp_path / "a") as index:
        index.add((name, (photos / "coffee_0.png").read_bytes()) for name in names)
        assert sorted(index.names()) == sorted(names)
        for name in names[2:]:
            assert index.search(name)[0].score > 0.99  # asked with its codes
            with pytest.raises(PhotoError, match="does not say where the files of its photos are"):
                index.search(name, box=(0, 0, 9, 9))
        assert index.remove("") == 1 and index.remove("x" * 5000) == 1 and len(index) == 2


def test_a_codebook_is_trained_from_what_comes_first(photos: Path, tmp_path: Path) -> None:
    index = PhotoIndex.create(tmp_path / "a", config=IndexingConfig(words=32))
    assert not (tmp_path / "a").exists() and len(index) == 0
    with pytest.raises(ArchiveError, match="has no photos yet"):
        index.search(photos / "coffee_0.png")
    index.add((path.name, path) for path in sorted(photos.glob("*.png")))
    assert index.info()["codebook"]["words"] == 32
    assert index.search(photos / "coffee_0.png", top=1)[0].name == "coffee_0.png"
    index.close()


def test_an_interrupted_training_leaves_no_descriptors_of_other_bytes(photos: Path, tmp_path: Path) -> None:
    coffee, rocket = ((photos / f"{scene}_0.png").read_bytes() for scene in ("coffee", "rocket"))
    with PhotoIndex.create(tmp_path / "a", config=IndexingConfig(words=60000)) as index:
        with pytest.raises(ConfigError, match="60000"):
            index.add([("upload", coffee)])
        index.add([("upload", rocket)], config=IndexingConfig(words=32))
        (right,), wrong = index.search(rocket), index.search(coffee)
        assert all(right.score > 2 * hit.score for hit in wrong)


def test_readers_move_on_when_they_are_told(photos: Path, tmp_path: Path) -> None:
    with PhotoIndex.create(tmp_path / "a") as writer:
        writer.add([("coffee", photos / "coffee_0.png")])
        with PhotoIndex.open(tmp_path / "a") as reader:
            writer.add([("rocket", photos / "rocket_0.png")])
            assert len(reader) == 1
            assert "rocket" not in {hit.name for hit in reader.search(photos / "rocket_0.png")}
            assert reader.refresh() and not reader.refresh()
            assert len(reader) == 2 and reader.search(photos / "rocket_0.png", top=1)[0].name == "rocket"
            with pytest.raises(ArchiveError, match="opened for reading"):
                reader.add([("x", photos / "coffee_0.png")])
            with pytest.raises(ArchiveError, match="opened for reading"):
                reader.remove(["coffee"])
        with pytest.raises(ArchiveError, match="is being written"):
            PhotoIndex.open(tmp_path / "a", writable=True)
    with PhotoIndex.open(tmp_path / "a", writable=True) as writer:
        assert writer.remove(["coffee", "nobody"]) == 1 and "coffee" not in writer


def test_nobody_waits_while_a_newer_state_is_opened(archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "a"
    shutil.copytree(archive, path)
    state = SharedState(path, None)
    with state.reading() as index:
        before = index.state.manifest.number
    with Index.open(path, writable=True) as writer:
        writer.remove("coffee_0.png")
    opened, go_on = threading.Event(), threading.Event()

    def prepare(newer: Index) -> None:
        opened.set()
        assert go_on.wait(60)

    with ThreadPoolExecutor(1) as threads:
        moved = threads.submit(state.refresh, prepare)
        assert opened.wait(60)
        with state.reading() as index:  # the newer one is not ready: this one is, at once
            assert index.state.manifest.number == before and "coffee_0.png" in index
        go_on.set()
        assert moved.result()
    with state.reading() as index:
        assert index.state.manifest.number > before and "coffee_0.png" not in index
    state.close()


def test_a_state_that_cannot_be_read_leaves_the_former_in_force(archive: Path, photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "a"
    shutil.copytree(archive, path)
    with PhotoIndex.open(path) as index:
        with index.reading() as held:
            number = held.state.manifest.number
        (path / "CURRENT").write_text("nonsense")
        with pytest.raises(ArchiveError):
            index.refresh(prepare=True)
        assert index.search(photos / "coffee_0.png", top=1)[0].name == "coffee_0.png"
        with index.reading() as held:
            assert held.state.manifest.number == number


def test_a_writer_keeps_no_former_state_from_garbage_collection(photos: Path, tmp_path: Path) -> None:
    with PhotoIndex.create(tmp_path / "a") as index:
        for scene in SCENES:
            index.add([(scene, photos / f"{scene}_0.png")], config=IndexingConfig(collect_garbage=True))
        assert len(index) == 4
        index.add([("last", photos / "coffee_1.png")], config=IndexingConfig(collect_garbage=True))
        assert len(index) == 5
    with PhotoIndex.open(tmp_path / "a", writable=True) as index:
        index.add([("more", photos / "coffee_1.png")], config=IndexingConfig(collect_garbage=True))
    assert len(list((tmp_path / "a").glob("manifest-*"))) == 1


def test_a_former_state(photos: Path, tmp_path: Path) -> None:
    with PhotoIndex.create(tmp_path / "a") as index:
        index.add([("coffee", photos / "coffee_0.png")])
        with Index.open(tmp_path / "a") as state:
            state.snapshot("before")
        index.add([("rocket", photos / "rocket_0.png")])
    with PhotoIndex.open(tmp_path / "a", at="before") as before:
        number = before.info()["manifest"]
        assert before.names() == ["coffee"] and "as of before" in repr(before) and not before.refresh()
    for at in (number, str(number)):
        with PhotoIndex.open(tmp_path / "a", at=at) as before:
            assert before.names() == ["coffee"] and f"as of {number}" in repr(before)
    with pytest.raises(ConfigError, match="cannot be written"):
        PhotoIndex.open(tmp_path / "a", at="before", writable=True)


def test_what_is_refused(archive: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="exists: open it"):
        PhotoIndex.create(archive)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").touch()
    with pytest.raises(ArchiveError, match=r"letter\.txt"):
        PhotoIndex.create(tmp_path / "other")
    with pytest.raises(ArchiveError, match="is not an archive"):
        PhotoIndex.open(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="is not a bundle"):
        PhotoIndex.create(tmp_path / "a", model=photos)
    assert not (tmp_path / "a").exists()
    with PhotoIndex.open(archive) as index, pytest.raises(ConfigError, match="either an extractor"):
        PhotoIndex.open(archive, extractor=index._model.extractor(), extraction=ExtractorConfig())
    (tmp_path / "empty").mkdir()
    with PhotoIndex.create(tmp_path / "b") as index:
        with pytest.raises(NoPhotosError):
            index.add(tmp_path / "empty")
        with pytest.raises(ConfigError):
            index.add(tmp_path / "nowhere")


def test_another_model_is_refused(archive: Path, photos: Path, tmp_path: Path) -> None:
    import shutil
    from dataclasses import replace

    from ctxdeploy.core import bundle

    shutil.copytree(built_in(DEFAULT), tmp_path / "m")
    opened = bundle.open(tmp_path / "m")
    replace(opened, extraction=replace(opened.extraction, scales=(1.0,))).write_manifest()
    with (
        PhotoIndex.open(archive, model=tmp_path / "m") as index,
        pytest.raises(MismatchError, match="was made with model"),
    ):
        index.search(photos / "coffee_0.png")


def test_closed_is_closed(photos: Path, tmp_path: Path) -> None:
    index = PhotoIndex.create(tmp_path / "a")
    index.add([("coffee", photos / "coffee_0.png")])
    assert repr(index).startswith("<PhotoIndex") and "1 photos" in repr(index) and "\n" not in repr(index)
    index.close()
    index.close()
    assert "closed" in repr(index)
    for use in (lambda: index.search(photos / "coffee_0.png"), lambda: index.add([]), index.refresh, index.info):
        with pytest.raises(ArchiveError, match="is closed"):
            use()
    PhotoIndex.open(tmp_path / "a", writable=True).close()


def test_closing_lets_searches_finish(archive: Path, photos: Path) -> None:
    index = PhotoIndex.open(archive)
    answers = index.search_many([photos / "coffee_0.png", photos / "rocket_0.png"])
    first = next(answers)
    index.close()
    second = next(answers)
    assert not isinstance(first, PhotoError) and not isinstance(second, PhotoError)
    assert (first.hits[0].name, second.hits[0].name) == ("coffee_0.png", "rocket_0.png")


def test_closing_while_photos_are_added_is_no_error_of_add(photos: Path, tmp_path: Path) -> None:
    index = PhotoIndex.create(tmp_path / "a")
    assert len(index) == 0
    closing = threading.Thread(target=index.close)

    def pairs() -> Iterator[tuple[str, Path]]:
        yield "coffee", photos / "coffee_0.png"
        closing.start()
        while "closed" not in repr(index):
            pass

    assert index.add(pairs()).indexed == 1
    closing.join()
    with PhotoIndex.open(tmp_path / "a", writable=True) as again:
        assert again.names() == ["coffee"]


def test_an_archive_that_was_dropped_can_be_written_again(photos: Path, tmp_path: Path) -> None:
    index = PhotoIndex.create(tmp_path / "a")
    answers = index.search_many([photos / "coffee_0.png"] * 2)
    next(answers)
    del index, answers
    gc.collect()
    PhotoIndex.open(tmp_path / "a", writable=True).close()


def test_an_archive_that_gets_no_model_can_be_written_again(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(archive: Path, bundle: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("ctxdeploy.photo_index.store_model", full)
        with pytest.raises(StorageError) as kept:  # its traceback holds on to what create had opened
            PhotoIndex.create(tmp_path / "a")
    with PhotoIndex.open(tmp_path / "a", writable=True, model=DEFAULT) as again:
        again.add([("coffee", photos / "coffee_0.png")])
    assert "full" in str(kept.value)


def test_a_reader_that_the_garbage_collector_ends_does_not_wait_for_itself(archive: Path) -> None:
    state = SharedState(archive, None)

    def read() -> Iterator[None]:
        with state.reading():
            yield

    reader = read()
    next(reader)
    with state._lock:
        del reader
    state.close()


def test_help_shows_what_is_public(tmp_path: Path) -> None:
    shown = {name for name in dir(ctxdeploy) if not name.startswith("__")}
    assert shown == set(ctxdeploy.__all__)
    for name in ctxdeploy.__all__:
        assert getattr(ctxdeploy, name).__doc__, name
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = ctxdeploy.nothing_of_the_kind
    text = subprocess.run(
        [sys.executable, "-c", "import ctxdeploy; help(ctxdeploy)"],
        cwd=tmp_path, capture_output=True, text=True, check=True, env={**os.environ, "PAGER": "cat"},
    ).stdout  # fmt: skip
    assert "PhotoIndex" in text and "import_module" not in text and "TYPE_CHECKING" not in text


def test_python_m_ctxdeploy_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "ctxdeploy", "--version"], capture_output=True, text=True, check=True)
    assert ctxdeploy.__version__ in done.stdout
