"""A name or a path to the folder of a model.

A bundle at the path that is given comes first; then the built-in models; then those in the folder of fetched models.
"""

import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from ctxdeploy.core.bundle import CODEBOOK, MANIFEST
from ctxdeploy.core.errors import BundleError, ConfigError
from ctxdeploy.models.authors import PUBLISHED, UNAVAILABLE
from ctxdeploy.models.table import BUILT_IN, DEFAULT, is_name

BUNDLE_SUFFIX = ".ctxbundle"

_PULL = "fetch it with  ctxdeploy models pull"


def models_folder() -> Path:
    """Return the folder of fetched models, which need not exist: in ``CTXDEPLOY_HOME``, else ``ctxdeploy`` in
    ``XDG_DATA_HOME``, else in ``~/.local/share``."""
    home = os.environ.get("CTXDEPLOY_HOME")
    if home:
        return Path(home) / "models"
    # The specification says: a path that is not absolute is to be ignored.
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    if not data.is_absolute():
        try:
            data = Path.home() / ".local" / "share"
        except RuntimeError as error:
            raise ConfigError("there is no home folder: name a folder for models with CTXDEPLOY_HOME") from error
    return data / "ctxdeploy" / "models"


def built_in(name: str) -> Path:
    """Return the folder of a built-in model; it is read, never written.

    Raises:
        BundleError: it is not there.
    """
    folder = files("ctxdeploy.models") / name
    # Runtimes map files: there is no way to run a graph inside an archive of Python modules.
    if not isinstance(folder, Path):
        raise BundleError(f"{name} lies in an archive of Python modules: install ctxdeploy with pip, which unpacks it")
    if not (folder / MANIFEST).exists():
        raise BundleError(f"{folder} is missing: install ctxdeploy again")
    return folder


def own_names() -> Iterator[str]:
    """Yield the names of the models in the folder of fetched models."""
    for manifest in sorted(models_folder().glob(f"*/{MANIFEST}")):
        if is_name(manifest.parent.name):
            yield manifest.parent.name


def named_model(name: str) -> Path | None:
    """Return the folder of the model of a name; None if there is none.

    Raises:
        ConfigError: it can be fetched, but was not.
    """
    if name in BUILT_IN:
        return built_in(name)
    if not is_name(name):
        return None
    folder = models_folder() / name
    if (folder / MANIFEST).exists():
        return folder
    published = PUBLISHED.get(name)
    if published is not None and published.gives == "codebook":
        raise ConfigError(f"{name} is a codebook, not a model: give it with --codebook {name}")
    if published is not None:
        raise ConfigError(f"{name} is not on this machine: {_PULL} {name}")
    refuse_unavailable(name)
    return None


def refuse_unavailable(name: str) -> None:
    """Raise ``ConfigError`` for the name of what cannot be had, with what to do instead."""
    for entry in UNAVAILABLE:
        if entry.name == name:
            raise ConfigError(f"{name} cannot be had: {entry.why}; {entry.instead}")


def find_codebook(given: Path) -> Path:
    """Return the codebook that a name or a path means; a path where something is comes first.

    Raises:
        ConfigError: the codebook of that name can be fetched, but was not.
    """
    name = os.fspath(given)
    published = None if given.exists() else PUBLISHED.get(name)
    if published is None or published.gives != "codebook":
        return given
    file = models_folder() / name / CODEBOOK
    if not file.exists():
        raise ConfigError(f"codebook {name} is not on this machine: {_PULL} {name}")
    return file


def find_bundle(given: str | os.PathLike[str]) -> Path:
    """Return the bundle that a name or a path means; a path that is not a bundle is returned as it is."""
    path = Path(given)
    if (path / MANIFEST).exists():
        return path
    return named_model(os.fspath(given)) or path


def find_checkpoint(given: str | os.PathLike[str]) -> Path:
    """Return the checkpoint that a name or a path means; a path that is not a file is returned as it is.

    Raises:
        ConfigError: the model of that name can be fetched, but was not, or came without its checkpoint.
    """
    path = Path(given)
    if path.is_file():
        return path
    tensors = Path(f"{os.fspath(given)}.index")  # TensorFlow's checkpoints are named without it
    if not path.exists() and tensors.is_file():
        return tensors
    folder = named_model(os.fspath(given))
    if folder is None:
        return path
    from ctxdeploy.core import bundle

    checkpoint = folder / Path(bundle.open(folder, check_hashes=False).source["file"]).name
    if not checkpoint.exists():
        raise ConfigError(f"model {given} came without its checkpoint: name the file")
    return checkpoint


def check_own(bundle: Path) -> None:
    """Raise ``ConfigError`` for a built-in model: it is part of the installation, and stays as it is."""
    for name in BUILT_IN:
        if bundle.resolve() == built_in(name).resolve():
            raise ConfigError(
                f"{name} is built in and stays as it is: make a bundle of your own of it with  "
                f"ctxdeploy export {name} -o mine.ctxbundle"
            )


def display_name(given: Path) -> str:
    """Return how a bundle is called: the name of a model, or its path."""
    for name in BUILT_IN:
        if given == built_in(name):
            return f"{name} (built in)"
    return given.name if given.parent == models_folder() else str(given)


def find_model(given: str | None) -> Path:
    """Return the bundle that a command uses: that of the given name or path, or of ``CTXDEPLOY_MODEL``, or the only
    one in the working folder, or the built-in one.

    Raises:
        ConfigError: there are several in the working folder, or the name is of a model that was not fetched.
    """
    named = given or os.environ.get("CTXDEPLOY_MODEL")
    if named:
        return find_bundle(named)
    return only_here(BUNDLE_SUFFIX, "--model") or built_in(DEFAULT)


def only_here(suffix: str, flag: str) -> Path | None:
    """Return the only folder of this kind in the working folder; None if there is none, ``ConfigError`` if several."""
    # What is being made, and what an interrupted run left, has a hidden name.
    found = sorted(path for path in Path().glob(f"*{suffix}") if not path.name.startswith("."))
    if len(found) <= 1:
        return found[0] if found else None
    names = ", ".join(str(path) for path in found[:5])
    raise ConfigError(f"there are {len(found)} *{suffix} in this folder ({names}): name one with {flag}")
