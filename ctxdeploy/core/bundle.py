"""The bundle: a folder with a network's artefacts and ``bundle.json``, which describes them and their parity.

``ctxdeploy.export`` writes it, ``ctxdeploy.runtime`` reads it; neither needs the other. Format version 2 has several
artefacts, each with ``details``; version 1 (one fp32 graph) is read as well. Version 3 carries a codebook, version 4
gives global descriptors; a bundle with neither stays at version 2.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ctxdeploy.core.errors import BundleError, ConfigError, CtxdeployError
from ctxdeploy.core.files import file_sha256, settings_sha256, write_json
from ctxdeploy.core.onnx_file import check_onnx
from ctxdeploy.core.reading import read_regular
from ctxdeploy.core.types import Preprocessing

FORMAT_NAME = "ctxdeploy-bundle"
FORMAT_VERSION = 4
_WITHOUT_GLOBAL = 3
_WITHOUT_CODEBOOK = 2
_READABLE = (1, 2, 3, 4)
MANIFEST = "bundle.json"
# Bytes of the manifest (of ten artefacts it has 20 KB), and files that it may list: four runtimes in five precisions,
# and engines for a few dozen GPUs.
MAX_MANIFEST = 16 << 20
MAX_ARTEFACTS = 500
CODEBOOK = "codebook.safetensors"
# Of an entry's fields in the manifest; the others are texts.
_KINDS: Mapping[str, type] = {"bytes": int, "words": int, "parity": dict, "details": dict}
INPUT_NAME = "image"
OUTPUT_NAMES = ("descriptors", "attention", "positions", "scales")
GLOBAL_OUTPUT = "global"


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """What the graph computes from an image, beyond the network's weights.

    Attributes:
        scales: factors of the image pyramid, in the order in which ties of attention are broken.
        top_k: rows that the graph returns for every photo (padded with attention 0); 0 for a network that gives
            a global descriptor and no local ones.
        top_share: of a photo's positions at all scales, at most so large a share is returned, but 32 in any case; 1
            for all. A small photo, or a part of one, has few positions, of which the weakest do harm.
        dim: dimension D of the local descriptors; of the global one where there are no local ones.
        global_dim: dimension of the global descriptor; 0 for a network without.
        global_scales: factors of the image pyramid of the global descriptor; none without one.
    """

    scales: tuple[float, ...] = (2.0, 1.414, 1.0, 0.707, 0.5, 0.353, 0.25)
    top_k: int = 1000
    top_share: float = 1.0
    dim: int = 128
    global_dim: int = 0
    global_scales: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        self._check_global()
        if not self.scales or len(set(self.scales)) != len(self.scales):
            raise ConfigError(f"--scales {self.scales}: give at least one scale, each once")
        for scale in self.scales:
            if not 0.05 <= scale <= 4.0 or round(scale, 4) != scale:
                raise ConfigError(f"scale {scale} is not a number from 0.05 to 4 with at most four decimals (--scales)")
        if type(self.top_k) is not int or type(self.dim) is not int:
            raise ConfigError(f"--top-k {self.top_k!r} and dimension {self.dim!r} must be whole numbers")
        least = 0 if self.global_dim else 1
        if not least <= self.top_k <= 65536:
            raise ConfigError(f"--top-k {self.top_k} is outside {least}..65536")
        share = self.top_share
        if type(share) not in (int, float) or not 0.001 <= share <= 1.0 or round(share, 3) != share:
            raise ConfigError(f"--top-share {share!r} is not a number from 0.001 to 1 with at most three decimals")
        if not 1 <= self.dim <= 4096:
            raise ConfigError(f"descriptor dimension {self.dim} is outside 1..4096")

    def _check_global(self) -> None:
        if type(self.global_dim) is not int or not 0 <= self.global_dim <= 8192:
            raise ConfigError(
                f"dimension {self.global_dim!r} of the global descriptor is not a whole number in 0..8192"
            )
        scales = self.global_scales
        if bool(scales) != bool(self.global_dim) or len(set(scales)) != len(scales):
            raise ConfigError(
                f"scales {scales} of a global descriptor of {self.global_dim} dimensions: give at least "
                "one scale, each once"
            )
        for scale in scales:
            if not 0.05 <= scale <= 4.0:
                raise ConfigError(f"scale {scale} of the global descriptor is outside 0.05..4")

    @property
    def gives(self) -> tuple[str, ...]:
        """What a photo gets: ``local``, ``global``, or both."""
        return (*(("local",) if self.top_k else ()), *(("global",) if self.global_dim else ()))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs, in their order."""
        return (*(OUTPUT_NAMES if self.top_k else ()), *((GLOBAL_OUTPUT,) if self.global_dim else ()))

    @property
    def pyramid(self) -> tuple[float, ...]:
        """All scales at which the network sees a photo, each once."""
        return tuple(dict.fromkeys((*(self.scales if self.top_k else ()), *self.global_scales)))

    def metadata(self) -> dict[str, Any]:
        """Return the settings; those that not all networks have only where they are used, so that ids stay."""
        settings = asdict(self)
        if self.top_share == 1.0:
            del settings["top_share"]
        if not self.global_dim:
            del settings["global_dim"], settings["global_scales"]
        return settings


@dataclass(frozen=True, kw_only=True)
class ShapeRange:
    """Sizes of the graph's input, both ends included: images per batch, rows and columns in pixels."""

    batch: tuple[int, int] = (1, 64)
    height: tuple[int, int] = (1, 1024)
    width: tuple[int, int] = (1, 1024)

    def __post_init__(self) -> None:
        for name, (low, high) in asdict(self).items():
            if not 1 <= low <= high:
                raise ConfigError(f"the range {low}..{high} of {name} is empty or not positive")

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ``ConfigError`` unless ``shape`` is B×H×W×3 with every size in its range."""
        if len(shape) != 4 or shape[3] != 3:
            raise ConfigError(f"the input has shape {shape}, but B×H×W×3 is needed")
        for name, size in zip(("batch", "height", "width"), shape[:3], strict=True):
            low, high = getattr(self, name)
            if not low <= size <= high:
                raise ConfigError(f"the input's {name} is {size}, but this bundle takes {low}..{high}: export it anew")


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """One file in one runtime and precision; a file that serves several runtimes is listed once for each.

    Attributes:
        file: path inside the bundle.
        sha256: of the file's bytes.
        bytes: size of the file.
        format: ``onnx`` or ``engine``.
        precision: that it computes in, a label of ``ctxdeploy.core.types.Precision``.
        target: the runtime it is for: ``onnxruntime``, ``openvino``, ``tensorrt`` or ``tensorrt-rtx``.
        parity: figures of the comparison with PyTorch fp32, as written by ``ctxdeploy.export.parity``; empty where it
            could not be measured.
        details: what made it: layers kept in a higher precision, the GPU and options of an engine.
    """

    file: str
    sha256: str
    bytes: int
    format: str
    precision: str
    target: str
    parity: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CodebookFile:
    """The codebook that a bundle carries.

    Attributes:
        file: path inside the bundle, of a file that ``ctxdeploy.index.Codebook`` reads.
        sha256: of the file's bytes.
        bytes: size of the file.
        words: W.
        id: hex sha256 of the centroids.
    """

    file: str
    sha256: str
    bytes: int
    words: int
    id: str


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """An opened bundle.

    Attributes:
        path: the folder.
        network: family and configuration of the network, enough to build it again.
        source: checkpoint's file name, sha256 and format.
        preprocessing: how photos become inputs.
        extraction: scales, number and dimension of the descriptors.
        shapes: admissible input shapes.
        artefacts: the files; the fp32 graph, which every other is made from, comes first.
        tools: versions that made the bundle.
        codebook: that belongs to the network; None if the bundle carries none.
    """

    path: Path
    network: Mapping[str, Any]
    source: Mapping[str, str]
    preprocessing: Preprocessing
    extraction: Extraction
    shapes: ShapeRange
    artefacts: tuple[Artefact, ...]
    tools: Mapping[str, str] = field(default_factory=dict)
    codebook: CodebookFile | None = None

    @property
    def model_id(self) -> str:
        """Hex sha256 of what decides the descriptors (weights, network, scales, K): equal ids may share an archive.

        Preprocessing has a hash of its own; precision, runtime and codebook are not part of it.
        """
        return settings_sha256(
            {
                "network": dict(self.network),
                "weights": self.source["weights_sha256"],
                "extraction": self.extraction.metadata(),
            }
        )

    def artefact(self, target: str = "onnxruntime", precision: str = "fp32") -> Artefact:
        """Return the artefact of a runtime and precision, else an ONNX graph of that precision made for another one.

        Raises:
            BundleError: there is no such artefact; the message names those that there are.
        """
        exact = [a for a in self.artefacts if (a.target, a.precision) == (target, precision)]
        graphs = [a for a in self.artefacts if (a.format, a.precision) == ("onnx", precision)]
        for artefact in exact + graphs:
            return artefact
        found = ", ".join(f"{a.target}/{a.precision}" for a in self.artefacts)
        there = dict.fromkeys(a.precision for a in self.artefacts if a.precision != precision)
        instead = f", or use  --precision {' or '.join(there)}" if there else ""
        raise BundleError(
            f"{self.path} has no {target}/{precision} artefact, only {found}: "
            f"export one with  --target {target} --precision {precision}{instead}"
        )

    @property
    def format_version(self) -> int:
        """The format in which it is written: the oldest that holds it."""
        if self.extraction.global_dim:
            return FORMAT_VERSION
        return _WITHOUT_CODEBOOK if self.codebook is None else _WITHOUT_GLOBAL

    @property
    def entries(self) -> tuple[Artefact | CodebookFile, ...]:
        """The files of the bundle: its artefacts, and the codebook if it carries one."""
        return self.artefacts if self.codebook is None else (*self.artefacts, self.codebook)

    def file(self, entry: Artefact | CodebookFile) -> Path:
        """Return the path of an artefact, or of the codebook."""
        return self.path / entry.file

    def metadata(self) -> dict[str, Any]:
        """Return the content of ``bundle.json``."""
        return {
            "format": FORMAT_NAME,
            "format_version": self.format_version,
            "model_id": self.model_id,
            "network": dict(self.network),
            "source": dict(self.source),
            "preprocessing": self.preprocessing.metadata(),
            "preprocessing_hash": self.preprocessing.hash,
            "extraction": self.extraction.metadata(),
            "input": {"name": INPUT_NAME, "dtype": "uint8", "layout": "BHWC, RGB", "ranges": asdict(self.shapes)},
            "outputs": _outputs(self.extraction),
            "artefacts": [asdict(artefact) for artefact in self.artefacts],
            **({} if self.codebook is None else {"codebook": asdict(self.codebook)}),
            "tools": dict(self.tools),
        }

    def write_manifest(self) -> None:
        """Write ``bundle.json`` beside the artefacts, which must be there already; one that is there is replaced.

        Raises:
            StorageError: it cannot be written; the one that was there stays.
        """
        write_json(self.path / MANIFEST, self.metadata())


def open(path: str | os.PathLike[str], *, check_hashes: bool = True) -> Bundle:  # noqa: A001 (bundle.open, as gzip.open)
    """Open a bundle and check it.

    Args:
        path: the folder.
        check_hashes: read every artefact, compare its sha256 and look through graphs (``check_onnx``): 0.2 s for 45 MB.

    Raises:
        BundleError: the folder is not a bundle, its format is newer, or a file is missing, damaged or outside of it,
            takes weights from yet another one, or computes what no graph of ours does.
    """
    folder = Path(path)
    manifest = _read_manifest(folder)
    try:
        bundle = _parse(folder, manifest)
        expected = {"model_id": bundle.model_id, "preprocessing_hash": bundle.preprocessing.hash}
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, CtxdeployError) as error:
        what = f"missing {error}" if isinstance(error, KeyError) else str(error)
        # It may quote the manifest: a million numbers were a line of 5 MB.
        what = what if len(what) <= 300 else f"{what[:300]}…"
        raise BundleError(f"{folder / MANIFEST} is not valid ({what}): export the bundle anew") from error
    for key, value in expected.items():
        if manifest.get(key) != value:
            raise BundleError(f"{folder / MANIFEST}: {key} does not fit the settings beside it: export the bundle anew")
    hashes: dict[str, str] = {}
    for entry in bundle.entries:
        _check_file(bundle, entry, hashes if check_hashes else None)
    return bundle


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(read_regular(folder / MANIFEST, MAX_MANIFEST))
    except FileNotFoundError as error:
        raise BundleError(f"{folder} is not a bundle (no {MANIFEST}): make one with  ctxdeploy export") from error
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else None
        raise BundleError(f"{folder / MANIFEST} cannot be read: {why or error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT_NAME:
        raise BundleError(f"{folder / MANIFEST} is not a {FORMAT_NAME} manifest: make one with  ctxdeploy export")
    version = manifest.get("format_version")
    if version not in _READABLE:
        raise BundleError(
            f"{folder} has bundle format {version}, this ctxdeploy reads {_READABLE[0]} to {FORMAT_VERSION}: upgrade, "
            "or export anew"
        )
    return manifest


def _parse(folder: Path, manifest: dict[str, Any]) -> Bundle:
    extraction = manifest["extraction"]
    ranges = manifest["input"]["ranges"]
    bundle = Bundle(
        path=folder,
        network=manifest["network"],
        source=manifest["source"],
        preprocessing=Preprocessing(**manifest["preprocessing"]),
        extraction=Extraction(
            **{
                **extraction,
                **{name: tuple(extraction[name]) for name in ("scales", "global_scales") if name in extraction},
            }
        ),
        shapes=ShapeRange(**{name: (int(low), int(high)) for name, (low, high) in ranges.items()}),
        artefacts=tuple(Artefact(**artefact) for artefact in manifest["artefacts"]),
        tools=manifest["tools"],
        codebook=None if manifest.get("codebook") is None else CodebookFile(**manifest["codebook"]),
    )
    if not 1 <= len(bundle.artefacts) <= MAX_ARTEFACTS:
        count = f"{len(bundle.artefacts):,} artefacts, more than {MAX_ARTEFACTS}" if bundle.artefacts else "no artefact"
        raise BundleError(f"it lists {count}")
    for key in ("network", "source", "tools"):
        if not isinstance(manifest[key], dict):
            raise BundleError(f"{key} is a {type(manifest[key]).__name__}")
    for entry in bundle.entries:
        if not isinstance(entry.file, str) or not entry.file.isprintable():
            kind = "codebook" if isinstance(entry, CodebookFile) else "artefact"
            raise BundleError(f"{kind} file {entry.file!r} is not a file name")
        for name, value in vars(entry).items():
            wanted = _KINDS.get(name, str)
            if not isinstance(value, wanted) or isinstance(value, bool):
                raise BundleError(f"{name} of {entry.file} is a {type(value).__name__}")
    return bundle


def _check_file(bundle: Bundle, entry: Artefact | CodebookFile, hashes: dict[str, str] | None) -> None:
    """Check what is said of a file; ``hashes`` has those of files seen before, and is None where none is asked for."""
    name = PurePosixPath(entry.file)
    if name.is_absolute() or ".." in name.parts:
        raise BundleError(f"{bundle.path / MANIFEST} names a file outside the bundle: {entry.file}")
    path = bundle.path / name
    if not os.path.isfile(path):  # noqa: PTH113 (Path.is_file raises for a name that is too long)
        raise BundleError(f"{path} is missing: export the bundle anew")
    if path.stat().st_size != entry.bytes:
        raise BundleError(f"{path} has {path.stat().st_size} bytes instead of {entry.bytes}: export the bundle anew")
    if hashes is None:
        return
    if entry.file not in hashes:
        hashes[entry.file] = file_sha256(path)
    if hashes[entry.file] != entry.sha256:
        raise BundleError(f"{path} is damaged (its sha256 is not the recorded one): export the bundle anew")
    if isinstance(entry, Artefact) and entry.format == "onnx" and (graph := f"{entry.file}\0graph") not in hashes:
        check_onnx(path)
        hashes[graph] = "sound"


def output_shapes(extraction: Extraction) -> dict[str, tuple[int, ...]]:
    """Return the shape of each of the graph's outputs, in their order, without the batch."""
    k, d = extraction.top_k, extraction.dim
    shapes = {
        "descriptors": (k, d),
        "attention": (k,),
        "positions": (k, 2),
        "scales": (k,),
        GLOBAL_OUTPUT: (extraction.global_dim,),
    }
    return {name: shapes[name] for name in extraction.outputs}


def _outputs(extraction: Extraction) -> list[dict[str, Any]]:
    shapes = output_shapes(extraction)
    return [{"name": name, "dtype": "float32", "shape": ["batch", *shape]} for name, shape in shapes.items()]
