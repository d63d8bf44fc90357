"""How much less does a CPU compute since the graphs of HOW and ctx were rewritten?

    python benchmarks/graph_forms.py                                   # two minutes on two cores
    python benchmarks/graph_forms.py --networks "ctx both R50-" --rounds 5

`former` is the graph as it was before commit f3e19a6 (30 November 2026): smoothing before the whitening, and 32 blocks
of rows at every scale. It is built here from the same weights, without that commit. Both run one photo of 768×1024 at
seven scales in ONNX Runtime, fp32, in turns; the first round does not count. What is compared is the time of the
processors, which other work on the machine lengthens less than that of the clock. Networks are untrained: their speed
is that of trained ones. Attention of both has to be the same.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
from networks import NETWORKS, SAMPLES, SHAPE, TRUNKS
from PIL import Image as Pillow

from ctxdeploy.bench import publish
from ctxdeploy.core.bundle import INPUT_NAME, OUTPUT_NAMES, Extraction
from ctxdeploy.core.cpu import available_processors
from ctxdeploy.core.samples import sample_photo
from ctxdeploy.export import untrained_network
from ctxdeploy.export.graph import build_graph
from ctxdeploy.export.graph import graph as graph_module
from ctxdeploy.export.networks import NetworkConfig
from ctxdeploy.export.networks.dense import DenseNetwork
from ctxdeploy.export.networks.network import RetrievalNetwork
from ctxdeploy.export.networks.refinement import ROW_BLOCKS

DEFAULT = ("how R18", "ctx smoothing R18", "ctx graph R18", "ctx smoothing R50-")
FORMS = ("former", "now")
# Of attention: the same operators in another order of sums.
_TOLERANCE = 1e-4


class FormerNetwork(DenseNetwork):
    """HOW and ctx as they were folded before: the whitening comes last."""

    def fold(self) -> None:
        """Fold what follows one another, and leave the order."""
        RetrievalNetwork.fold(self)


@contextmanager
def operators_of(form: str) -> Iterator[None]:
    """Let graphs have the operators of a form while the block runs: all channels smoothed, in 32 blocks of rows."""
    if form == "now":
        yield
        return
    functions = graph_module.functions_of
    with (
        patch.object(graph_module, "row_blocks", lambda stride, scale: ROW_BLOCKS),
        patch.object(graph_module, "functions_of", lambda config, blocks: functions(replace(config, dim=None), blocks)),
    ):
        yield


def graphs(name: str) -> dict[str, bytes]:
    """Return the graph of a network in both forms, with the same weights."""
    family, _, trunk = name.rpartition(" ")
    architecture, skip_layer = TRUNKS[trunk]
    config = NetworkConfig(architecture=architecture, skip_layer=skip_layer, **NETWORKS[family])
    network = untrained_network(config, Extraction(dim=config.descriptor_dim), [sample_photo(of) for of in SAMPLES[:2]])
    former = FormerNetwork(network.config, network.extraction).eval()
    former.load_state_dict(network.state_dict())
    made = {}
    for form, of in (("former", former), ("now", network)):
        with operators_of(form):
            made[form] = build_graph(of).SerializeToString()
    return made


def measured(name: str, rounds: int) -> dict[str, Any]:
    """Return seconds and processor seconds of both forms, medians over the rounds, and their ratio in each."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = available_processors()
    # Threads of one session that wait for work would take the processors from the other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    sessions = {
        form: ort.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
        for form, proto in graphs(name).items()
    }
    photo = np.asarray(Pillow.fromarray(sample_photo(SAMPLES[0])).resize(SHAPE[::-1]))[None]
    times: dict[str, list[tuple[float, float]]] = {form: [] for form in FORMS}
    found: dict[str, Any] = {}
    for turn in range(rounds + 1):
        for form in FORMS[:: 1 if turn % 2 else -1]:
            begin = time.perf_counter(), os.times()
            found[form] = sessions[form].run([OUTPUT_NAMES[1]], {INPUT_NAME: photo})[0]
            spent = os.times()
            processors = spent.user + spent.system - begin[1].user - begin[1].system
            if turn:
                times[form].append((time.perf_counter() - begin[0], processors))
    np.testing.assert_allclose(found["former"], found["now"], rtol=_TOLERANCE, atol=_TOLERANCE)
    ratios = [now[1] / former[1] for former, now in zip(times["former"], times["now"], strict=True)]
    return {
        **{
            form: {"seconds": median(clock for clock, _ in of), "processor_seconds": median(busy for _, busy in of)}
            for form, of in times.items()
        },
        "ratio": median(ratios),
        "ratios": ratios,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [f"{network} {trunk}" for trunk in TRUNKS for network in NETWORKS if network != "fire"]
    parser.add_argument("--networks", nargs="+", default=list(DEFAULT), choices=known, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3)
    default = Path(__file__).parent / "results" / "graph_forms.json"
    parser.add_argument("-o", "--output", type=Path, default=default)
    options = parser.parse_args()
    # Those of an earlier run stay.
    rows: dict[str, Any] = json.loads(options.output.read_text())["networks"] if options.output.exists() else {}
    for name in options.networks:
        rows[name] = measured(name, options.rounds)
        sys.stderr.write(f"{name}: {rows[name]}\n")
    lines = [
        f"{name}: {row['former']['processor_seconds']:.2f} s of processors a photo before, "
        f"{row['now']['processor_seconds']:.2f} s now, {row['ratio']:.2f} of it"
        for name, row in rows.items()
    ]
    publish({"shape": SHAPE, "rounds": options.rounds, "networks": rows}, options.output, lines)


if __name__ == "__main__":
    main()
