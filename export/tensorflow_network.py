"""DELF and DELG in a checkpoint or SavedModel of TensorFlow, with what the files beside its tensors say of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.delf_files import read_datum
from ctxdeploy.core.errors import CheckpointError, ConfigError
from ctxdeploy.export.keras_layout import KerasLayout
from ctxdeploy.export.networks.config import Architecture, NetworkConfig, Smoothing
from ctxdeploy.export.networks.delf_config import GLOBAL_SCALES, SCALES, Delf
from ctxdeploy.export.networks.pooling_config import Pooling
from ctxdeploy.export.saved_model import SAVED_MODEL, GraphFacts, graph_facts
from ctxdeploy.export.tensor_bundle import INDEX, TensorBundle
from ctxdeploy.export.tensorflow_layout import Layout, turned

if TYPE_CHECKING:
    from torch import Tensor

# The least attention of published models: DELF's, DELG's of GLDv1, and of GLDv2-clean by the trunk.
_DELF_THRESHOLD, _DELG_THRESHOLD = 100.0, 175.0
_CLEAN_THRESHOLDS = {Architecture.RESNET50: 454.6, Architecture.RESNET101: 357.48}
_PCA_DIM, _FIRST_PCA_DIM = 128, 40
_PCA_MEAN, _PCA_MATRIX = "mean.datum", "pca_proj_mat.datum"
_CENTRE = (128 / 255, 128 / 255, 128 / 255)
Array = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorflowNetwork:
    """A network that TensorFlow wrote, in our own terms.

    Attributes:
        path: of the index.
        config: the network.
        extraction: the authors' scales and number of descriptors.
        state: its tensors by our names.
        remarks: what was taken for what, left out or taken for granted, as people are told.
    """

    path: Path
    config: NetworkConfig
    extraction: Extraction
    state: Mapping[str, "Tensor"]
    remarks: tuple[str, ...]


def find_index(path: Path) -> Path | None:
    """Return the index of the checkpoint that a path names; None if it names none of TensorFlow's.

    Args:
        path: an index, its path without ``.index``, a SavedModel, or a folder that holds one as ``model``.
    """
    if path.suffix == INDEX:
        return path
    candidates = [path / "variables" / "variables.index", path / "model" / "variables" / "variables.index"]
    if path.name:  # "." and "/" have none
        candidates.append(path.with_name(path.name + INDEX))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def load_tensorflow(index: Path, *, threshold: float | None = None) -> TensorflowNetwork:
    """Read DELF or DELG from a checkpoint or SavedModel of TensorFlow.

    Args:
        index: of its tensors, as ``find_index`` returns it.
        threshold: the least attention of a descriptor; that of the published model if None.

    Raises:
        CheckpointError: it is damaged, or its tensors are not those of DELF or DELG: the message names them.
    """
    bundle = TensorBundle.open(index)
    layout = KerasLayout.of(bundle) or Layout.of(bundle)
    folders = [index.parent, *index.parent.parents][:3]
    model = index.parent.parent / SAVED_MODEL
    facts = None
    if index.parent.name == "variables" and model.is_file():
        facts = graph_facts(model)
    strides = _strides(layout, facts)
    remarks = [*layout.remarks(), _said_of_graph(layout, facts, strides[0])]
    names = " ".join(folder.name for folder in folders)
    pca = None if layout.is_delg else _pca(folders, names, remarks)
    limit = _threshold(layout, names) if threshold is None else threshold
    if threshold is None:
        remarks.append(f"the least attention of a descriptor is {limit:g}, the authors': --threshold sets another")
    dim = layout.encoded if layout.is_delg else None if pca is None else len(pca[0])
    config = NetworkConfig(
        family="delg" if layout.is_delg else "delf",
        architecture=layout.architecture,
        skip_layer=1,
        dim=dim,
        smoothing=Smoothing(kind="none"),
        delf=Delf(
            strides=strides,
            threshold=limit,
            half_pixel=facts is None or facts.half_pixel is not False,
            trunk="keras" if isinstance(layout, KerasLayout) else "slim",
        ),
        mean=_CENTRE,
        std=_CENTRE,
        pooling=_pooling(layout.whole) if layout.is_delg else None,
    )
    extraction = config.fitted(Extraction(scales=SCALES, global_dim=1, global_scales=GLOBAL_SCALES))
    state = layout.read(config, extraction)
    if pca is not None:
        state["dim_reduction.weight"], state["dim_reduction.bias"] = turned(pca[0][:, :, None, None]), turned(pca[1])
    return TensorflowNetwork(
        path=index, config=config, extraction=extraction, state=state, remarks=tuple(filter(None, remarks))
    )


def _pooling(dim: int) -> Pooling:
    return Pooling(kind="gem", fixed_p=3.0, dim=dim, norm_pooled=False, norm="floored", beside_local=True)


def _strides(layout: Layout | KerasLayout, facts: GraphFacts | None) -> tuple[int, ...]:
    """Return the strides of the third and, of DELG, of the fourth block."""
    if isinstance(layout, KerasLayout):
        both = (1, 2) if facts is not None and not facts.leaves_out else (2, 1)
    else:
        known = {} if facts is None else facts.strides
        both = known.get(3, 2), known.get(4, 1)
    return both if layout.is_delg else both[:1]


def _said_of_graph(layout: Layout | KerasLayout, facts: GraphFacts | None, stride: int) -> str:
    is_said = facts is not None and (isinstance(layout, KerasLayout) or bool(facts.strides))
    if not is_said or facts is None:
        usual = "the authors' usual" if isinstance(layout, KerasLayout) else "slim's"
        return f"no graph lies beside it that says the stride of the third block: {usual} 2, stride 32, is taken"
    ways = {
        True: "at the centres of pixels",
        False: "at their corners, as TensorFlow 1",
        None: "in an unknown way",
    }
    return f"the graph's stride of the third block is {stride}, and it resizes {ways[facts.half_pixel]}"


def _threshold(layout: Layout | KerasLayout, names: str) -> float:
    if not layout.is_delg:
        return _DELF_THRESHOLD
    return _CLEAN_THRESHOLDS[layout.architecture] if "gldv2clean" in names else _DELG_THRESHOLD


def _pca(folders: list[Path], names: str, remarks: list[str]) -> tuple[Array, Array] | None:
    """Return the rows of DELF's PCA, D×1024, and what is added to each; None if there is no PCA beside."""
    folder = next((near / "pca" for near in folders if (near / "pca" / _PCA_MATRIX).is_file()), None)
    if folder is None:
        remarks.append("there is no folder pca beside it: descriptors keep their 1024 dimensions")
        return None
    try:
        mean, matrix = read_datum(folder / _PCA_MEAN).ravel(), read_datum(folder / _PCA_MATRIX)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    if mean.shape != (1024,) or matrix.ndim != 2 or matrix.shape[1] != 1024 or len(matrix) > 1024:
        raise CheckpointError(f"{folder} has a mean of {mean.shape} and a matrix of {matrix.shape}: 1024 are needed")
    dim = min(len(matrix), _FIRST_PCA_DIM if "delf_v1" in names else _PCA_DIM)
    remarks.append(f"PCA to {dim} dimensions from {folder.name}/{_PCA_MATRIX}")
    rows = matrix[:dim].astype(np.float64)
    return rows, -(rows @ mean.astype(np.float64))
