"""Which tensor of a TensorFlow 2 checkpoint is which tensor of DELF or DELG as their Keras code names its layers.

The tensors are found by the attributes of the objects (``ObjectGraph``), below the object that has a ``backbone`` and
an ``attention``; a checkpoint without the graph of objects is read by the same paths in its names.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctxdeploy.core.bundle import Extraction
from ctxdeploy.core.errors import CheckpointError
from ctxdeploy.export.networks.config import Architecture, NetworkConfig
from ctxdeploy.export.networks.keras_names import KERAS_EPSILON, KERAS_NORM, keras_name
from ctxdeploy.export.object_graph import ObjectGraph
from ctxdeploy.export.tensor_bundle import INDEX, TensorBundle
from ctxdeploy.export.tensorflow_layout import Norms, read_tensors, strange

if TYPE_CHECKING:
    from torch import Tensor

_ROOT = "backbone/l2a/conv2a/kernel"
_ENCODER, _DECODER, _LINEAR = "autoencoder/conv1", "autoencoder/conv2", "backbone/embedding_layer"
_HEADS = {"dim_reduction": _ENCODER, "decoder": _DECODER, "global_head.whitening": _LINEAR}
_ATTENTION = {"conv1": "conv1", "bn1": "bn_conv1", "conv2": "conv2"}
# A unit that ResNet-50 does not have; the authors' code has no other trunk.
_SEVENTH_UNIT = "backbone/l4g/conv2a/kernel"


@dataclass(frozen=True, kw_only=True, eq=False)
class KerasLayout:
    """Which tensor of a checkpoint is which.

    Attributes:
        bundle: the checkpoint.
        graph: its objects; None to go by names.
        root: the number of the object that is DELF or DELG, or what the names of its tensors begin with.
    """

    bundle: TensorBundle
    graph: ObjectGraph | None
    root: int | str

    architecture = Architecture.RESNET50
    trunk = "keras"

    @classmethod
    def of(cls, bundle: TensorBundle) -> "KerasLayout | None":
        """Return the layout of a checkpoint with such a trunk, None if it has none.

        Raises:
            CheckpointError: the graph of objects is damaged, or there are two such networks, or it is one that is not
                known here.
        """
        graph = ObjectGraph.of(bundle)
        roots: list[int | str] = []
        if graph is not None:
            roots += [at for at in graph.having(("backbone", "attention")) if graph.tensor(at, _ROOT) is not None]
        if not roots:
            graph = None
            roots += [name.removesuffix(_ROOT) for name in bundle.entries if f"/{name}".endswith(f"/{_ROOT}")]
        if len(roots) > 1:
            raise CheckpointError(
                f"{bundle.prefix}{INDEX} holds {len(roots)} networks with a backbone and an attention"
            )
        if not roots:
            return None
        layout = cls(bundle=bundle, graph=graph, root=roots[0])
        layout._check()
        return layout

    def _check(self) -> None:
        """Raise ``CheckpointError`` for networks of the authors' code that are not known here."""
        has = {part: self.tensor(f"{path}/kernel") is not None for part, path in _HEADS.items()}
        what = ""
        if self.tensor(_SEVENTH_UNIT) is not None:
            what = "its trunk has more units than ResNet-50"
        elif has["global_head.whitening"] and not has["dim_reduction"]:
            what = "DELG without an autoencoder, whose local descriptors have 1024 dimensions, is not known here"
        elif has["dim_reduction"] and not has["global_head.whitening"]:
            what = "DELF with an autoencoder in place of a PCA is not known here"
        if what:
            raise strange(self.bundle, what, list(self.bundle.entries))

    def tensor(self, path: str) -> str | None:
        """Return the name of the tensor at a path of attributes below the network; None if there is none."""
        if self.graph is not None and isinstance(self.root, int):
            return self.graph.tensor(self.root, path)
        name = f"{self.root}{path}"
        return name if name in self.bundle.entries else None

    @property
    def is_delg(self) -> bool:
        """Whether there is a global descriptor."""
        return self.tensor(f"{_LINEAR}/kernel") is not None

    @property
    def encoded(self) -> int:
        """Dimension of DELG's local descriptors."""
        return self._last_side(_ENCODER)

    @property
    def whole(self) -> int:
        """Dimension of the global descriptor; 0 of DELF."""
        return self._last_side(_LINEAR) if self.is_delg else 0

    def _last_side(self, layer: str) -> int:
        shape = self.bundle.entries[self.tensor(f"{layer}/kernel") or ""].shape
        return shape[-1] if shape else 0

    def remarks(self) -> list[str]:
        """Say what it was taken for."""
        found = "by the graph of objects" if self.graph is not None else "by the names of the tensors"
        return [f"{'DELG' if self.is_delg else 'DELF'} on the ResNet-50 of the authors' Keras code, found {found}"]

    def read(self, config: NetworkConfig, extraction: Extraction) -> dict[str, "Tensor"]:
        """Return the tensors by our names, after all of them were compared by name and shape."""
        from ctxdeploy.export.networks.families import state_shapes

        expected = state_shapes(config, extraction)
        paths = {name: _path(name) for name in expected if not name.endswith("num_batches_tracked")}
        missing = [path for path in paths.values() if self.tensor(path) is None]
        if missing:
            raise strange(self.bundle, f"missing: {', '.join(missing[:8])}", list(self.bundle.entries))
        names = {name: self.tensor(path) or path for name, path in paths.items()}
        biases = {name: self.tensor(_bias(path)) for name, path in paths.items() if name.endswith("running_mean")}
        given = {name: tensor for name, tensor in biases.items() if tensor is not None}
        return read_tensors(self.bundle, names, expected, Norms(biases=given, epsilon=KERAS_EPSILON))


def _path(name: str) -> str:
    """Return where a tensor of ours is, in attributes below the network."""
    part, _, rest = name.partition(".")
    layer, _, kind = name.rpartition(".")
    if part == "backbone":
        return f"backbone/{keras_name(rest)}"
    if part == "attention":
        place = _ATTENTION[layer.removeprefix("attention.")]
        if place.startswith("bn"):
            return f"attention/{place}/{KERAS_NORM[kind]}"
        return f"attention/{place}/{'kernel' if kind == 'weight' else 'bias'}"
    return f"{_HEADS[layer]}/{'kernel' if kind == 'weight' else 'bias'}"


def _bias(path: str) -> str:
    """Return the path of the bias of the convolution before a normalisation, one of whose tensors is at ``path``."""
    above, _, norm = path.rpartition("/")[0].rpartition("/")
    convolution = {"bn_conv1": "conv1", "bn_shortcut": "conv_shortcut"}.get(norm, norm.replace("bn", "conv"))
    return f"{above}/{convolution}/bias"
