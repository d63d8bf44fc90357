"""What a new archive is begun with, codebook and quantiser, trained on a sample that a cluster's workers extract."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.archive import is_archive
from ctxdeploy.cluster.lists import NameList, cut_lists
from ctxdeploy.cluster.segment import TRAINED
from ctxdeploy.cluster.worker import training_cache
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.device import Device
from ctxdeploy.core.files import new_folder, settings_sha256
from ctxdeploy.core.progress import Display
from ctxdeploy.indexing.codebook import TrainingConfig, draw_sample, train_codebook
from ctxdeploy.indexing.config import IndexingConfig
from ctxdeploy.indexing.job import create_index, given_codebook, gives_local
from ctxdeploy.indexing.quantiser import check_sample, train_quantiser
from ctxdeploy.indexing.report import IndexingReport

if TYPE_CHECKING:
    from ctxdeploy.runtime.sources import PhotoList

# Photos of a list of the sample: it is small, and all workers are to have some of it.
_SAMPLE_LIST = 100


class ClusterTraining:
    """Makes an archive without photos, whose codebook, quantiser and settings the segments are for.

    Args:
        parts: folder of the segments; the archive lies in it, so that an interrupted run finds it.
        cache: folder of the descriptors of the sample.
        bundle: the model.
        config: of the run.
        display: where progress and remarks go.
    """

    def __init__(self, parts: Path, cache: Path, bundle: Bundle, config: IndexingConfig, display: Display) -> None:
        self._parts, self._bundle, self._config, self._display = parts, bundle, config, display
        self._cache = training_cache(cache, bundle)
        self._training = TrainingConfig(words=config.words, max_photos=config.training_photos, seed=config.seed)

    def archive(
        self,
        photos: "PhotoList",
        describe: Callable[[list[NameList]], set[str]],
        report: IndexingReport,
        memory_limit: int | None,
    ) -> Path:
        """Return the archive; trained, unless it is there.

        Args:
            photos: of the place.
            describe: extracts the descriptors of names into the cache; returns the names that could not be read.
            report: is told of the codebook, and of the seconds.
            memory_limit: bytes of the driver.

        Raises:
            NoPhotosError: none of the sample could be read, or too few for what is to be trained.
        """
        config, bundle = self._config, self._bundle
        path = self._path()
        if is_archive(path):
            return path
        check_sample(config, len(photos.photos))
        codebook, settings = given_codebook(config, bundle), config.for_archive(bundle)
        sample = draw_sample(photos.photos, self._training)
        with self._cache.locked():
            failed = describe(cut_lists(sorted(photo.name for photo in sample), _SAMPLE_LIST))
            if codebook is None and gives_local(bundle):
                limit, dim = memory_limit, bundle.extraction.dim
                settled = (self._cache, sample, failed, self._training, self._display)
                codebook = train_codebook(*settled, memory_limit=limit, dim=dim, device=Device())
                report.codebook = codebook.metadata()
            quantiser = None
            if settings.needs_quantiser:
                described = self._cache.photos({photo.name for photo in sample})
                quantiser = train_quantiser(described, settings, config, self._display, report.stages, memory_limit)
            with new_folder(path) as partial:
                create_index(partial, codebook, bundle, config, quantiser).close()
        return path

    def forget(self) -> None:
        """Remove the descriptors of the sample."""
        self._cache.remove()

    def _path(self) -> Path:
        """Return where the archive lies: its name says what it was made from."""
        bundle = self._bundle
        key = {
            "model": bundle.model_id,
            "preprocessing": bundle.preprocessing.hash,
            "settings": self._config.for_archive(bundle).metadata(),
            "cells": self._config.global_cells,
            **asdict(self._training),
        }
        return self._parts / f"{TRAINED}{settings_sha256(key)[:32]}.ctxindex"
