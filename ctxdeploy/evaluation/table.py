"""The data sets that can be read, in the order in which they are tried."""

from pathlib import Path

from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.text import printable
from ctxdeploy.evaluation import holidays, oxford, revisited, scenes
from ctxdeploy.evaluation.dataset import DataSet, Kind

KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (revisited.KIND, oxford.KIND, scenes.MINIBENCH, scenes.KIND, holidays.KIND)
}


def open_set(place: Path, kind: str | None = None) -> DataSet:
    """Read the data set in a folder.

    Args:
        place: the folder.
        kind: one of ``KINDS``; the first that fits if None.

    Raises:
        ConfigError: none fits, the ground truth is not of its form, or photos are missing.
    """
    if not place.is_dir():
        raise ConfigError(f"{printable(str(place))} is not a folder: give one with a data set")
    found = next((k for k in KINDS.values() if (k.name == kind if kind else k.fits(place))), None)
    if found is None:
        forms = "; ".join(f"{k.name}: {k.what}" for k in KINDS.values())
        below = next((path for path in sorted(place.iterdir()) if path.is_dir() and _fits_any(path)), None)
        hint = f" (there is one in {printable(str(below))})" if below else ""
        raise ConfigError(f"{printable(str(place))} holds no data set{hint}; what is known: {forms}")
    dataset = found.read(place)
    dataset.check_files()
    return dataset


def _fits_any(folder: Path) -> bool:
    return any(kind.fits(folder) for kind in KINDS.values())
