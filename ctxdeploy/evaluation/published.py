"""What the authors of the families published on Revisited Oxford and Paris (Radenović et al., CVPR 2018).

Figures are mean average precision in percent, as printed by their source; what the source does not
give is None. Nothing here was measured by ctxdeploy.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.text import printable

GLOBAL, GLOBAL_THEN_LOCAL, LOCAL = FRAMEWORKS = ("global", "global-then-local", "local")
GLDV2_CAUTION = (
    "trained on GLDv2-clean, which shows landmarks of Revisited Oxford and Paris: without them the same methods find "
    "clearly less (Song et al., CVPR 2024, arXiv 2404.01524)"
)
_UNCERTAIN = "from memory of the paper: compare with it before you quote the figures"


class PublishedFigures(NamedTuple):
    """Mean average precision in percent; None where the source gives none."""

    medium: float | None
    hard: float | None


_F = PublishedFigures
_NONE = _F(None, None)


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One row of a published table.

    Attributes:
        name: of the row, unique, as ``eval --row`` takes it.
        framework: one of ``FRAMEWORKS``.
        method: of the authors.
        network: its trunk.
        training: the photos that it was trained on.
        roxford, rparis: on Revisited Oxford and Paris.
        roxford_1m, rparis_1m: with the million distractors (R1M).
        memory_gb: of the searched descriptors of a million photos, in GB.
        model: a name that ``models pull`` takes to compute the row; None where the weights cannot be had or read.
        source: of the figures.
        deck: whether it is a row of the table that compares the three frameworks.
        caution: what must be known before the figures are compared; None where nothing must.
        certain: False where the figures were not read in their source.
    """

    name: str
    framework: str
    method: str
    network: str
    training: str
    roxford: PublishedFigures
    rparis: PublishedFigures
    roxford_1m: PublishedFigures = _NONE
    rparis_1m: PublishedFigures = _NONE
    memory_gb: float | None = None
    model: str | None = None
    source: str
    deck: bool = False
    caution: str | None = None
    certain: bool = True

    def metadata(self) -> dict[str, Any]:
        """Return the row as JSON prints it: each pair of figures as an object with ``medium`` and ``hard``."""
        return {
            key: value._asdict() if isinstance(value, PublishedFigures) else value for key, value in vars(self).items()
        }


def find_row(name: str) -> PublishedRow:
    """Return the row of a name; upper and lower case are the same.

    Raises:
        ConfigError: there is none.
    """
    for row in PUBLISHED:
        if row.name.casefold() == name.casefold():
            return row
    known = ", ".join(repr(row.name) for row in PUBLISHED)
    raise ConfigError(f"--row {printable(name)!r} is not a row of the published tables: choose one of {known}")


def rows_of(framework: str | None) -> tuple[PublishedRow, ...]:
    """Return the rows of one of ``FRAMEWORKS``, or all, in the table's order."""
    return tuple(row for row in PUBLISHED if framework is None or row.framework == framework)


_CIRTORCH = "README of filipradenovic/cnnimageretrieval-pytorch, several scales"
_DIRTORCH = "README of naver/deep-image-retrieval, one scale, whitened"
_SOLAR = "README of tonyngjichun/SOLAR; Ng et al., ECCV 2020"
_DELG = "Cao et al., ECCV 2020, table 3; README of tensorflow/models research/delf"
_D2R = "Teichmann et al., CVPR 2019; instructions of detect_to_retrieve in tensorflow/models research/delf"
_DECK = "the deck that compares the three frameworks"
_REVISITED = "Radenović et al., CVPR 2018"
_HOW = "README of gtolias/how; Tolias et al., ECCV 2020, table 2"
_HOW_HARD = "the README gives medium alone; hard and R1M are from memory of the paper: compare before you quote them"
_GLOBAL_1M = 7.6  # GB: 2048 numbers of 4 bytes a photo (7.6 GiB), as the deck has it


def _gem(
    name: str, network: str, training: str, roxford: PublishedFigures, rparis: PublishedFigures, model: str
) -> PublishedRow:
    return PublishedRow(
        name=name, framework=GLOBAL, method="GeM", network=network, training=training, roxford=roxford, rparis=rparis,
        model=model, source=_CIRTORCH, deck=name == "GeM R101 GL18",
        memory_gb=_GLOBAL_1M if network.startswith("ResNet") else None,
    )  # fmt: skip


def _ap(name: str, training: str, roxford: PublishedFigures, rparis: PublishedFigures, model: str) -> PublishedRow:
    method, network = name.split()[:2]
    return PublishedRow(
        name=name, framework=GLOBAL, method=method, network=f"ResNet-{network[1:]}", training=training,
        roxford=roxford, rparis=rparis, memory_gb=_GLOBAL_1M, model=model, source=_DIRTORCH,
        deck=name == "AP-GeM R101",
    )  # fmt: skip


def _delg(
    network: str,
    training: str,
    first: tuple[PublishedFigures, PublishedFigures],
    verified: tuple[PublishedFigures, PublishedFigures],
    model: str,
) -> tuple[PublishedRow, PublishedRow]:
    """Return DELG's two rows: by the global vector alone, and with the first 100 verified."""
    suffix = "" if training == "GLDv1" else " GLDv2-clean"
    caution = GLDV2_CAUTION if suffix else None
    r1m = (network, training) == ("R101", "GLDv2-clean")
    return (
        PublishedRow(
            name=f"DELG global {network}{suffix}", framework=GLOBAL, method="DELG, global alone",
            network=f"ResNet-{network[1:]}", training=training, roxford=first[0], rparis=first[1],
            roxford_1m=_F(63.7, 37.5) if r1m else _NONE, rparis_1m=_F(70.6, 46.9) if r1m else _NONE,
            memory_gb=_GLOBAL_1M, model=model, source=_DELG, caution=caution,
        ),
        PublishedRow(
            name=f"DELG {network}{suffix}", framework=GLOBAL_THEN_LOCAL, method="DELG, first 100 verified",
            network=f"ResNet-{network[1:]}", training=training, roxford=verified[0], rparis=verified[1],
            roxford_1m=_F(69.1, 47.5) if r1m else _NONE, rparis_1m=_F(71.5, 48.7) if r1m else _NONE,
            memory_gb=485.0, model=model, source=_DELG, deck=not suffix, caution=caution,
        ),
    )  # fmt: skip


PUBLISHED: tuple[PublishedRow, ...] = (
    PublishedRow(
        name="R-MAC R101", framework=GLOBAL, method="R-MAC", network="ResNet-101", training="Landmarks-clean",
        roxford=_F(60.9, 32.4), rparis=_F(78.9, 59.4), memory_gb=_GLOBAL_1M, source=_REVISITED, deck=True,
        caution="its trained weights (Gordo et al., IJCV 2017) exist only for Caffe: R-MAC pooling on another "
        "checkpoint is another network, with other figures",
    ),
    _gem("GeM VGG16 SfM", "VGG-16", "SfM-120k", _F(60.9, 32.9), _F(69.3, 44.2), "gem-vgg16-sfm"),
    _gem("GeM R101 SfM", "ResNet-101", "SfM-120k", _F(65.4, 40.1), _F(76.7, 55.2), "gem-r101-sfm"),
    _gem("GeM-w R50 SfM", "ResNet-50", "SfM-120k", _F(64.7, 39.0), _F(76.3, 54.9), "gem-w-r50-sfm"),
    _gem("GeM-w R101 SfM", "ResNet-101", "SfM-120k", _F(67.8, 41.7), _F(77.6, 56.3), "gem-w-r101-sfm"),
    _gem("GeM-w R152 SfM", "ResNet-152", "SfM-120k", _F(68.8, 41.3), _F(78.0, 57.2), "gem-w-r152-sfm"),
    _gem("GeM R50 GL18", "ResNet-50", "GL18", _F(63.6, 40.9), _F(78.0, 57.5), "gem-w-r50-gl18"),
    _gem("GeM R101 GL18", "ResNet-101", "GL18", _F(67.3, 44.3), _F(80.6, 61.5), "gem-w-r101-gl18"),
    _gem("GeM R152 GL18", "ResNet-152", "GL18", _F(68.7, 44.2), _F(79.7, 60.3), "gem-w-r152-gl18"),
    _ap("TL-MAC R101", "Landmarks-clean", _F(63.3, 35.7), _F(76.6, 55.5), "tl-mac-r101"),
    _ap("TL-GeM R101", "Landmarks-clean", _F(64.5, 40.9), _F(78.8, 59.2), "tl-gem-r101"),
    _ap("AP-GeM R50", "Landmarks-clean", _F(65.5, 41.0), _F(77.6, 57.1), "ap-gem-r50"),
    _ap("AP-GeM R101", "Landmarks-clean", _F(67.1, 42.3), _F(80.3, 60.9), "ap-gem-r101"),
    _ap("AP-GeM R101 LM18", "LM18", _F(66.3, 42.5), _F(80.2, 60.8), "ap-gem-r101-lm18"),
    PublishedRow(
        name="GeM+SOLAR R101", framework=GLOBAL, method="GeM+SOLAR", network="ResNet-101", training="GL18",
        roxford=_F(69.9, 47.9), rparis=_F(81.6, 64.5), roxford_1m=_F(53.5, 29.9),
        rparis_1m=_F(59.2, 33.4), memory_gb=_GLOBAL_1M, model="solar-r101", source=_SOLAR, deck=True,
    ),
    *_delg(
        "R50", "GLDv1", (_F(69.7, 45.1), _F(81.6, 63.4)), (_F(75.1, 54.2), _F(82.3, 64.9)),
        "delg-r50",
    ),
    *_delg(
        "R101", "GLDv1", (_F(73.2, 51.2), _F(82.4, 64.7)), (_F(78.5, 59.3), _F(82.9, 65.5)),
        "delg-r101",
    ),
    *_delg(
        "R50", "GLDv2-clean", (_F(73.6, 51.0), _F(85.7, 71.5)),
        (_F(78.3, 57.9), _F(85.7, 71.0)), "delg-r50-v2",
    ),
    *_delg(
        "R101", "GLDv2-clean", (_F(76.3, 55.6), _F(86.6, 72.4)),
        (_F(81.2, 64.0), _F(87.2, 72.8)), "delg-r101-v2",
    ),
    PublishedRow(
        name="GeM+DSM R101", framework=GLOBAL_THEN_LOCAL, method="GeM, first 100 verified by DSM", network="ResNet-101",
        training="SfM-120k", roxford=_F(65.3, 39.2), rparis=_F(77.4, 56.2),
        roxford_1m=_F(47.6, 23.2), source="Siméoni et al., CVPR 2019", deck=True,
        caution="without DSM it was 65.3/39.6 and 77.3/56.6: docs/families.md says why it is not built",
    ),
    PublishedRow(
        name="DELF-ASMK*", framework=LOCAL, method="DELF-ASMK*", network="ResNet-50", training="Landmarks",
        roxford=_F(67.8, 43.1), rparis=_F(76.9, 55.4), model="delf-v1", source=f"{_REVISITED}; {_DECK}",
        deck=True,
        caution="of its authors' first network; from memory, the paper's row also verifies the first hits",
    ),
    PublishedRow(
        name="DELF-R-ASMK*", framework=LOCAL, method="DELF-R-ASMK*", network="ResNet-50", training="GLDv1",
        roxford=_F(73.3, 47.6), rparis=_NONE, memory_gb=27.4, model="delf", source=_D2R,
        caution="needs boxes of landmarks, which ctxdeploy takes (--boxes) and does not detect",
    ),
    PublishedRow(
        name="DELF-R-ASMK* verified", framework=LOCAL, method="DELF-R-ASMK*, first 100 verified", network="ResNet-50",
        training="GLDv1", roxford=_F(76.0, 52.4), rparis=_F(80.2, 58.6), roxford_1m=_F(64.0, 38.1),
        rparis_1m=_F(59.7, 29.4), memory_gb=27.4, model="delf", source=_D2R, deck=True,
        caution="needs boxes of landmarks, which ctxdeploy takes (--boxes) and does not detect",
    ),
    PublishedRow(
        name="HOW R18", framework=LOCAL, method="HOW-ASMK, 1000 descriptors", network="ResNet-18", training="SfM-120k",
        roxford=_F(75.1, None), rparis=_F(79.4, None), model="how-r18", source=_HOW,
        caution="the README gives medium alone",
    ),
    PublishedRow(
        name="HOW R50", framework=LOCAL, method="HOW-ASMK, 1000 descriptors",
        network="ResNet-50 without its last block", training="SfM-120k", roxford=_F(78.3, None),
        rparis=_F(80.1, None), memory_gb=7.9, model="how-r50", source=f"{_HOW}; memory: {_DECK}", deck=True,
        caution="the README gives medium alone",
    ),
    PublishedRow(
        name="HOW R50 2000", framework=LOCAL, method="HOW-ASMK, 2000 descriptors", certain=False,
        network="ResNet-50 without its last block", training="SfM-120k", roxford=_F(79.4, 56.9),
        rparis=_F(81.6, 62.4), roxford_1m=_F(65.8, 38.9), rparis_1m=_F(61.8, 33.7), model="how-r50",
        source=_HOW, caution=_HOW_HARD,
    ),
    PublishedRow(
        name="FIRe R50", framework=LOCAL, method="FIRe", network="ResNet-50 without its last block",
        training="SfM-120k", roxford=_F(81.8, 61.2), rparis=_F(85.3, 70.0), memory_gb=6.4, model="fire", certain=False,
        source=f"Weinzaepfel et al., ICLR 2022; memory: {_DECK}", deck=True, caution=_UNCERTAIN,
    ),
    *(
        PublishedRow(
            name=name, framework=LOCAL, method=method, network="ResNet-18", training="SfM-120k", roxford=roxford,
            rparis=rparis, source=_DECK, deck=True,
            caution="its weights were not published:  ctxdeploy train  makes such",
        )
        for name, method, roxford, rparis in (
            ("HOW R18, deck", "HOW", _F(74.2, 52.1), _F(80.0, 59.3)),
            ("ctx R18 smoothing", "HOW with learned smoothing", _F(75.0, 51.8), _F(80.9, 61.3)),
            ("ctx R18 graph", "HOW with graph refinement", _F(75.3, 53.3), _F(80.7, 60.9)),
            ("ctx R18 both", "HOW with both", _F(75.3, 53.2), _F(80.5, 60.2)),
        )
    ),
)  # fmt: skip
