"""The files of a bundle, made one after the other from the fp32 graph and measured as they are made."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ctxdeploy.core.bundle import Artefact, Bundle
from ctxdeploy.core.errors import BackendError, ConfigError, MissingExtraError, ParityError
from ctxdeploy.core.files import file_sha256, move, write_json
from ctxdeploy.core.progress import Display
from ctxdeploy.core.targets import ENGINE_TARGETS, OPENVINO, TARGETS
from ctxdeploy.core.types import Precision
from ctxdeploy.export.int8.calibration import Int8Config
from ctxdeploy.export.parity.parity import Image
from ctxdeploy.export.parity.parity_run import ParityRun
from ctxdeploy.export.parity.verify import measure
from ctxdeploy.export.preflight import Job

REJECTED = ".rejected"
# What is fitted to photos.
EIGHT_BITS = (Precision.INT8, Precision.FP8)


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantising:
    """How int8 and fp8 are made.

    Attributes:
        photos: that they are fitted to, H×W×3 uint8 by name.
        config: of ranges and of the search.
        targets: runtimes whose figures decide which convolutions stay fp32, those of them that have the precision: what
            the one file of it is for.
    """

    photos: Mapping[str, Image]
    config: Int8Config
    targets: tuple[str, ...]


@dataclass(kw_only=True)
class BundleBuilder:
    """Makes artefacts in the folder of a bundle that is being written.

    Attributes:
        bundle: with the artefacts that passed so far.
        proto: the fp32 graph, an ``onnx.ModelProto``.
        parity_run: what everything is measured against.
        quantising: how int8 and fp8 are made; None where neither is.
        display: told of each step.
        hinted: OpenVINO's bf16 is the fp32 file.
        rejected: the artefacts that did not pass.
    """

    bundle: Bundle
    proto: Any
    parity_run: ParityRun
    quantising: Quantising | None
    display: Display
    hinted: bool = False
    rejected: list[Artefact] = field(default_factory=list)
    # The same file in the same engine has the same figures, for whichever target it is.
    _parities: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)
    _graphs: dict[Precision, Any] = field(default_factory=dict)
    _details: dict[Precision, dict[str, Any]] = field(default_factory=dict)

    def make(self, job: Job) -> None:
        """Make an artefact, measure it, and take it into the bundle or among the rejected."""
        written = self._written(job)
        if written not in self._details:
            self.display.say(f"making the {written.label} graph")
            self._graphs[written], self._details[written] = self._converted(written)
        artefact = replace(self._artefact(job, self._graphs[written]), details=self._details[written])
        if artefact.parity["verdict"] == "passed":
            self.bundle = replace(self.bundle, artefacts=(*self.bundle.artefacts, artefact))
        else:
            self.rejected.append(artefact)

    def _written(self, job: Job) -> Precision:
        """Return the precision whose file an artefact has: OpenVINO may round the fp32 graph as it computes."""
        hinted = self.hinted and job.target == OPENVINO and job.precision is Precision.BF16
        return Precision.FP32 if hinted else job.precision

    def finish(self, jobs: Sequence[Job]) -> None:
        """Write the manifest, keep what was rejected, and build the engines that can be built on this machine."""
        self.keep_rejected()
        self.bundle.write_manifest()
        for job in jobs:
            made = any((a.target, a.precision) == (job.target, job.precision.label) for a in self.bundle.artefacts)
            if job.target in ENGINE_TARGETS and made:
                self._engine(job)

    def _engine(self, job: Job) -> None:
        from ctxdeploy.export.tensorrt.config import EngineConfig
        from ctxdeploy.export.tensorrt.publish import build_engine

        how = f"build it there with  ctxdeploy build BUNDLE --target {job.target} --precision {job.precision.label}"
        try:
            self.bundle = build_engine(
                self.bundle, EngineConfig(), target=job.target, precision=job.precision, display=self.display
            )
        except (BackendError, MissingExtraError) as error:
            self.display.say(f"no {job.target} {job.precision.label} engine here ({error}); {how}")
            return
        engine = self.bundle.artefacts[-1]
        try:
            parity = measure(self.bundle, engine, self.parity_run).metadata()
        except (BackendError, MissingExtraError) as error:
            self.display.say(f"the {job.target} {job.precision.label} engine is not measured: {error}")
            return
        others = self.bundle.artefacts[:-1]
        if parity["verdict"] == "passed":
            self.bundle = replace(self.bundle, artefacts=(*others, replace(engine, parity=parity)))
        else:
            self.bundle = replace(self.bundle, artefacts=others)
            self.rejected.append(replace(engine, parity=parity))
            self.keep_rejected()
        self.bundle.write_manifest()

    def keep_rejected(self) -> None:
        """Write the reports of rejected artefacts, and mark files that no artefact of the bundle uses."""
        used = {artefact.file for artefact in self.bundle.artefacts}
        for artefact in self.rejected:
            file = self.bundle.path / artefact.file
            marked = file.with_name(file.name + REJECTED)
            if artefact.file not in used and file.exists():
                move(file, marked)
            write_json(marked.with_name(f"{file.name}.{artefact.target}{REJECTED}.json"), asdict(artefact))

    def _artefact(self, job: Job, proto: Any) -> Artefact:
        """Write a graph under the name of its precision, and measure it."""
        from ctxdeploy.export.graph.graph import save_graph

        path = self.bundle.path / self._written(job).file
        save_graph(proto, path)
        artefact = Artefact(
            file=path.name,
            sha256=file_sha256(path),
            bytes=path.stat().st_size,
            format="onnx",
            precision=job.precision.label,
            target=job.target,
        )
        # A graph for TensorRT and one for TensorRT-RTX are measured in the same engine.
        kind = "engine" if artefact.target in ENGINE_TARGETS else artefact.target
        key = (artefact.sha256, artefact.precision, kind)
        if key not in self._parities:
            self.display.say(f"comparing {job.target} {job.precision.label}")
            parity = measure(self.bundle, artefact, self.parity_run)
            self._parities[key] = parity.metadata()
        return replace(artefact, parity=self._parities[key])

    def _converted(self, precision: Precision) -> tuple[Any, dict[str, Any]]:
        if precision is Precision.FP32:
            return self.proto, {}
        if precision in EIGHT_BITS:
            return self._quantised(precision)
        from ctxdeploy.export.graph.mixed import to_mixed

        return to_mixed(self.proto, precision), {}

    def _quantised(self, precision: Precision) -> tuple[Any, dict[str, Any]]:
        """Return the graph of eight bits that keeps its tolerance; if none does, the last one, to be rejected."""
        from ctxdeploy.export.int8.qdq import FP8, INT8
        from ctxdeploy.export.int8.search import search

        quantising = self.quantising
        if quantising is None:
            raise ConfigError(f"{precision.label} needs photos to calibrate with: give --calibrate DIR")
        targets = [target for target in quantising.targets if precision.label in TARGETS[target].precisions]
        last: list[Any] = []

        def check(proto: Any) -> str:
            last[:] = [proto]  # of a dozen attempts one is held
            for target in targets:
                artefact = self._artefact(Job(target=target, precision=precision), proto)
                if artefact.parity["verdict"] != "passed":
                    return f"{target}: {artefact.parity['verdict'].removeprefix('failed: ')}"
            return ""

        try:
            found: tuple[Any, dict[str, Any]] = search(
                self.proto,
                quantising.photos,
                check,
                quantising.config,
                kind=FP8 if precision is Precision.FP8 else INT8,
                report=self.display.say,
            )
        except ParityError as error:
            return last[0], {"search": str(error)}
        return found
