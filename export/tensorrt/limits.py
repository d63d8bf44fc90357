"""What TensorRT cannot take, all of it at once and with what solves it, before anything expensive is begun."""

from typing import TYPE_CHECKING, Any

from ctxdeploy.core.bundle import Extraction, ShapeRange
from ctxdeploy.core.engines import PRODUCTS, TENSORRT
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.export.tensorrt.config import EngineConfig
from ctxdeploy.export.tensorrt.operators import LARGEST_K, LARGEST_TOPK_ELEMENTS

if TYPE_CHECKING:
    from ctxdeploy.export.networks.config import NetworkConfig


def problems(
    extraction: Extraction,
    network: "NetworkConfig",
    *,
    target: str = TENSORRT,
    shapes: ShapeRange | None = None,
    config: EngineConfig | None = None,
) -> list[str]:
    """Return what stands in the way before there is a graph, one line each; nothing of TensorRT is imported.

    Args:
        extraction: scales and K.
        network: the network.
        target: ``tensorrt`` or ``tensorrt-rtx``.
        shapes: of the bundle; not looked at if None.
        config: settings of the build.
    """
    config = config or EngineConfig()
    product = PRODUCTS.get(target, target)
    found = []
    try:
        config.check(target)
    except ConfigError as error:
        found.append(str(error))
    if extraction.top_k > LARGEST_K:
        found.append(
            f"{product} selects at most {LARGEST_K} of many, and K is {extraction.top_k}: give --top-k {LARGEST_K} "
            "or less"
        )
    if shapes is not None:
        found += _too_large(extraction, network, product, shapes, config)
    return found


def _too_large(
    extraction: Extraction, network: "NetworkConfig", product: str, shapes: ShapeRange, config: EngineConfig
) -> list[str]:
    """Return a line if the values that are selected from are too many at the largest shape."""
    from ctxdeploy.export.networks.config import Edges

    batch = max(shapes.batch[0], min(shapes.batch[1], config.max_batch))
    cells = [
        -(-int(shapes.height[1] * scale) // network.stride) * -(-int(shapes.width[1] * scale) // network.stride)
        for scale in extraction.scales
    ]
    values = {"positions": batch * (sum(cells) + extraction.top_k)}
    refinement = network.refinement
    if refinement is not None and refinement.edges is Edges.TOPK:
        from ctxdeploy.export.networks.refinement import ROW_BLOCKS

        values["similarities"] = batch * -(-max(cells) // ROW_BLOCKS) * (max(cells) + refinement.neighbours)
    return [
        f"{product} selects from less than 2^31 values, and the {what} of {batch} photos of {shapes.width[1]}×"
        f"{shapes.height[1]} are {count}: give a smaller --max-batch, --image-size or fewer --scales"
        for what, count in values.items()
        if count >= LARGEST_TOPK_ELEMENTS
    ]


def graph_problems(proto: Any, target: str = TENSORRT) -> list[str]:
    """Return what the parser of a target cannot take in an ``onnx.ModelProto``, one line each.

    The parser says so too, but late, one at a time, or (names and opsets of functions) never: it computes something
    else.
    """
    from ctxdeploy.export.tensorrt.functions import function_problems, model_problems
    from ctxdeploy.export.tensorrt.nodes import node_problems

    lines = [*model_problems(proto), *function_problems(proto), *node_problems(proto, target)]
    return [f"{PRODUCTS.get(target, target)}: {line}" for line in dict.fromkeys(lines)]
