"""Which codebook an evaluation uses, and whether it was trained on the photos that are evaluated.

Words that were fitted to the very photos that are searched make the figures of a paper look better than those of an
archive that grows: papers train them on another set, and so must whoever compares with them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.archive import is_archive
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.progress import Display
from ctxdeploy.core.settings import setting
from ctxdeploy.core.text import printable
from ctxdeploy.evaluation.dataset import DataSet
from ctxdeploy.indexing.codebook import CodebookTrainer, TrainingConfig, codebook_of, marks_of, share_in
from ctxdeploy.indexing.config import NO_LIMIT
from ctxdeploy.indexing.descriptor_cache import DescriptorCache
from ctxdeploy.indexing.given_codebook import open_given

if TYPE_CHECKING:
    from ctxdeploy.index import Codebook
    from ctxdeploy.runtime import Extractor, PhotoSource

SAME_SET = "--codebook-of-same-set"
_MODELS = "the model's own"


@dataclass(frozen=True, kw_only=True)
class CodebookConfig:
    """Where the codebook comes from. Without any it is that of the archive, of the distractors or of the model.

    Attributes:
        file: of a codebook,
        photos: or a place with photos that train one.
        of_same_set: it may have been trained on the evaluated photos; without another source it is.
        words: size of a codebook that is trained; chosen from the number of descriptors if None.
        max_photos: that train it, drawn with seed 0.
    """

    file: Path | None = setting(
        None, "--codebook", "Trained on other photos.", metavar="FILE", default_text="the model's own"
    )
    photos: str | None = setting(
        None, "--codebook-photos", "Photos, other ones, that train a codebook.", metavar="PLACE"
    )
    of_same_set: bool = setting(False, SAME_SET, "Take one of the evaluated photos; the figures are marked.")
    words: int | None = setting(
        None, "--words", "Size of a trained codebook.", metavar="N", default_text="fits the descriptors"
    )
    max_photos: int = 5000

    def __post_init__(self) -> None:
        from ctxdeploy.index import MAX_WORDS

        if self.file is not None and self.photos is not None:
            raise ConfigError("--codebook and --codebook-photos exclude each other: give one codebook")
        if self.file is not None and self.words is not None:
            raise ConfigError("--codebook and --words exclude each other: a given codebook has its size")
        if self.words is not None and not 1 <= self.words <= MAX_WORDS:
            raise ConfigError(f"--words {self.words} is outside 1..{MAX_WORDS}")
        if self.words is not None and self.photos is None and not self.of_same_set:
            raise ConfigError(f"--words {self.words} is the size of a codebook that is trained: give --codebook-photos")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """A codebook, and what is known about the photos that trained it.

    Attributes:
        id, words: of the codebook.
        source: where it was taken from.
        same_share: share of its training photos that are evaluated; None if it does not say which they were.
    """

    id: str
    words: int
    source: str
    same_share: float | None

    @property
    def trained_on(self) -> str:
        """``another set``, ``the evaluated photos``, or ``unknown``."""
        if self.same_share is None:
            return "unknown"
        return "the evaluated photos" if self.same_share else "another set"

    @property
    def warning(self) -> str | None:
        """What must be said beside the figures."""
        if self.same_share is None:
            return (
                f"the codebook ({self.source}) does not say which photos trained it: if they are the evaluated ones, "
                "the figures are not comparable"
            )
        if not self.same_share:
            return None
        return (
            f"THE CODEBOOK WAS TRAINED ON THE EVALUATED PHOTOS ({self.source}; about {100 * self.same_share:.0f} % of "
            "its training photos): the figures are not comparable with published ones"
        )

    def metadata(self) -> dict[str, Any]:
        """Return the facts as JSON prints them."""
        facts = {"id": self.id, "words": self.words, "source": self.source, "trained_on": self.trained_on}
        return {**facts, "share_of_evaluated_photos": self.same_share}

    def check(self, config: CodebookConfig) -> "Provenance":
        """Return itself; ``ConfigError`` if it was trained on the evaluated photos, and that was not asked for."""
        if self.same_share and not config.of_same_set:
            raise ConfigError(
                f"the codebook ({self.source}) was trained on the evaluated photos (about {100 * self.same_share:.0f} "
                "% of its training photos): give another with --codebook or --codebook-photos (and another -o, if an "
                f"archive was made with it), or say  {SAME_SET}  to see figures that are marked as not comparable"
            )
        return self


class CodebookFinder:
    """Finds, or trains, the codebook of an evaluation.

    Args:
        dataset: what is evaluated.
        archive: its archive, made or not.
        distractors: the archive of distractors, if there is one.
        config: what was asked for.
    """

    def __init__(self, dataset: DataSet, archive: Path, distractors: Path | None, config: CodebookConfig) -> None:
        self._archive, self._distractors, self._config = archive, distractors, config
        evaluated = dataset.photo_list().photos
        database = set(dataset.database)
        asked = [_file(dataset, query.name) for query in dataset.queries if query.name not in database]
        self._marks = marks_of([*evaluated, *asked])

    def find(self, extractor: "Extractor", display: Display) -> tuple[Path | None, Provenance | None]:
        """Return the codebook's file for a new archive, and what is known about it.

        No file: the archive has its codebook already, or one is to be trained on the evaluated photos, and then nothing
        is known yet.

        Raises:
            ConfigError: there is no codebook, or it was trained on the evaluated photos without being asked for.
            ArchiveError: a codebook is damaged.
            NoPhotosError: there is no photo to train one.
        """
        from ctxdeploy.index import Codebook, Index

        given, bundle = self._config, extractor.bundle
        carried = bundle.codebook
        if given.photos is not None:
            path = self._train(given.photos, extractor, display)
            return path, self.judge(Codebook.load(path), f"trained on {given.photos}")
        if given.file is not None:
            return given.file, self.judge(open_given(given.file), f"file {given.file}")
        if is_archive(self._archive):
            own = _codebook_of(self._archive)
            is_models = carried is not None and carried.id == own.id
            return None, self.judge(own, _MODELS if is_models else f"of the archive {self._archive}")
        if self._distractors is not None:
            with Index.open(self._distractors) as index:
                path = index.codebook_path
            return path, self.judge(Codebook.load(path), f"of the distractors {self._distractors}")
        own_words = codebook_of(bundle)
        if carried is not None and own_words is not None and given.words is None:
            return bundle.path / carried.file, self.judge(own_words, _MODELS)
        if not given.of_same_set:
            raise ConfigError(
                "there is no codebook: give one that was trained on other photos with --codebook FILE, or such photos "
                f"with --codebook-photos DIR;  {SAME_SET}  trains one on the evaluated photos, and marks the figures"
            )
        return None, None

    def judge(self, codebook: "Codebook", source: str) -> Provenance:
        """Return what is known about a codebook.

        Raises:
            ConfigError: it was trained on the evaluated photos, and that was not asked for.
        """
        share = share_in(codebook.training.get("photos"), self._marks)
        found = Provenance(id=codebook.id, words=len(codebook), source=printable(source), same_share=share)
        return found.check(self._config)

    def _train(self, place: str, extractor: "Extractor", display: Display) -> Path:
        """Train a codebook from a place's photos, or return that of an earlier run with the same ones and settings."""
        from ctxdeploy.core.files import make_folder, settings_sha256
        from ctxdeploy.indexing.codebook import fingerprint
        from ctxdeploy.runtime.sources import list_photos

        photos = list_photos(place).photos
        self._refuse_same(photos, place)
        bundle = extractor.bundle
        key = {"model": bundle.model_id, "preprocessing": bundle.preprocessing.hash}
        # Names the file, as since 0.1.0: other keys would train codebooks anew that are there.
        settings = {**key, "words": self._config.words, "most": self._config.max_photos, **fingerprint(photos)}
        root = self._archive.with_name(f"{self._archive.name}.codebook")
        path = root / f"{settings_sha256(settings)[:16]}.safetensors"
        if path.exists():
            return path
        cache = DescriptorCache(self._archive.with_name(f"{self._archive.name}.codebook-training"), key)
        trainer = CodebookTrainer(extractor, cache, NO_LIMIT, display)
        training = TrainingConfig(words=self._config.words, max_photos=self._config.max_photos, seed=0)
        with cache.locked():
            codebook = trainer.train(photos, training)
        make_folder(root)
        codebook.save(path)
        cache.remove()
        return path

    def _refuse_same(self, photos: Sequence["PhotoSource"], place: str) -> None:
        marks = marks_of(photos)
        share = len(marks & self._marks) / max(len(marks), 1)
        Provenance(id="", words=0, source=f"photos of {printable(place)}", same_share=share).check(self._config)


def _codebook_of(archive: Path) -> "Codebook":
    from ctxdeploy.index import Index

    with Index.open(archive) as index:
        return index.codebook


def _file(dataset: DataSet, name: str) -> "PhotoSource":
    from ctxdeploy.runtime.sources import FilePhoto

    return FilePhoto(name=name, folder=str(dataset.folder), file=name)
