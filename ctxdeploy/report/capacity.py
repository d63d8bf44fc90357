"""A plan for people: what does not fit first, then figures to two digits, then every assumption with its source."""

import io
from collections.abc import Iterator, Sequence

from ctxdeploy.capacity.costs import Costs
from ctxdeploy.capacity.figures import BYTES, COUNT, figures_of, rounded, shown
from ctxdeploy.capacity.plan import Plan, title
from ctxdeploy.core.settings import SettingField, parse_bytes, parse_count

_HEADINGS = {
    "archive": "The archive",
    "machines": "On machines",
    "extraction": "Extraction",
    "queries": "A query",
    "load": "Queries that come by chance",
    "upkeep": "Commits, compaction, a lost machine",
}
_WIDTH = 118


def plan_lines(plan: Plan) -> Iterator[str]:
    """Yield the lines of a plan."""
    yield title(plan)
    for problem in plan.problems:
        yield f"DOES NOT FIT: {problem}"
    for name, part in plan.sections():
        yield ""
        rows = [(label, shown(value, unit)) for _, label, value, unit in figures_of(part)]
        yield from _drawn(_HEADINGS[name], rows)
    if plan.remarks:
        yield ""
    for remark in plan.remarks:
        yield f"note: {remark}"
    yield ""
    yield from assumption_lines(plan.costs)
    yield ""
    yield "Figures have two digits. What is measured, and what is modelled: docs/capacity.md"


def assumption_lines(costs: Costs, heading: str = "Assumptions; each is an option") -> Iterator[str]:
    """Yield a table of the assumptions."""
    rows = [
        (entry.setting.flag, assumed(entry, value), source, entry.setting.help)
        for entry, value, source in costs.listed()
    ]
    yield from _drawn(heading, rows)


def assumed(entry: SettingField, value: float) -> str:
    """Return the value of an assumption."""
    if entry.setting.parse is parse_bytes:
        return "as is usual" if value == 0 and entry.name == "global_rate" else shown(value, BYTES)
    if entry.setting.parse is parse_count:
        return shown(value, COUNT)
    short = rounded(value)
    return f"{short:,.0f}" if short >= 1000 else f"{short:g}"


def _drawn(heading: str, rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table as lines, without colours."""
    from rich.console import Console
    from rich.table import Table

    table: Table = Table(title=None, box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for number in range(len(rows[0])):
        table.add_column(justify="right" if number == 1 else "left", no_wrap=number < 3, overflow="fold")
    for row in rows:
        table.add_row(*(f"  {text}" if number == 0 else text for number, text in enumerate(row)))
    buffer = io.StringIO()
    Console(file=buffer, width=_WIDTH, color_system=None, markup=False, highlight=False, emoji=False).print(table)
    return [heading, *(line.rstrip() for line in buffer.getvalue().splitlines())]
