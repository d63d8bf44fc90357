"""The files of a bundle, made one after the other from the fp32 graph and measured as they are made."""

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ctxdeploy.bundle import Artefact, Bundle
from ctxdeploy.export.measuring import measure
from ctxdeploy.export.targets import Job
from ctxdeploy.export.trial import Trial
from ctxdeploy.hashing import file_sha256
from ctxdeploy.precision import Precision
from ctxdeploy.progress import Display

REJECTED = ".rejected"


@dataclass(kw_only=True)
class Workshop:
    """Makes artefacts in the folder of a bundle that is being written.

    Attributes:
        bundle: with the artefacts that passed so far.
        proto: the fp32 graph, an ``onnx.ModelProto``.
        trial: that everything is measured in.
        display: told of each step.
        rejected: the artefacts that did not pass.
    """

    bundle: Bundle
    proto: Any
    trial: Trial
    display: Display
    rejected: list[Artefact] = field(default_factory=list)
    _details: dict[Precision, dict[str, Any]] = field(default_factory=dict)

    def make(self, job: Job) -> None:
        """Make an artefact, measure it, and take it into the bundle or among the rejected."""
        details = self._graph(job.graph)
        path = self.bundle.path / job.graph.file
        artefact = Artefact(
            file=path.name,
            sha256=file_sha256(path),
            bytes=path.stat().st_size,
            format="onnx",
            precision=job.precision.label,
            target=job.target,
            details=details,
        )
        self.display.say(f"comparing {job.target} {job.precision.label}")
        artefact = replace(artefact, parity=measure(self.bundle, artefact, self.trial).metadata())
        if artefact.parity["verdict"] == "passed":
            self.bundle = replace(self.bundle, artefacts=(*self.bundle.artefacts, artefact))
        else:
            self.rejected.append(artefact)

    def keep_rejected(self) -> None:
        """Write the reports of rejected artefacts, and mark files that no artefact of the bundle uses."""
        used = {artefact.file for artefact in self.bundle.artefacts}
        for artefact in self.rejected:
            file = self.bundle.path / artefact.file
            marked = file.with_name(file.name + REJECTED)
            if artefact.file not in used and file.exists():
                file.rename(marked)
            text = json.dumps(asdict(artefact), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
            marked.with_name(f"{file.name}.{artefact.target}{REJECTED}.json").write_text(text, encoding="utf-8")

    def _graph(self, precision: Precision) -> dict[str, Any]:
        """Write the graph of a precision unless it is there, and return what is to be known about it."""
        from ctxdeploy.export.graph import save_graph

        if precision not in self._details:
            self.display.say(f"writing the {precision.label} graph")
            proto, self._details[precision] = self._converted(precision)
            save_graph(proto, self.bundle.path / precision.file)
        return self._details[precision]

    def _converted(self, precision: Precision) -> tuple[Any, dict[str, Any]]:
        if precision is Precision.FP32:
            return self.proto, {}
        from ctxdeploy.export.mixed import to_mixed

        return to_mixed(self.proto, precision), {}
