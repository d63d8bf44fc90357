"""The models that come with ctxdeploy, and what a name is; ``authors`` has those that can be fetched."""

import re
from dataclasses import dataclass

# The model that is used where none is named; its folder lies in this package.
DEFAULT = "lite-small"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class BuiltIn:
    """A model that comes with ctxdeploy.

    Attributes:
        name: also of its folder in ``ctxdeploy/models``.
        what: the model is, in a few words.
        licence: of its weights.
    """

    name: str
    what: str
    licence: str


BUILT_IN = {
    model.name: model
    for model in (
        BuiltIn(
            name=DEFAULT,
            what="EfficientNet-Lite 0 trained on by ctxdeploy, used where no model is named",
            licence="Apache-2.0 (of the weights that training began from)",
        ),
        BuiltIn(name="ctx-small", what="smaller network that ctxdeploy trained from nothing", licence="MIT"),
    )
}


def is_name(text: str) -> bool:
    """Return whether a text may be the name of a model: letters, digits, ``.``, ``_`` and ``-``; not a path."""
    return _NAME.fullmatch(text) is not None
