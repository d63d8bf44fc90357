"""The networks that are measured: untrained ones, whose speed is that of trained ones, fitted to the photos."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rows import LackingError, Rows

NAMES = ("how R18", "ctx both R18", "how R50-", "ctx both R50-")
# The graphs of a bundle. An engine of fp8 is made of the fp32 one.
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
# The engine that was opened last: opening one takes longer than measuring it.
_kept: dict[str, Any] = {}


def names(rows: Rows) -> tuple[str, ...]:
    """Return those of this run."""
    return NAMES[:1] if rows.rehearse else NAMES


def network_of(rows: Rows, name: str) -> Any:
    """Return a network in evaluation mode, in PyTorch on the CPU; tiny in a rehearsal."""
    from ctxdeploy.core.bundle import Extraction
    from ctxdeploy.export import untrained_network
    from ctxdeploy.export.networks import Architecture, NetworkConfig, Refinement, Smoothing

    photos = pixels(rows)
    parts: dict[str, Any] = {"smoothing": Smoothing(kind="gaussian"), "refinement": Refinement()}
    family = {"family": "ctx", **parts} if name.startswith("ctx") else {"family": "how"}
    if rows.rehearse:
        config = NetworkConfig(architecture=Architecture.RESNET18_HALF, skip_layer=1, dim=8, **family)
        return untrained_network(config, Extraction(scales=(1.0,), top_k=40, dim=8), photos)
    trunk = (Architecture.RESNET18, 0) if name.endswith("R18") else (Architecture.RESNET50, 1)
    config = NetworkConfig(architecture=trunk[0], skip_layer=trunk[1], **family)
    return untrained_network(config, Extraction(dim=config.descriptor_dim), photos)


def pixels(rows: Rows) -> list[Any]:
    """Return the photos that networks are fitted to and int8 is calibrated on."""
    from rows import photo_arrays

    return photo_arrays(rows, 2 if rows.rehearse else 6, width=shape(rows)[1] // 2, height=shape(rows)[0] // 2)


def shape(rows: Rows) -> tuple[int, int]:
    """Return rows and columns of the photos that are measured."""
    from rows import HEIGHT, WIDTH

    return (96, 128) if rows.rehearse else (HEIGHT, WIDTH)


def folder_of(rows: Rows, name: str) -> Path:
    """Return where a network's bundle lies."""
    return rows.work / "bundles" / name.replace(" ", "-")


def bundle_of(rows: Rows, name: str) -> Any:
    """Return the bundle that the step ``bundles`` made."""
    import ctxdeploy.core.bundle as bundles

    folder = folder_of(rows, name)
    if not (folder / "bundle.json").exists():
        raise LackingError(
            f"the step bundles has not made {folder.name} in {rows.work}: run it too, with  --only bundles,… --again"
        )
    return bundles.open(folder)


def backends(rows: Rows) -> Sequence[tuple[str, str]]:
    """Return what runs the networks on a GPU, by runtime and precision; in a rehearsal ONNX Runtime on the CPU."""
    if rows.rehearse:
        return (("onnxruntime", "fp32"), ("onnxruntime", "int8"))
    tensorrt = [("tensorrt", precision) for precision in ("fp16", "fp32", "bf16", "int8", "fp8")]
    return (("cuda", "fp16"), ("cuda", "fp32"), *tensorrt)


def forget() -> None:
    """Let go of the engine that was opened last."""
    _kept.clear()


def opened(rows: Rows, name: str, backend: str, precision: str) -> Any:
    """Return the backend of a network, its engine built if it has one and it is not there yet; and the bundle."""
    from ctxdeploy.core.errors import CtxdeployError, MissingExtraError
    from ctxdeploy.core.types import Precision
    from ctxdeploy.runtime import BackendConfig
    from ctxdeploy.runtime.backends import open_backend

    bundle = bundle_of(rows, name)
    known = [kind.label for kind in Precision]
    if precision not in known:
        raise LackingError(f"there is no precision {precision}")
    device = "cpu" if rows.rehearse else "cuda"
    if _kept.get("key") == (name, backend, precision):
        return _kept["engine"], bundle
    forget()  # of two engines, the memory of one is given back first
    try:
        if backend == "tensorrt" and not any(
            a.target == backend and a.precision == precision for a in bundle.artefacts
        ):
            from ctxdeploy.export.tensorrt import EngineConfig, build_engine

            # Each aspect is a profile that is searched anew: the photos that are measured have this one.
            config = EngineConfig(max_batch=32, aspects=((4, 3),))
            bundle = build_engine(bundle, config, target=backend, precision=Precision.parse(precision))
        engine = open_backend(bundle, BackendConfig(name=backend, precision=precision, device=device))
    except MissingExtraError as error:
        raise LackingError(str(error)) from error
    except CtxdeployError as error:
        raise RuntimeError(f"{backend} {precision}: {error}") from error
    _kept.update(key=(name, backend, precision), engine=engine)
    return engine, bundle
