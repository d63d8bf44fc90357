"""Engines into a bundle, which is whole at any time: the file first, then the manifest, then away with the old file."""

import hashlib
from dataclasses import replace
from pathlib import Path

import ctxdeploy.core.bundle
from ctxdeploy.core.bundle import Artefact, Bundle
from ctxdeploy.core.errors import BackendError, BundleError, StorageError
from ctxdeploy.core.extras import require
from ctxdeploy.core.files import file_sha256, write_file
from ctxdeploy.core.progress import Display
from ctxdeploy.core.targets import TARGETS, choose, label_of
from ctxdeploy.core.types import Precision
from ctxdeploy.export.tensorrt.build import Plan, build_plan
from ctxdeploy.export.tensorrt.config import EngineConfig
from ctxdeploy.export.tensorrt.limits import graph_problems


def build_engine(
    bundle: Bundle,
    config: EngineConfig,
    *,
    target: str,
    precision: Precision,
    display: Display | None = None,
) -> Bundle:
    """Build an engine from a bundle's ONNX graph and put it into the bundle, in place of one of its kind.

    Returns:
        The bundle with the engine, whose parity is not measured.

    Raises:
        ConfigError: the target lacks the precision, or what ``config`` asks for.
        MissingExtraError: TensorRT or onnx is not installed.
        BundleError: there is no ONNX graph of the precision.
        BackendError: TensorRT cannot take the graph, or not on this machine.
        StorageError: the bundle cannot be written.
    """
    config.check(target)
    choose(target, precision.label, flag="--target")
    graph = graph_of(bundle, target, precision)
    onnx = require("onnx", TARGETS[target].extra)
    proto = onnx.load(str(bundle.file(graph)))
    found = graph_problems(proto, target)
    if found:
        raise BackendError("; ".join(found))
    profiles = config.profiles(bundle.shapes, bundle.preprocessing.image_size)
    plan = build_plan(proto, profiles, config, target=target, precision=precision, display=display)
    return add_engine(bundle.path, plan, graph, precision=precision)


def graph_of(bundle: Bundle, target: str, precision: Precision) -> Artefact:
    """Return the ONNX graph that an engine of this precision is built from.

    Raises:
        BundleError: there is none; the message says how to export it.
    """
    # OpenVINO computes in bf16 from the fp32 graph: its artefact of that precision is not the graph of it.
    others = {other.file for other in Precision if other is not precision}
    for artefact in bundle.artefacts:
        if (artefact.format, artefact.precision) == ("onnx", precision.label) and artefact.file not in others:
            return artefact
    there = ", ".join(p.label for p in Precision if any(a.file == p.file for a in bundle.artefacts))
    raise BundleError(
        f"{bundle.path} has no {precision.label} graph to build {label_of(target)} from, only {there or 'none'}: "
        f"run  ctxdeploy export CHECKPOINT --precision {precision.label}"
    )


def add_engine(path: Path, plan: Plan, graph: Artefact, *, precision: Precision) -> Bundle:
    """Put an engine into the bundle at ``path``, as it is now, and remove the one that it replaces.

    Args:
        path: the bundle.
        plan: the engine.
        graph: artefact that it was built from.
        precision: of both.
    """
    target = plan.key.target
    try:
        file = _write_plan(path, plan, precision)
        bundle = ctxdeploy.core.bundle.open(path, check_hashes=False)
        old = [a for a in bundle.artefacts if (a.format, a.target, a.precision) == ("engine", target, precision.label)]
        artefact = Artefact(
            file=file,
            sha256=hashlib.sha256(plan.data).hexdigest(),
            bytes=len(plan.data),
            format="engine",
            precision=precision.label,
            target=target,
            details={**plan.details(), "graph": {"file": graph.file, "sha256": graph.sha256}},
        )
        bundle = replace(bundle, artefacts=(*(a for a in bundle.artefacts if a not in old), artefact))
        bundle.write_manifest()
        used = {a.file for a in bundle.artefacts}
        for replaced in old:
            if replaced.file not in used:
                bundle.file(replaced).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error
    return bundle


def _write_plan(folder: Path, plan: Plan, precision: Precision) -> str:
    """Write a plan under a name that no other file has, and return the name."""
    digest = hashlib.sha256(plan.data).hexdigest()
    stem, suffix = f"engine-{precision.label}-{plan.key.short}", TARGETS[plan.key.target].suffix
    name = f"{stem}{suffix}"
    if (folder / name).exists() and file_sha256(folder / name) != digest:
        # Builds with one key differ in their bytes; the file that the manifest names must stay until it names another.
        name = f"{stem}-{digest[:12]}{suffix}"
    write_file(folder / name, [plan.data])
    return name
