"""What keeps a runtime from using a GPU."""

from ctxdeploy.core.bundle import Bundle
from ctxdeploy.core.device import Gpu
from ctxdeploy.core.engines import Machine, check_key, import_package
from ctxdeploy.core.errors import BundleError, ConfigError, CtxdeployError
from ctxdeploy.core.extras import require_onnxruntime_gpu
from ctxdeploy.core.targets import CUDA, TARGETS, artefact_of
from ctxdeploy.core.text import printable


def obstacle_of(bundle: Bundle, name: str, precision: str, gpu: Gpu) -> CtxdeployError | None:
    """Return why a runtime cannot run a bundle on a GPU, as far as can be said without loading it there."""
    target, path = TARGETS[name], printable(str(bundle.path))
    if precision not in target.precisions:
        return ConfigError(f"{target.label} has no {precision} ({target.lacks})")
    try:
        if name == CUDA:
            artefact_of(bundle, name, precision)
            require_onnxruntime_gpu()
            return None
        engines = [a for a in bundle.artefacts if (a.format, a.target, a.precision) == ("engine", name, precision)]
        if not engines:
            return BundleError(
                f"{path} has no {target.label} engine of {precision}: run  ctxdeploy build {path} --target {name} "
                f"--precision {precision}"
            )
        here = Machine(target=name, version=str(import_package(name).__version__), gpu=gpu)
        check_key(engines[0].details, here, precision=precision, bundle=path)
    except CtxdeployError as error:
        return error
    return None
