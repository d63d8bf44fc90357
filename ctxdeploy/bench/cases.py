"""A case: something that takes its turn in every window; the engine in it, and how ``--against`` changes it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ctxdeploy.core import bundle as bundles
from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.device import AUTO, CUDA
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.models import find_model
from ctxdeploy.runtime import BackendConfig
from ctxdeploy.runtime.backends import resolve

MAIN, AGAINST, PEER, SWEEP, METER = "main", "against", "peer", "sweep", "meter"
_NUMBERS, _PATHS = ("threads",), ("model", "archive", "python")


@dataclass(frozen=True, kw_only=True)
class Case:
    """Something that takes its turn in every window.

    Attributes:
        label: for people, unique in a run.
        role: ``main``, ``against`` (another configuration), ``peer``, ``sweep`` (other batches, threads, sizes) or
            ``meter``.
        subject: name in ``worker.SUBJECTS``.
        settings: of the subject; they may hold paths of this machine.
        identity: the settings that decide the figures, in hashes instead of paths.
        units: photos or queries of one item.
        turn: items of a turn; the next case follows.
        again: items that run untimed before each turn, where the turns of others take the caches from short ones.
        restarts: whether its process is started anew with every block; False for peers that take long to start.
        python: interpreter that runs it; this one if None.
    """

    label: str
    role: str
    subject: str
    settings: Mapping[str, Any]
    identity: Mapping[str, Any] = field(default_factory=dict)
    units: int = 1
    turn: int = 1
    again: int = 0
    restarts: bool = True
    python: str | None = None

    def metadata(self) -> dict[str, Any]:
        """Return the case as it stands in the configuration of a result."""
        return {"role": self.role, "subject": self.subject, "units": self.units, **self.identity}


@dataclass(frozen=True, kw_only=True)
class BundleEngine:
    """A bundle in a runtime.

    Attributes:
        bundle: opened.
        backend, precision, threads, device: as ``BackendConfig``; ``auto`` is what the bundle and the machine have.
        python: interpreter of the process; this one if None.
    """

    bundle: Bundle
    backend: str
    precision: str
    threads: int | None
    device: str = AUTO
    python: str | None = None

    def resolved(self) -> "BundleEngine":
        """Return the same with the engine's own name."""
        found = resolve(self.bundle, self.config())
        return replace(self, backend=found.name, device=found.device)

    def config(self) -> BackendConfig:
        """Return what opens it."""
        return BackendConfig(name=self.backend, precision=self.precision, device=self.device, threads=self.threads)

    def changed(self, changes: dict[str, Any]) -> "BundleEngine":
        """Return another engine, as ``--against`` says."""
        given = {key: value for key, value in changes.items() if key != "model"}
        if "precision" in given and "backend" not in given:
            given["backend"] = AUTO
        if "backend" in changes and "device" not in given:
            given["device"] = AUTO
        if "model" in changes:
            given["bundle"] = bundles.open(find_model(changes["model"]))
        return replace(self, **given).resolved()

    def settings(self) -> dict[str, Any]:
        """Return what a subject needs of it."""
        where = str(self.bundle.path.resolve())
        return {
            "bundle": where,
            "backend": self.backend,
            "precision": self.precision,
            "threads": self.threads,
            **self._gpu(),
        }

    def _gpu(self) -> dict[str, Any]:
        """Return the device where it is a GPU: results of former versions, which had none, stay comparable."""
        return {"device": self.device} if self.device.startswith(CUDA) else {}

    def identity(self) -> dict[str, Any]:
        """Return what decides its speed, without paths."""
        graphs = {artefact.sha256 for artefact in self.bundle.artefacts if artefact.precision == self.precision}
        own: dict[str, Any] = {"python": Path(self.python).name} if self.python else {}
        return {
            **own,
            "backend": self.backend,
            "precision": self.precision,
            "threads": self.threads,
            **self._gpu(),
            "model_id": self.bundle.model_id,
            "preprocessing_hash": self.bundle.preprocessing.hash,
            "artefacts": sorted(graphs) or sorted({artefact.sha256 for artefact in self.bundle.artefacts[:1]}),
        }


def parse_against(text: str, allowed: Sequence[str]) -> dict[str, Any]:
    """Return the settings that differ, from a text such as ``backend=openvino,precision=bf16``.

    Raises:
        ConfigError: the text is not a list of ``key=value`` with the allowed keys, or a key is given twice.
    """
    found: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        key, value = key.strip(), value.strip()
        if not equals or not value or key not in allowed:
            raise ConfigError(f"--against {text!r}: {part!r} is not one of {', '.join(f'{a}=…' for a in allowed)}")
        if key in found:
            raise ConfigError(f"--against {text!r}: {key} is given twice")
        found[key] = _number(key, value, text) if key in _NUMBERS else value
    return found


def _number(key: str, value: str, text: str) -> int:
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise ConfigError(f"--against {text!r}: {key} is not a whole number of at least 1")
    return int(value)


def label_of_against(changes: Mapping[str, Any]) -> str:
    """Return the label of the case: the settings that differ, and of a path its last part."""
    shown = {key: Path(value).name if key in _PATHS else value for key, value in changes.items()}
    return "against " + ", ".join(f"{key} {value}" for key, value in shown.items())
