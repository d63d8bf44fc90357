"""The plan: all figures of an archive that is not there yet, and what of it does not fit."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from ctxdeploy.capacity.config import PlanConfig
from ctxdeploy.capacity.costs import Costs
from ctxdeploy.capacity.extraction import ExtractionTimes, extraction_times
from ctxdeploy.capacity.figures import amount, duration, figures_of, rounded
from ctxdeploy.capacity.queries import LoadTimes, QueryTimes, load_times, query_times
from ctxdeploy.capacity.storage import Holdings, Machines, holdings, machines_for
from ctxdeploy.capacity.subject import Subject, described
from ctxdeploy.capacity.upkeep import Upkeep, upkeep
from ctxdeploy.core.errors import ConfigError
from ctxdeploy.core.text import counted

FORMAT, FORMAT_VERSION = "ctxdeploy-plan", 1
# Files that one process may map (Linux: vm.max_map_count), and maps of a process without an archive.
_MAPS, _OTHER_MAPS = 65_530, 2_000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an archive will take.

    Attributes:
        subject: what is planned for.
        costs: the assumptions.
        processors, memory: of a machine.
        archive: its bytes.
        machines: how it lies on them.
        extraction: of all photos.
        queries: one at a time.
        load: of queries that come by chance; None where no rate is given.
        upkeep: commits, compaction, losses.
        problems: what does not fit, and what to do.
        remarks: what else to know.
    """

    subject: Subject
    costs: Costs
    processors: int
    memory: float
    archive: Holdings
    machines: Machines
    extraction: ExtractionTimes
    queries: QueryTimes
    load: LoadTimes | None
    upkeep: Upkeep
    problems: tuple[str, ...]
    remarks: tuple[str, ...]

    def sections(self) -> list[tuple[str, Any]]:
        """Return the parts that hold figures, by name."""
        names = ("archive", "machines", "extraction", "queries", "load", "upkeep")
        return [(name, getattr(self, name)) for name in names if getattr(self, name) is not None]

    def metadata(self) -> dict[str, Any]:
        """Return the plan as JSON prints it: seconds, bytes and counts, to two digits as people see them."""
        config, held = self.subject.config, self.subject.held
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "subject": {
                "name": self.subject.name,
                "photos": self.subject.photos,
                "words": self.subject.words,
                "dim": self.subject.dim,
                "config": config.metadata(),
                "cells": self.subject.cells,
                "held": dict(held),
            },
            "machine": {"processors": self.processors, "memory": self.memory},
            **{name: _figures(part) for name, part in self.sections()},
            "limit": self.extraction.limit,
            "assumptions": [
                {"name": entry.name, "option": entry.setting.flag, "value": value, "source": source}
                for entry, value, source in self.costs.listed()
            ],
            "problems": list(self.problems),
            "remarks": list(self.remarks),
        }


def _figures(part: Any) -> dict[str, float | None]:
    """Return figures to two digits, counts whole; None for what is not there and for what never ends."""
    found: dict[str, float | None] = {}
    for name, _, value, _ in figures_of(part):
        if value is None or math.isinf(value):
            found[name] = None
        else:
            found[name] = value if isinstance(value, int) else rounded(value)
    return found


def make_plan(subject: Subject, costs: Costs, config: PlanConfig, *, processors: int, memory: int | None) -> Plan:
    """Compute a plan.

    Args:
        subject: with the options of ``config`` taken over; see ``chosen``.
        costs: the assumptions.
        config: machines, queries, lists.
        processors, memory: of this machine, where ``config`` does not say those of a machine; None: not known.

    Raises:
        ConfigError: how much memory a machine has is neither known nor given.
    """
    size = config.memory or memory
    if size is None:
        raise ConfigError("this system does not say how much memory it has: give --memory")
    threads = config.processors or processors
    held = holdings(subject, costs, config.list_size)
    on = machines_for(
        subject,
        costs,
        held,
        machines=config.machines,
        replicas=config.replicas,
        memory=size,
        share=config.memory_share,
    )
    extraction = extraction_times(subject, costs, held, machines=on.machines, list_size=config.list_size)
    queries = query_times(
        subject, costs, held, on, threads=threads, replicas=config.replicas, batch=config.batch, top=config.top
    )
    parts = max(round(on.machines / config.replicas), 1)
    load = None
    if config.rate:
        load = load_times(costs, queries, rate=config.rate, replicas=config.replicas, parts=parts)
    kept = upkeep(subject, costs, held, on)
    plan = Plan(
        subject=subject,
        costs=costs,
        processors=threads,
        memory=float(size),
        archive=held,
        machines=on,
        extraction=extraction,
        queries=queries,
        load=load,
        upkeep=kept,
        problems=(),
        remarks=subject.remarks,
    )
    values = {entry.name: getattr(plan, entry.name) for entry in fields(plan)}
    problems, remarks = tuple(_problems(plan, config)), (*subject.remarks, *_remarks(plan, config, processors))
    return Plan(**{**values, "problems": problems, "remarks": remarks})


def _problems(plan: Plan, config: PlanConfig) -> Iterator[str]:
    """Yield what does not fit, with what to do."""
    on, held = plan.machines, plan.archive
    if not on.needed:
        yield (
            f"{amount(on.allowed)} of memory hold not even a process with its codebook: give machines with more memory "
            "(--memory), or a smaller --process-memory if yours is"
        )
    elif on.memory > on.allowed:
        yield (
            f"{amount(on.memory)} must lie in the memory of each machine, which has {amount(on.allowed)} for it: take "
            f"{counted(on.needed, 'machine')}{_smaller(plan)}; with less, queries wait for the disk"
        )
    if config.disk is not None and on.disk > config.disk:
        fitting = -(-round(held.on_disk * config.replicas) // config.disk)
        yield (
            f"{amount(on.disk)} must lie on the disk of each machine, which has {amount(config.disk)}: take "
            f"{counted(fitting, 'machine')}{_less_geometry(plan)}"
        )
    if plan.load is not None and plan.load.load >= 1:
        yield (
            f"{plan.load.rate:g} queries a second are more than the {plan.queries.most:.2g} that the machines search: "
            "take more --machines, --replicas, or a --batch of 16 or more"
        )


def _smaller(plan: Plan) -> str:
    config, sizes = plan.subject.config, plan.archive.sizes
    ways = []
    if config.keeps_global and config.global_vectors != "pq" and sizes.vectors * 4 > sizes.postings:
        ways.append("--global pq, whose vectors take a fraction")
    if sizes.postings:
        ways.append("a model with fewer descriptors, hence words, a photo (export --top-k)")
    return f", or {', or '.join(ways)}" if ways else ""


def _less_geometry(plan: Plan) -> str:
    return ", or keep less geometry (--geometry positions or none)" if plan.archive.sizes.geometry else ""


def _remarks(plan: Plan, config: PlanConfig, measured: int) -> Iterator[str]:
    """Yield what else to know; ``measured`` are the processors of the machine whose costs these are."""
    on, held, subject = plan.machines, plan.archive, plan.subject
    files = 2 if subject.config.keeps_global else 1
    if (held.segments * files) / on.machines * config.replicas > _MAPS - _OTHER_MAPS:
        yield (
            f"{held.segments:,} segments are more files than one process may map ({_MAPS:,}, vm.max_map_count): "
            "publish them in portions with  compact  between, or give a larger --list-size"
        )
    if held.segments > held.shards and plan.queries.uncompacted > 1.5 * plan.queries.search:
        yield (
            f"compact after publishing: a search takes {duration(plan.queries.uncompacted)} over "
            f"{held.segments:,} segments, and {duration(plan.queries.search)} over {held.shards:,} full shards"
        )
    if plan.extraction.limit == "network":
        yield "the network brings photos more slowly than a machine extracts them: keep parts of them on each machine"
    if subject.config.idf:
        yield f"idf counts all postings in each commit, {duration(held.postings / plan.costs.storage.count_rate)} of it"
    if plan.processors != measured:
        yield (
            f"{counted(plan.processors, 'processor')} instead of {measured}: searches are as much faster as "
            "--thread-share says, --seconds-per-photo stays as it is: measure on such a machine, or give it"
        )
    if on.machines > 1 and config.replicas == 1:
        yield "with --replicas 1 queries miss a lost machine's photos until it is rebuilt"
    if subject.held:
        yield _compared(subject.held)


def _compared(held: Mapping[str, int]) -> str:
    each = amount(held["bytes"] / held["photos"])
    return (
        f"the archive of --archive takes {amount(held['bytes'])} in {counted(held['shards'], 'shard')}, {each} a photo"
    )


def title(plan: Plan) -> str:
    """Return what is planned for, in a line."""
    machines = counted(plan.machines.machines, "machine")
    return (
        f"{described(plan.subject)}, on {machines} of {counted(plan.processors, 'processor')} and {amount(plan.memory)}"
    )
