"""Every model that has a name: the one place that knows their addresses and licences."""

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


@dataclass(frozen=True, kw_only=True)
class Published:
    """A checkpoint that its authors published.

    Attributes:
        name: of the model.
        what: the model is, in a few words.
        dim: of its descriptors.
        licence: as stated in the authors' repository.
        terms: what must be agreed to before it is fetched; None where nothing must.
        url: of the checkpoint.
        sha256: of the checkpoint; None where it is not known.
        source: the page that names the address.
    """

    name: str
    what: str
    dim: int
    licence: str
    terms: str | None = None
    url: str
    sha256: str | None = None
    source: str

    @property
    def file(self) -> str:
        """The checkpoint's file name."""
        return self.url.rpartition("/")[2]


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

_CVUT = "https://ptak.felk.cvut.cz/personal/toliageo/share/how/models"
_NAVER = "https://download.europe.naverlabs.com/ComputerVision/FIRe"
_HOW_LICENCE = "MIT (of the code; none is stated for the weights)"

# The authors publish no hashes.
PUBLISHED = {
    model.name: model
    for model in (
        Published(
            name="how-r18",
            what="HOW on ResNet-18, trained on SfM-120k (Tolias et al., ECCV 2020)",
            dim=128,
            licence=_HOW_LICENCE,
            url=f"{_CVUT}/how_r18.pth",
            source="github.com/gtolias/how, examples/params/eccv20/eval_how_r18_1000.yml",
        ),
        Published(
            name="how-r50",
            what="HOW on ResNet-50 without its last block, trained on SfM-120k (Tolias et al., ECCV 2020)",
            dim=128,
            licence=_HOW_LICENCE,
            url=f"{_CVUT}/how_r50-.pth",
            source="github.com/gtolias/how, examples/params/eccv20/eval_how_r50-_1000.yml",
        ),
        Published(
            name="fire",
            what="FIRe on ResNet-50 without its last block, trained on SfM-120k (Weinzaepfel et al., ICLR 2022)",
            dim=128,
            licence="CC BY-NC-SA 4.0",
            terms="attribution, no commercial use, and what is made from it under the same licence",
            url=f"{_NAVER}/official/fire.pth",
            source="github.com/naver/fire, eval_fire.yml",
        ),
    )
}


def is_name(text: str) -> bool:
    """Return whether a text may be the name of a model: letters, digits, ``.``, ``_`` and ``-``; not a path."""
    return _NAME.fullmatch(text) is not None
