"""An ONNX graph into a network of TensorRT, with the parser's complaints as one line."""

from typing import TYPE_CHECKING, Any

from ctxdeploy.core.engines import PRODUCTS
from ctxdeploy.core.errors import BackendError

if TYPE_CHECKING:
    import tensorrt as trt

_MOST = 5  # complaints that the message holds


def parse_graph(trt: Any, network: "trt.INetworkDefinition", log: Any, proto: Any, target: str) -> "trt.OnnxParser":
    """Parse a model into an empty network.

    Returns:
        The parser, which must live until the build has ended.

    Raises:
        BackendError: it cannot take the model; the message names node, operator and function.
    """
    parser = trt.OnnxParser(network, log)
    if parser.parse(proto.SerializeToString()):
        return parser
    found = [_complaint(parser.get_error(i)) for i in range(parser.num_errors)]
    found = list(dict.fromkeys(found)) or ["no reason given"]
    more = f"; and {len(found) - _MOST} more" if len(found) > _MOST else ""
    raise BackendError(f"{PRODUCTS[target]} cannot take the graph: {'; '.join(found[:_MOST])}{more}")


def _complaint(error: "trt.ParserError") -> str:
    """Return one error as ``node_17 (Exp, in GaussianSmoothing): reason``."""
    # An entry of the stack is the calling node and, in brackets, its function.
    functions = [entry.rpartition("(")[2].rstrip(") ") for entry in error.local_function_stack()]
    where = f", in {' > '.join(functions)}" if functions else ""
    name = error.node_name() or f"node {error.node()}"
    # A build without a GPU adds a line about the driver to every reason.
    lines = [line.strip() for line in error.desc().splitlines() if line.strip() and "cudaError" not in line]
    reason = " ".join(lines)
    if reason in ("", "false"):  # what is left of the parser's own assertion that it has such an operator
        reason = "not supported"
    return f"{name} ({error.node_operator()}{where}): {reason[:300]}"
