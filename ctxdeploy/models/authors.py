"""The files that authors published: addresses as their repositories name them, licences, and what cannot be had."""

import re
from dataclasses import dataclass

# What a name of PyTorch's hub says of a file: it ends in the first digits of its sha256.
_HUB = re.compile(r"-([0-9a-f]{7,64})\.pth?$")


@dataclass(frozen=True, kw_only=True)
class Published:
    """A checkpoint, a SavedModel or a codebook that its authors published.

    Attributes:
        name: of the model.
        what: the model is, in a few words.
        gives: ``local``, ``global``, ``local, global``, or ``codebook``.
        dim: of its local descriptors, or of a codebook's words; None if it gives none.
        global_dim: of its global descriptor; None if it gives none.
        licence: as stated in the authors' repository.
        terms: what must be agreed to before it is fetched; None where nothing must.
        url: of the file; None where the authors name only a page for people.
        page: where people find the file, if there is no URL.
        file: its name; what the URL ends in if empty.
        bytes: of the file; None where it is not published.
        sha256: of the file; None where it is not published.
        source: the page that names the address.
    """

    name: str
    what: str
    gives: str = "local"
    dim: int | None = None
    global_dim: int | None = None
    licence: str
    terms: str | None = None
    url: str | None = None
    page: str | None = None
    file: str = ""
    bytes: int | None = None
    sha256: str | None = None
    source: str

    def __post_init__(self) -> None:
        if not self.file:
            object.__setattr__(self, "file", (self.url or "").rpartition("/")[2])

    @property
    def sha256_prefix(self) -> str | None:
        """The first hex digits of the file's sha256: those of its name where the authors publish no more."""
        found = _HUB.search(self.file)
        return self.sha256 or (found[1] if found else None)

    @property
    def is_archive(self) -> bool:
        """Whether the file is a folder, packed."""
        return self.file.endswith((".tar.gz", ".tgz"))

    @property
    def hash_text(self) -> str:
        """What is known of its sha256, as people are told."""
        if self.sha256 is not None:
            return f"sha256: {self.sha256}"
        prefix = self.sha256_prefix
        return "sha256: not published" if prefix is None else f"sha256: begins with {prefix}, as the file's name says"


@dataclass(frozen=True, kw_only=True)
class Unavailable:
    """What people look for and cannot get here.

    Attributes:
        name: of it.
        what: it is, in a few words.
        licence: as far as it is known.
        why: it cannot be had.
        instead: what to do.
    """

    name: str
    what: str
    licence: str
    why: str
    instead: str


_CVUT = "https://ptak.felk.cvut.cz/personal/toliageo/share/how/models"
_NAVER = "https://download.europe.naverlabs.com/ComputerVision/FIRe"
_CIRTORCH = "https://cmp.felk.cvut.cz/cnnimageretrieval/data/networks"
_DRIVE = "https://drive.google.com"
_DELF = "https://storage.googleapis.com/delf"
_HOW_LICENCE = "MIT (of the code; none is stated for the weights)"
_BSD = "BSD-3-Clause (of the code; none is stated for the weights)"
_APACHE = "Apache-2.0"


def _cirtorch(name: str, file: str, what: str, dim: int = 2048) -> Published:
    return Published(
        name=name,
        what=f"GeM on {what} (Radenović et al., TPAMI 2018)",
        gives="global",
        global_dim=dim,
        licence=_HOW_LICENCE,
        url=f"{_CIRTORCH}/{'gl18' if file.startswith('gl18') else 'retrieval-SfM-120k'}/{file}",
        source="github.com/filipradenovic/cnnimageretrieval-pytorch, cirtorch/examples/test.py",
    )


def _dirtorch(name: str, label: str, what: str, page: str) -> Published:
    return Published(
        name=name,
        what=f"{what} (Revaud et al., ICCV 2019)",
        gives="global",
        global_dim=2048,
        licence=_BSD,
        page=f"{_DRIVE}/{page}",
        file=f"{label}.pt",
        source="github.com/naver/deep-image-retrieval, README.md",
    )


def _tensorflow(
    name: str, file: str, what: str, *, gives: str = "local", dim: int = 128, global_dim: int | None = None
) -> Published:
    return Published(
        name=name,
        what=what,
        gives=gives,
        dim=dim,
        global_dim=global_dim,
        licence=_APACHE,
        url=f"{_DELF}/{file}.tar.gz",
        source="github.com/tensorflow/models, research/delf",
    )


def _delg(name: str, file: str, trunk: str, photos: str) -> Published:
    what = f"DELG on {trunk}, trained on {photos} (Cao et al., ECCV 2020)"
    return _tensorflow(name, file, what, gives="local, global", global_dim=2048)


def _words(photos: str, words: int) -> Published:
    number = {"roxford5k": "Revisited Oxford", "rparis6k": "Revisited Paris"}[photos]
    what = f"{words:,} words of DELF-GLD descriptors of {number} (Teichmann et al., CVPR 2019)"
    return _tensorflow(f"delf-words-{photos}-{words}", f"{photos}_codebook_{words}", what, gives="codebook")


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
        _cirtorch("gem-vgg16-sfm", "retrievalSfM120k-vgg16-gem-b4dcdc6.pth", "VGG-16 and whitened, SfM-120k", 512),
        _cirtorch("gem-r101-sfm", "retrievalSfM120k-resnet101-gem-b80fb85.pth", "ResNet-101 and whitened, SfM-120k"),
        _cirtorch("gem-w-r50-sfm", "rSfM120k-tl-resnet50-gem-w-97bf910.pth", "ResNet-50, SfM-120k"),
        _cirtorch("gem-w-r101-sfm", "rSfM120k-tl-resnet101-gem-w-a155e54.pth", "ResNet-101, SfM-120k"),
        _cirtorch("gem-w-r152-sfm", "rSfM120k-tl-resnet152-gem-w-f39cada.pth", "ResNet-152, SfM-120k"),
        _cirtorch("gem-w-r50-gl18", "gl18-tl-resnet50-gem-w-83fdc30.pth", "ResNet-50, Google Landmarks 2018"),
        _cirtorch("gem-w-r101-gl18", "gl18-tl-resnet101-gem-w-a4d43db.pth", "ResNet-101, Google Landmarks 2018"),
        _cirtorch("gem-w-r152-gl18", "gl18-tl-resnet152-gem-w-21278d5.pth", "ResNet-152, Google Landmarks 2018"),
        _dirtorch(
            "tl-mac-r101",
            "Resnet101-TL-MAC",
            "MAC on ResNet-101, triplet loss",
            "file/d/13MUGNwn_CYGZvqDBD8FGD8fVYxThsSDg/view",
        ),
        _dirtorch(
            "tl-gem-r101",
            "Resnet101-TL-GeM",
            "GeM on ResNet-101, triplet loss",
            "open?id=1vhm1GYvn8T3-1C4SPjPNJOuTU9UxKAG6",
        ),
        _dirtorch(
            "ap-gem-r50", "Resnet50-AP-GeM", "AP-GeM on ResNet-50", "file/d/1oPtE_go9tnsiDLkWjN4NMpKjh-_md1G5/view"
        ),
        _dirtorch(
            "ap-gem-r101", "Resnet101-AP-GeM", "AP-GeM on ResNet-101", "open?id=1UWJGDuHtzaQdFhSMojoYVQjmCXhIwVvy"
        ),
        _dirtorch(
            "ap-gem-r101-lm18",
            "Resnet101-AP-GeM-LM18",
            "AP-GeM on ResNet-101, Google Landmarks 2018",
            "open?id=1r76NLHtJsH-Ybfda4aLkUIoW3EEsi25I",
        ),
        Published(
            name="solar-r101",
            what="GeM with second-order attention on ResNet-101, Google Landmarks 2018 (Ng et al., ECCV 2020)",
            gives="global",
            global_dim=2048,
            licence=_HOW_LICENCE,
            url="https://imperialcollegelondon.box.com/shared/static/fznpeayct6btel2og2wjjgvqw0ziqnk4.pth",
            file="resnet101-solar-best.pth",
            source="github.com/tonyngjichun/SOLAR, download.sh",
        ),
        _tensorflow(
            "delf-v1", "delf_v1_20171026", "DELF on ResNet-50, trained on Landmarks (Noh et al., ICCV 2017)", dim=40
        ),
        _tensorflow(
            "delf",
            "delf_gld_20190411",
            "DELF on ResNet-50, trained on Google Landmarks v1 (Teichmann et al., CVPR 2019)",
        ),
        _delg("delg-r50", "r50delg_gld_20200814", "ResNet-50", "Google Landmarks v1"),
        _delg("delg-r101", "r101delg_gld_20200814", "ResNet-101", "Google Landmarks v1"),
        _delg("delg-r50-v2", "r50delg_gldv2clean_20200914", "ResNet-50", "GLDv2-clean"),
        _delg("delg-r101-v2", "r101delg_gldv2clean_20200914", "ResNet-101", "GLDv2-clean"),
        _delg("delg-gld-2020", "delg_gld_20200520", "ResNet-50", "Google Landmarks v1, the first file"),
        *(_words(photos, words) for photos in ("roxford5k", "rparis6k") for words in (65536, 1024)),
    )
}

UNAVAILABLE = (
    Unavailable(
        name="rmac-gordo",
        what="R-MAC on ResNet-101, trained on Landmarks-clean (Gordo et al., IJCV 2017)",
        licence="not stated",
        why="its trained weights exist for Caffe alone",
        instead="take gem-w-r101-gl18, or pool by R-MAC on a checkpoint of cirtorch, which gives other figures",
    ),
    Unavailable(
        name="delf-detector",
        what="detectors of landmarks for DELF-R-ASMK* (d2r_frcnn_20190411, d2r_mnetssd_20190411)",
        licence=_APACHE,
        why="detectors are out of scope",
        instead="run any detector yourself and give what it finds with  ctxdeploy index --boxes FILE",
    ),
    Unavailable(
        name="rn101-arcface",
        what="GeM on ResNet-101, ArcFace on GLDv2-clean (rn101_af_gldv2clean_20200814; Weyand et al., CVPR 2020)",
        licence=_APACHE,
        why="its TensorFlow graph is not one that ctxdeploy reads",
        instead="take delg-r101-v2, whose global descriptor is trained on the same photos",
    ),
    Unavailable(
        name="dsm",
        what="verification by MSER ellipses of activations (Siméoni et al., CVPR 2019)",
        licence="MIT",
        why="it gains nothing over GeM on ResNet-101, and its estimator is a binary of MATLAB without source",
        instead="verify with  ctxdeploy query --verify N",
    ),
)
