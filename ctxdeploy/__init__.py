"""From a trained image-retrieval network to a photo archive that answers queries.

    from ctxdeploy import PhotoIndex

    photos = PhotoIndex.create("holiday.ctxindex")
    photos.add("photos/")
    for hit in photos.search("query.jpg", top=10):
        print(hit.name, hit.score)

The names below are imported on first use. The rooms behind them are imported on their own, so that none pays for
another's dependencies:

- ``ctxdeploy.export``: checkpoints to verified bundles (needs the extra ``export``);
- ``ctxdeploy.runtime``: photos to local descriptors through a bundle (needs the extra ``cpu``);
- ``ctxdeploy.index``: descriptors of any origin to an ASMK archive, and search in it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.core import bundle
    from ctxdeploy.core.errors import CtxdeployError
    from ctxdeploy.core.types import Box
    from ctxdeploy.indexing.config import IndexingConfig
    from ctxdeploy.indexing.report import IndexingReport
    from ctxdeploy.photo_index import PhotoIndex
    from ctxdeploy.query import Answer, QueryConfig
    from ctxdeploy.querying.photo import IndexedPhoto
    from ctxdeploy.runtime import BackendConfig, ExtractorConfig

# In the root of a checkout Python finds this folder before the installed package. The three rooms are then not in it,
# but beside it.
if not Path(__file__).with_name("index").is_dir():
    __path__.append(str(Path(__file__).parents[1]))

__version__ = "0.2.0"

__all__ = [
    "Answer",
    "BackendConfig",
    "Box",
    "CtxdeployError",
    "ExtractorConfig",
    "IndexedPhoto",
    "IndexingConfig",
    "IndexingReport",
    "PhotoIndex",
    "QueryConfig",
    "bundle",
]

_HOMES = {
    "Answer": "query",
    "BackendConfig": "runtime",
    "Box": "core.types",
    "CtxdeployError": "core.errors",
    "ExtractorConfig": "runtime",
    "IndexedPhoto": "querying.photo",
    "IndexingConfig": "indexing.config",
    "IndexingReport": "indexing.report",
    "PhotoIndex": "photo_index",
    "QueryConfig": "query",
    "bundle": "ctxdeploy.core.bundle",
}

__getattr__, __dir__ = door(__name__, _HOMES)
