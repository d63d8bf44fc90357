"""What a calibration measured, and the JSON file in which it is kept."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctxdeploy.capacity.costs import MEASURED, Costs, for_words
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.files import write_json
from ctxdeploy.core.reading import read_regular
from ctxdeploy.core.text import printable

FORMAT, FORMAT_VERSION = "ctxdeploy-measured", 1
# Of photos of one model alone.
PHOTO_FACTS = (
    "seconds_per_photo", "features_per_photo", "words_per_photo", "query_words", "skew", "query_seconds",
    "process_memory",
)  # fmt: skip
# Processes for each processor before a measurement, from which on it is not the machine's own.
_BUSY = 0.5


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A calibration of one machine.

    Attributes:
        machine: processor, processors, memory, as ``bench`` describes them.
        model: id of the model whose photos were measured; empty without.
        words: of its codebook; 0 without.
        photos: how many were extracted.
        load: average of the system before: how many processes wanted a processor.
        costs: assumptions by name.
        global_rates: bytes of global vectors a second, by kind.
    """

    machine: Mapping[str, Any]
    model: str = ""
    words: int = 0
    photos: int = 0
    load: float = 0.0
    costs: Mapping[str, float] = field(default_factory=dict)
    global_rates: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        Costs().updated(self.costs, MEASURED)
        for rate in self.global_rates.values():
            Costs().updated({"global_rate": rate}, MEASURED)

    @property
    def was_busy(self) -> bool:
        """Whether others took so much of the machine that the figures are not its own."""
        return self.load > _BUSY * float(self.machine.get("processors", 1))

    def for_model(self, model: str, vectors: str, words: int) -> dict[str, float]:
        """Return what holds of a model (its id), of one kind of global vectors, and of a codebook of so many words."""
        same = self.model == model
        found = {name: value for name, value in self.costs.items() if same or name not in PHOTO_FACTS}
        found = for_words(found, self.words, words)
        if vectors in self.global_rates:
            found["global_rate"] = self.global_rates[vectors]
        return found

    def metadata(self) -> dict[str, Any]:
        """Return the content of the file."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "machine": dict(self.machine),
            "model": self.model,
            "words": self.words,
            "photos": self.photos,
            "load": self.load,
            "costs": dict(self.costs),
            "global_rates": dict(self.global_rates),
        }

    def write(self, path: Path) -> None:
        """Keep it.

        Raises:
            StorageError: the file cannot be written.
        """
        write_json(path, self.metadata())

    @classmethod
    def read(cls, path: Path) -> "Measurement":
        """Read what ``write`` wrote.

        Raises:
            ConfigError: missing, or not such a file; the text names it and the field.
        """
        where = f"--measured {printable(str(path))}"
        try:
            found = json.loads(read_regular(path).decode("utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(f"{where} does not exist: make it with  ctxdeploy plan --measure") from error
        except OSError as error:
            raise ConfigError(f"{where} cannot be read: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{where} is not valid JSON: {error}") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ConfigError(f"{where} was not written by  ctxdeploy plan --measure")
        if found.get("format_version") != FORMAT_VERSION:
            raise ConfigError(
                f"{where}: format_version {found.get('format_version')!r}, this ctxdeploy reads {FORMAT_VERSION}: "
                "measure again"
            )
        try:
            machine, model, photos, words = (found[name] for name in ("machine", "model", "photos", "words"))
            if not isinstance(machine, dict) or not isinstance(model, str) or {type(photos), type(words)} != {int}:
                raise ConfigError("machine, model, words or photos is not what it should be")
            return cls(
                machine=machine,
                model=model,
                words=words,
                photos=photos,
                load=_numbers({"load": found["load"]}, "load")["load"],
                costs=_numbers(found["costs"], "costs"),
                global_rates=_numbers(found["global_rates"], "global_rates"),
            )
        except KeyError as error:
            raise ConfigError(f"{where} is damaged: {error} is missing") from error
        except ConfigError as error:
            raise ConfigError(f"{where} is damaged: {error}") from error


def _numbers(value: Any, name: str) -> dict[str, float]:
    if not isinstance(value, dict) or not all(type(number) in (int, float) for number in value.values()):
        raise ConfigError(f"{name} is not an object of numbers")
    return {str(key): float(number) for key, number in value.items()}
