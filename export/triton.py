"""A Triton model repository of a bundle's ONNX files and TensorRT engines.

``config.pbtxt`` is written and read back with Triton's own protobuf schema, from the package ``tritonclient``.
"""

import importlib.metadata
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxdeploy.core.bundle import INPUT_NAME, Artefact, Bundle, output_shapes
from ctxdeploy.core.engines import EngineKey
from ctxdeploy.core.errors import BundleError, ConfigError, StorageError
from ctxdeploy.core.extras import require
from ctxdeploy.core.files import make_folder, move, remove_folder, working_folder
from ctxdeploy.core.settings import setting
from ctxdeploy.core.targets import ONNXRUNTIME, TARGETS, TENSORRT

CONFIG = "config.pbtxt"
KINDS = {"cpu": "KIND_CPU", "gpu": "KIND_GPU", "auto": "KIND_AUTO"}
# Format and target of the artefacts that Triton has a backend for: backend, file name, and what the model's name says.
_BACKENDS = {(TARGETS[name].format, name): (name, f"model{TARGETS[name].suffix}") for name in (ONNXRUNTIME, TENSORRT)}
_MAX_PREFERRED = 8


@dataclass(frozen=True, kw_only=True)
class TritonConfig:
    """How Triton runs a bundle's models.

    Attributes:
        name: what the models' names begin with; the bundle's folder name if None.
        kind: ``gpu``, ``cpu``, or ``auto`` (on a GPU if the server has one), where ONNX models run; TensorRT engines
            run on the GPU.
        instances: copies of a model that run at the same time, on each GPU or on the CPU.
        max_batch: largest batch; if None the bundle's, of an engine what it was built for, and of an ONNX model on the
            CPU 1 unless ``preferred`` is given: larger ones gained at most 2 % there, and took 3.6 times the memory.
        preferred: batches that Triton waits for; half and all of the largest, but at most 8, if None.
        queue_delay: microseconds that a request may wait for others of its shape.
        threads: of one instance of an ONNX model on the CPU; ONNX Runtime's choice if None.
        warm_up: heights and widths in pixels that are run before a model is ready; 4:3 in landscape and in portrait at
            the bundle's largest size if None.
    """

    name: str | None = None
    kind: str = setting(
        "gpu",
        "--triton-kind",
        "Where Triton runs ONNX models: on the CPU photo by photo; auto is a GPU if the server has one.",
        choices=tuple(KINDS),
    )
    instances: int = 1
    max_batch: int | None = None
    preferred: tuple[int, ...] | None = None
    queue_delay: int = 2000
    threads: int | None = None
    warm_up: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"Triton has no instances of kind {self.kind!r}: give --triton-kind {' or '.join(KINDS)}")
        if self.name is not None and (not self.name or _clean(self.name) != self.name):
            raise ConfigError(f"{self.name!r} is not a name for a model: use letters, digits, '-', '_' and '.'")
        numbers = {
            "instances": (self.instances, 1),
            "queue_delay": (self.queue_delay, 0),
            "max_batch": (1 if self.max_batch is None else self.max_batch, 1),
            "threads": (1 if self.threads is None else self.threads, 1),
            **{f"preferred[{i}]": (size, 1) for i, size in enumerate(self.preferred or ())},
            **{f"warm_up[{i}]": (min(shape), 1) for i, shape in enumerate(self.warm_up or ())},
        }
        for field, (value, smallest) in numbers.items():
            if not smallest <= value < 2**31:
                raise ConfigError(f"{field} of the Triton repository is {value}: give {smallest} or more")

    def largest_batch(self, bundle: Bundle, artefact: Artefact) -> int:
        """Return ``max_batch_size``; ``ConfigError`` if the file does not take it, or the bundle no single photo."""
        low, high = bundle.shapes.batch
        if low > 1:
            raise ConfigError(
                f"the bundle takes batches of {low} or more, but Triton sends single photos: export it again"
            )
        if artefact.format == "engine":
            high = _batch_of_engine(artefact)
        if self.max_batch is not None and self.max_batch > high:
            raise ConfigError(f"max_batch {self.max_batch} is more than the {high} of {artefact.file}: lower it")
        if self.max_batch is None:
            alone = self.kind == "cpu" and artefact.format == "onnx" and self.preferred is None
            return 1 if alone else high
        return self.max_batch

    def preferred_batches(self, bundle: Bundle, artefact: Artefact) -> tuple[int, ...]:
        """Return the preferred batches, ascending; ``ConfigError`` if one is larger than the largest."""
        largest = self.largest_batch(bundle, artefact)
        if self.preferred is None:
            top = min(largest, _MAX_PREFERRED)
            return tuple(sorted({max(1, top // 2), top}))
        if self.preferred and max(self.preferred) > largest:
            raise ConfigError(f"a preferred batch of {max(self.preferred)} is more than the largest batch, {largest}")
        return tuple(sorted(set(self.preferred)))

    def warm_up_shapes(self, bundle: Bundle) -> tuple[tuple[int, int], ...]:
        """Return heights and widths for a bundle; ``ConfigError`` if one is outside its range."""
        (low_h, high_h), (low_w, high_w) = bundle.shapes.height, bundle.shapes.width
        if self.warm_up is None:
            landscape = (max(low_h, min(high_h, high_w * 3 // 4)), high_w)
            portrait = (high_h, max(low_w, min(high_w, high_h * 3 // 4)))
            return tuple(dict.fromkeys((landscape, portrait)))
        for height, width in self.warm_up:
            bundle.shapes.check((1, height, width, 3))
        return tuple(dict.fromkeys(self.warm_up))


def write_model_repository(bundle: Bundle, folder: Path, config: TritonConfig | None = None) -> list[Path]:
    """Write a model of each ONNX file for ONNX Runtime and each TensorRT engine of a bundle.

    The folder may exist and hold other models. Models are made beside it and renamed into it: there is never half a
    model, and after an error none of them is left.

    Args:
        bundle: opened, with its files.
        folder: the repository.
        config: how Triton runs the models.

    Returns:
        The models' folders.

    Raises:
        MissingExtraError: tritonclient is not installed.
        BundleError: there is nothing that Triton runs, or a model of a name is there already.
        BackendError: an engine has no valid key.
        ConfigError: the configuration does not fit the bundle.
        StorageError: the folder cannot be written.
    """
    config = config or TritonConfig()
    models = {name: (artefact, model_config(bundle, artefact, config)) for name, artefact in _models(bundle, config)}
    for name in models:
        if (folder / name).exists():
            raise BundleError(f"{folder / name} exists: choose another --triton folder, or remove it first")
    placed: list[Path] = []
    with working_folder(folder) as staging:
        for name, (artefact, text) in models.items():
            _write_model(bundle.path / artefact.file, _backend(artefact)[1], text, staging / name)
        make_folder(folder)
        try:
            for name in models:
                move(staging / name, folder / name)
                placed.append(folder / name)
        except StorageError:
            for path in placed:
                remove_folder(path)
            raise
    return placed


def model_config(bundle: Bundle, artefact: Artefact, config: TritonConfig) -> str:
    """Return the text of an artefact's ``config.pbtxt``, which Triton's schema has read back to the same message."""
    schema = require("tritonclient.grpc.model_config_pb2", "triton")
    text_format = require("google.protobuf.text_format", "triton")
    backend, _ = _backend(artefact)
    kind = "gpu" if artefact.format == "engine" else config.kind
    message = schema.ModelConfig(
        name=_name(bundle, artefact, config),
        backend=backend,
        platform={ONNXRUNTIME: "onnxruntime_onnx", TENSORRT: "tensorrt_plan"}[backend],
        max_batch_size=config.largest_batch(bundle, artefact),
        input=[schema.ModelInput(name=INPUT_NAME, data_type=schema.TYPE_UINT8, dims=[-1, -1, 3])],
        output=_outputs(schema, bundle),
        instance_group=[schema.ModelInstanceGroup(kind=KINDS[kind], count=config.instances)],
        model_warmup=_warm_ups(schema, bundle, artefact, config),
    )
    if message.max_batch_size > 1:
        message.dynamic_batching.preferred_batch_size.extend(config.preferred_batches(bundle, artefact))
        message.dynamic_batching.max_queue_delay_microseconds = config.queue_delay
    if artefact.format == "engine":
        message.instance_group[0].profile.append("0")
    for key, value in _parameters(bundle, artefact, config).items():
        message.parameters[key].string_value = value
    text: str = text_format.MessageToString(message, as_utf8=True)
    if text_format.Parse(text, schema.ModelConfig()) != message:
        raise BundleError(f"the Triton configuration of {artefact.file} is not read back as it was written")
    return text


def _models(bundle: Bundle, config: TritonConfig) -> list[tuple[str, Artefact]]:
    """Return names and artefacts, each file once."""
    served = [a for a in bundle.artefacts if (a.format, a.target) in _BACKENDS]
    if not served:
        found = ", ".join(f"{a.target}/{a.precision}" for a in bundle.artefacts)
        raise BundleError(
            f"{bundle.path} has nothing that Triton runs, only {found}: export with  --target onnxruntime  or  tensorrt"
        )
    models = {_name(bundle, artefact, config): artefact for artefact in reversed(served)}
    if len(models) < len({a.file for a in served}):
        raise BundleError(f"{bundle.path} has several engines of one precision: keep the one for the server's GPU")
    return list(reversed(models.items()))


def _name(bundle: Bundle, artefact: Artefact, config: TritonConfig) -> str:
    stem = config.name or _clean(bundle.path.resolve().name.removesuffix(".ctxbundle")) or "network"
    return f"{stem}-{artefact.precision}-{'tensorrt' if artefact.format == 'engine' else 'onnx'}"


def _clean(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip(".-")


def _batch_of_engine(artefact: Artefact) -> int:
    """Return the largest batch that an engine was built for: Triton does not load it with more."""
    key = EngineKey.parse(artefact.details.get("key", {}))
    try:
        return int(key.options["shapes"]["high"][0])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise BundleError(f"engine {artefact.file} has no shapes in its key: build it again") from error


def _backend(artefact: Artefact) -> tuple[str, str]:
    return _BACKENDS[artefact.format, artefact.target]


def _outputs(schema: Any, bundle: Bundle) -> list[Any]:
    return [
        schema.ModelOutput(name=name, data_type=schema.TYPE_FP32, dims=shape)
        for name, shape in output_shapes(bundle.extraction).items()
    ]


def _warm_ups(schema: Any, bundle: Bundle, artefact: Artefact, config: TritonConfig) -> list[Any]:
    """Return a request of one photo and one of the largest preferred batch for each shape."""
    batches: Sequence[int] = sorted({1, max(config.preferred_batches(bundle, artefact), default=1)})
    warm_ups = []
    for height, width in config.warm_up_shapes(bundle):
        for batch in batches:
            image = schema.ModelWarmup.Input(data_type=schema.TYPE_UINT8, dims=[height, width, 3], random_data=True)
            name = f"{batch} of {height}x{width}"
            warm_ups.append(schema.ModelWarmup(name=name, batch_size=batch, inputs={INPUT_NAME: image}))
    return warm_ups


def _parameters(bundle: Bundle, artefact: Artefact, config: TritonConfig) -> dict[str, str]:
    parameters = {
        "ctxdeploy_version": importlib.metadata.version("ctxdeploy"),
        "model_id": bundle.model_id,
        "precision": artefact.precision,
        "preprocessing_hash": bundle.preprocessing.hash,
        "preprocessing": json.dumps(bundle.preprocessing.metadata(), sort_keys=True),
        "artefact_sha256": artefact.sha256,
    }
    if artefact.format == "onnx" and config.kind == "cpu":
        # As in ctxdeploy.runtime: memory patterns are kept for every input shape, and photos have many.
        parameters |= {"inter_op_thread_count": "1", "enable_mem_pattern": "0"}
        if config.threads is not None:
            parameters["intra_op_thread_count"] = str(config.threads)
    return parameters


def _write_model(source: Path, file: str, text: str, folder: Path) -> None:
    """Write one model: its configuration, and its file as a hard link or, on another file system, as a copy."""
    version = folder / "1"
    version.mkdir(parents=True)
    real = source.resolve()
    try:
        os.link(real, version / file)
    except OSError:
        shutil.copyfile(real, version / file)
    (folder / CONFIG).write_text(text, encoding="utf-8")
