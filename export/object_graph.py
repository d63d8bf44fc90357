"""The objects whose variables a checkpoint of TensorFlow 2 holds, and how each is reached from the others.

A SavedModel calls variables by the shortest way to them, such as ``_model/attention/variables/0``, which says nothing
of the layer. The graph of objects (``trackable_object_graph.proto``), a text among the tensors, says which object has
which other one under which attribute, so that ``attention/conv1/kernel`` is found wherever it is stored.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ctxdeploy.core.errors import CheckpointError
from ctxdeploy.core.protobuf import fields
from ctxdeploy.export.tensor_bundle import INDEX, SUFFIX, TensorBundle

GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_MAX_OBJECTS = 1 << 20
_VALUE = "VARIABLE_VALUE"


@dataclass(frozen=True, kw_only=True)
class TrackedObject:
    """An object of the graph.

    Attributes:
        children: numbers of the objects that it has, by attribute.
        tensor: name of the tensor of a variable in the checkpoint, TensorFlow's suffix taken off; empty of others.
    """

    children: Mapping[str, int]
    tensor: str


@dataclass(frozen=True, kw_only=True)
class ObjectGraph:
    """The objects of a checkpoint, by number; the first one is the root."""

    objects: tuple[TrackedObject, ...]

    @classmethod
    def of(cls, bundle: TensorBundle) -> "ObjectGraph | None":
        """Read the graph of a checkpoint; None if it has none, as those of TensorFlow 1.

        Raises:
            CheckpointError: it is damaged.
        """
        if GRAPH not in bundle.entries:
            return None
        data = bundle.text(GRAPH)
        try:
            objects = tuple(_objects(memoryview(data)))
        except (ValueError, IndexError) as error:
            raise CheckpointError(
                f"{bundle.prefix}{INDEX}: its graph of objects is damaged ({error}): copy the file again"
            ) from error
        return cls(objects=objects)

    def having(self, attributes: Iterable[str]) -> list[int]:
        """Return the numbers of the objects that have all of these attributes."""
        wanted = set(attributes)
        return [number for number, found in enumerate(self.objects) if wanted <= found.children.keys()]

    def tensor(self, start: int, path: str) -> str | None:
        """Return the name of the tensor of the variable at a path of attributes, ``a/b/kernel``, from an object."""
        number = start
        for attribute in path.split("/"):
            following = self.objects[number].children.get(attribute)
            if following is None:
                return None
            number = following
        return self.objects[number].tensor or None


def _objects(data: memoryview) -> Iterable[TrackedObject]:
    messages = [value for number, value in fields(data) if number == 1 and not isinstance(value, int)]
    if len(messages) > _MAX_OBJECTS:
        raise ValueError(f"{len(messages)} objects")
    for message in messages:
        children: dict[str, int] = {}
        tensor = ""
        for number, value in fields(message):
            if isinstance(value, int):
                continue
            if number == 1:
                child, name = _reference(value)
                if child >= len(messages):
                    raise ValueError(f"an object {child} of {len(messages)}")
                children[name] = child
            elif number == 2:
                tensor = _tensor(value) or tensor
        yield TrackedObject(children=children, tensor=tensor)


def _reference(data: memoryview) -> tuple[int, str]:
    child, name = 0, ""
    for number, value in fields(data):
        if number == 1 and isinstance(value, int):
            child = value
        elif number == 2 and not isinstance(value, int):
            name = bytes(value[:1024]).decode("utf-8", "replace")
    return child, name


def _tensor(data: memoryview) -> str:
    """Return the name under which the value of a variable is stored; of other attributes an empty text."""
    found = {number: bytes(value[:4096]) for number, value in fields(data) if not isinstance(value, int)}
    if found.get(1, b"").decode("utf-8", "replace") != _VALUE:
        return ""
    return found.get(3, b"").decode("utf-8", "replace").removesuffix(SUFFIX)
