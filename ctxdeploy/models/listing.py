"""The models that have a name, as ``ctxdeploy models`` lists them, and where fetched ones came from."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ctxdeploy.core import bundle
from ctxdeploy.core.bundle import CODEBOOK, MAX_MANIFEST, Bundle
from ctxdeploy.core.errors import BundleError
from ctxdeploy.core.files import folder_bytes, write_json
from ctxdeploy.core.reading import read_regular
from ctxdeploy.models.authors import PUBLISHED, UNAVAILABLE, Published
from ctxdeploy.models.finding import built_in, models_folder, own_names
from ctxdeploy.models.table import BUILT_IN, DEFAULT

ORIGIN = "origin.json"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What was fetched.

    Attributes:
        url: the one that was asked for.
        final_url: the one that answered, after redirections.
        file: name of the checkpoint.
        bytes: of it.
        sha256: of it, as it arrived.
        known_sha256: whether that is the one in the table of models; if not, nothing was known to compare it with.
        etag: of the answer, if it had one.
        last_modified: of the answer, if it had one.
        fetched: when, in UTC.
        licence: as shown when it was fetched.
    """

    url: str
    final_url: str
    file: str
    bytes: int
    sha256: str
    known_sha256: bool
    etag: str | None
    last_modified: str | None
    fetched: str
    licence: str


def write_origin(folder: Path, origin: Origin) -> None:
    """Write ``origin.json`` into a folder that is being made."""
    write_json(folder / ORIGIN, asdict(origin))


def read_origin(folder: Path) -> Origin | None:
    """Return where a model came from; None if it does not say, or not in a form that is known."""
    try:
        return Origin(**json.loads(read_regular(folder / ORIGIN, MAX_MANIFEST)))
    except (OSError, ValueError, TypeError):
        return None


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What is known of a model that has a name.

    Attributes:
        name: that commands take.
        kind: ``built-in``, ``fetched``, ``own`` (put into the folder of models by hand), ``published`` (not here), or
            ``unavailable`` (it cannot be had: ``problem`` says why and what to do instead).
        what: the model is, in a few words.
        licence: as far as it is known.
        gives: ``local``, ``global``, both, or ``codebook``; None if it is not known.
        dim: of its local descriptors, or of a codebook's words; None if it gives none, or the bundle is damaged.
        global_dim: of its global descriptor; None if it gives none.
        words: of its codebook; None if it carries none.
        bytes: of its folder; None if it is not here.
        path: its folder; None if it is not here.
        url: that its checkpoint can be fetched from, or was; a page for people where ``by_hand``.
        by_hand: whether people must download it, since there is no address that a program can fetch.
        file: name of what is fetched; a mirror has it under this name. None where there is nothing to fetch.
        sha256: what the authors publish of it, in words; None where there is nothing to fetch.
        file_bytes: of the file to fetch; None where it is not published.
        default: whether it is used where no model is named.
        problem: why it cannot be opened.
    """

    name: str
    kind: str
    what: str
    licence: str
    gives: str | None = None
    dim: int | None = None
    global_dim: int | None = None
    words: int | None = None
    bytes: int | None = None
    path: Path | None = None
    url: str | None = None
    by_hand: bool = False
    file: str | None = None
    sha256: str | None = None
    file_bytes: int | None = None
    default: bool = False
    problem: str | None = None

    def metadata(self) -> dict[str, Any]:
        """Return the facts as JSON prints them."""
        return {**asdict(self), "path": None if self.path is None else str(self.path)}


def list_models() -> list[ModelInfo]:
    """Return all models: built in, in the folder of models, and those that can be fetched into it."""
    found = [
        _info(built_in(model.name), kind="built-in", what=model.what, licence=model.licence)
        for model in BUILT_IN.values()
    ]
    own = list(own_names())
    for name in own:
        if name in BUILT_IN:  # the name means the built-in one
            continue
        published = PUBLISHED.get(name)
        origin = read_origin(models_folder() / name)
        found.append(
            _info(
                models_folder() / name,
                kind="own" if origin is None else "fetched",
                what=None if published is None else published.what,
                licence="unknown" if published is None else published.licence,
                url=None if origin is None else origin.url,
            )
        )
    found += [_published(model) for model in PUBLISHED.values() if model.name not in own]
    found += [
        ModelInfo(
            name=entry.name,
            kind="unavailable",
            what=entry.what,
            licence=entry.licence,
            problem=f"cannot be had: {entry.why}; {entry.instead}",
        )
        for entry in UNAVAILABLE
    ]
    return found


def _published(model: Published) -> ModelInfo:
    """Return what is known of a model to fetch; a codebook may be here."""
    folder = models_folder() / model.name
    here = model.gives == "codebook" and (folder / CODEBOOK).exists()
    return ModelInfo(
        name=model.name,
        kind="fetched" if here else "published",
        what=model.what,
        licence=model.licence,
        gives=model.gives,
        dim=model.dim,
        global_dim=model.global_dim,
        bytes=folder_bytes(folder) if here else None,
        path=folder if here else None,
        url=model.url or model.page,
        by_hand=model.url is None,
        file=model.file,
        sha256=model.hash_text,
        file_bytes=model.bytes,
    )


def _info(path: Path, *, kind: str, what: str | None, licence: str, url: str | None = None) -> ModelInfo:
    opened: Bundle | None = None
    problem = None
    try:
        opened = bundle.open(path, check_hashes=False)
    except BundleError as error:
        problem = str(error)
    network = {} if opened is None else opened.network
    return ModelInfo(
        name=path.name,
        kind=kind,
        what=what or f"{network.get('family', 'damaged')} {network.get('architecture', '')}".strip(),
        licence=licence,
        gives=None if opened is None else ", ".join(opened.extraction.gives),
        dim=opened.extraction.dim if opened is not None and opened.extraction.top_k else None,
        global_dim=None if opened is None else opened.extraction.global_dim or None,
        words=None if opened is None or opened.codebook is None else opened.codebook.words,
        bytes=folder_bytes(path),
        path=path,
        url=url,
        default=path.name == DEFAULT,
        problem=problem,
    )
