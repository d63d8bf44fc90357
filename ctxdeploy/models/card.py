"""The card of a model: what its maker says, and the facts that the release measured."""

import importlib.metadata
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ctxdeploy.core.files import write_text
from ctxdeploy.indexing.codebook import codebook_of

if TYPE_CHECKING:
    from ctxdeploy.models.release import ReleaseConfig, Released

CARD = "card.md"
# What is below it is written anew by each release.
FACTS = "## Facts"


def card_text(path: Path) -> str:
    """Return the part of a card that people write: all above its facts."""
    return path.read_text(encoding="utf-8").partition(f"\n{FACTS}\n")[0].strip()


def write_card(path: Path, name: str, text: str, released: "Released", config: "ReleaseConfig") -> None:
    """Write a card; no path and no name of a machine gets into it."""
    bundle = released.bundle
    network = bundle.network
    lines = [text or f"# {name}", "", FACTS, "", "Written by `ctxdeploy models release`.", ""]
    lines += [f"- {label}: {value}" for label, value in _facts(released, config).items()]
    lines += ["", "| artefact | MB | against PyTorch fp32 |", "|---|---|---|"]
    for artefact in bundle.artefacts:
        parity = artefact.parity
        figures = f"cosine ≥ {parity['cosine_min']:.5f}, mean {parity['cosine_mean']:.5f}"
        lines.append(f"| {artefact.target} {artefact.precision} | {artefact.bytes / 1e6:.2f} | {figures} |")
    lines += [f"\nLeft out: {reason}" for reason in released.left_out]
    lines += ["", f"Network: `{json.dumps(dict(network))}`"]
    write_text(path, "\n".join(lines) + "\n")


def _facts(released: "Released", config: "ReleaseConfig") -> dict[str, str]:
    bundle, rounding = released.bundle, released.rounding
    extraction = bundle.extraction
    codebook = codebook_of(bundle)
    training = {} if codebook is None else codebook.training
    scales = ", ".join(f"{scale:g}" for scale in extraction.scales)
    return {
        "weights": f"sha256 {bundle.source['weights_sha256']}; matrices float16",
        "float16 against the checkpoint": f"cosine ≥ {rounding['cosine_min']:.5f}, mean {rounding['cosine_mean']:.5f}",
        "extraction": f"scales {scales}; {extraction.top_k} descriptors of {extraction.dim} dimensions; "
        f"longest side {bundle.preprocessing.image_size} pixels",
        "codebook": f"{training.get('words'):,} words from {training.get('descriptors'):,} descriptors of "
        f"{min(released.photos, config.training_photos):,} photos, {training.get('iterations')} iterations, "
        f"seed {config.seed}, centroids float16",
        "assignment": f"{training.get('assignment')}, recall {training.get('recall_at_1'):.4f} of the nearest word, "
        f"{training.get('recall_at_5'):.4f} of the nearest five",
        "numpy": importlib.metadata.version("numpy"),
        **dict(bundle.tools),
    }
