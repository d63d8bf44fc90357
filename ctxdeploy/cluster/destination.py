"""What the archive decides that segments are for: codebook and settings."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxdeploy.archive import check_model, is_archive, is_bundle
from ctxdeploy.cluster.config import SegmentConfig
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.bundle import open as open_bundle
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.files import piece_bytes
from ctxdeploy.core.text import printable
from ctxdeploy.indexing.codebook import codebook_of, read_codebook
from ctxdeploy.indexing.job import check_settings, gives_local

if TYPE_CHECKING:
    from ctxdeploy.index import Codebook, DescriptorSource, GlobalQuantiser, IndexConfig

# Of the settings of an archive, those that its shards were made with.
_SETTINGS = ("aggregation", "binary", "assignment", "geometry", "global_vectors", "global_dim", "global_search")


@dataclass(frozen=True, kw_only=True)
class Destination:
    """What segments are made for.

    Attributes:
        codebook: of the archive; None where it keeps global vectors alone.
        config: its settings.
        source: the network and preprocessing that make its descriptors.
        quantiser: of its global vectors; None where they need none.
    """

    codebook: "Codebook | None"
    config: "IndexConfig"
    source: "DescriptorSource"
    quantiser: "GlobalQuantiser | None" = None

    def metadata(self) -> dict[str, Any]:
        """Return what segments of one archive have in common, for their id."""
        settings = self.config.metadata()
        return {
            "codebook": "none" if self.codebook is None else self.codebook.id,
            "settings": {name: settings[name] for name in _SETTINGS},
            "model": self.source.model,
            "preprocessing": self.source.preprocessing,
            "quantiser": self.quantiser_id,
        }

    @property
    def quantiser_id(self) -> str:
        """Hex sha256 of the file of the quantiser; ``none`` without."""
        if self.quantiser is None:
            return "none"
        digest = hashlib.sha256()
        for piece in self.quantiser.encode():
            digest.update(piece_bytes(piece))
        return digest.hexdigest()


def destination_of(config: SegmentConfig, bundle: Bundle) -> Destination:
    """Return what segments are for.

    Raises:
        ConfigError: no codebook is given, and the model has none; or settings that the given archive has not.
        MismatchError: the given archive was made with another model.
        ArchiveError, BundleError: what is given is damaged.
    """
    from ctxdeploy.index import DescriptorSource

    given, settings = config.codebook, config.indexing()
    source = DescriptorSource(
        model=bundle.model_id,
        preprocessing=bundle.preprocessing.hash,
        description=bundle.source.get("file", ""),
    )
    if given is not None and is_archive(given):
        return _of_archive(given, config, bundle)
    made = settings.for_archive(bundle)
    if not gives_local(bundle):
        if given is not None:
            raise ConfigError(
                f"--codebook {printable(str(given))}: the model gives one global vector a photo alone: leave it "
                "out, or give the archive"
            )
        return Destination(codebook=None, config=made, source=source)
    return Destination(codebook=_codebook(given, bundle), config=made, source=source)


def _of_archive(archive: Path, config: SegmentConfig, bundle: Bundle) -> Destination:
    from ctxdeploy.index import DescriptorSource, Index

    with Index.open(archive) as index:
        check_model(index, bundle)
        check_settings(index, archive, config.indexing())
        source = index.source or DescriptorSource(model=bundle.model_id, preprocessing=bundle.preprocessing.hash)
        codebook = index.codebook if index.keeps_local else None
        quantiser = index.state.quantiser
        return Destination(codebook=codebook, config=index.config, source=source, quantiser=quantiser)


def _codebook(given: Path | None, bundle: Bundle) -> "Codebook":
    if given is not None and not is_bundle(given):
        return read_codebook(given, bundle.extraction.dim)
    found = codebook_of(bundle if given is None else open_bundle(given))
    if found is None:
        who = "the model" if given is None else printable(str(given))
        raise ConfigError(
            f"{who} has no codebook, and all segments of an archive need one: index some of the photos on one machine, "
            "and give that archive with --codebook"
        )
    if found.dim != bundle.extraction.dim:
        raise ConfigError(
            f"the codebook of {printable(str(given))} has dimension {found.dim}, the model {bundle.extraction.dim}: "
            "give the codebook of this model"
        )
    return found
