"""Answers for many threads, each from the newest state that there is when it is asked."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.core.cpu import checked_threads
from ctxdeploy.core.deadline import Deadline
from ctxdeploy.judgement import LatestJudgement
from ctxdeploy.models.loaded import LoadedModel
from ctxdeploy.object_storage.place import shown_place
from ctxdeploy.photo_folder import LatestFolder
from ctxdeploy.query import Answer, QueryConfig
from ctxdeploy.querying.answerer import Answerer, subset_of
from ctxdeploy.querying.first_stage import OtherArchives
from ctxdeploy.querying.found import Found
from ctxdeploy.querying.gathering import Gathering
from ctxdeploy.querying.photo import IndexedPhoto, Photo
from ctxdeploy.querying.verifying import PhotoFeatures
from ctxdeploy.shared_state import SharedState

if TYPE_CHECKING:
    from ctxdeploy.index import QueriedIndex


class SharedAnswerer:
    """Answers queries of any thread, and keeps what later ones need: a judgement, features of files, other archives.

    Args:
        path: the archive's folder.
        model: that describes photos.
        state: of the archive, which may move on.
        keep: store a judgement that had to be fitted.

    Attributes:
        gathers: searches of threads that wait go together.
    """

    def __init__(self, path: Path, model: LoadedModel, state: SharedState, *, keep: bool) -> None:
        self._name, self._model, self._state = shown_place(path), model, state
        self._folder = LatestFolder(path)
        self._files = PhotoFeatures()
        self._judgements = LatestJudgement(keep=keep)
        self._others = OtherArchives(model.backend)
        # As many as there are processors run side by side: one alone leaves those idle while it runs Python.
        self.gathers = True
        self._gathering = Gathering(beside=checked_threads(None))

    def answer(self, photo: "Photo | IndexedPhoto", config: QueryConfig, deadline: Deadline | None) -> Answer:
        """Return the answer to one query; see ``Answerer.answer``."""
        with self.answering(config, deadline) as answerer:
            kind = (id(answerer.index), None if answerer.first is None else id(answerer.first.index), config)

            def find(queries: Sequence[Found]) -> list[Found]:
                return self._gathering.find(kind, queries, answerer.find, deadline)

            return answerer.answer(photo, deadline=deadline, find=find if self.gathers else None)

    @contextmanager
    def answering(self, config: QueryConfig, deadline: Deadline | None = None) -> Iterator[Answerer]:
        """Hold a state, and what answers from it; what cannot be asked is refused before the model is loaded.

        Args:
            config: what is asked.
            deadline: of the query; None for several.

        Raises:
            ArchiveError, ConfigError: as ``PhotoIndex.search``.
        """
        with self._state.reading() as opened, self._others.reading(config.global_from, opened) as first:
            index = opened.for_query(deadline)
            index.config.scoring(alpha=config.alpha, threshold=config.threshold, idf=config.idf)
            yield Answerer(
                index=index,
                name=self._name,
                network=self._model.loading(index),
                judgement=lambda: self._judgements.of(opened),
                image_size=self._model.image_size,
                folder=self._folder.read(),
                files=self._files,
                config=config,
                among=subset_of(index, config),
                first=first,
            ).checked()

    def prepare(self, index: "QueriedIndex") -> None:
        """Load what queries of a state need, so that its first is as fast as the others."""
        index.prepare()
        if index.keeps_local and len(index):
            self._judgements.of(index)

    def close(self) -> None:
        """Close the other archives."""
        self._others.close()
