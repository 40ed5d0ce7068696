"""What all tables of the command share: times, budgets and the first lines of long texts, each safe to print."""

import datetime as dt
from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table
from rich.text import Text

from fleet.cli import safe
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2
from fleet_wire.gen.planning.v1 import planning_pb2

FIRST_LINES = 3


def moment(stamp: Timestamp) -> str:
    """A protobuf time in local time, to the second; empty where it is not set."""
    return stamp.ToDatetime(tzinfo=dt.timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M:%S") if stamp.seconds else ""


def first_lines(content: str, count: int = FIRST_LINES, width: int = 100) -> str:
    """The first lines that are not blank, each cut to the width."""
    lines = [part for part in safe.safe(content).splitlines() if part.strip()]
    kept = [part if len(part) <= width else part[: width - 1] + "…" for part in lines[:count]]
    return "\n".join([*kept, "…"] if len(lines) > count else kept)


def budget(found: planning_pb2.Budget | orchestrator_pb2.Budget) -> str:
    """The limits that are set, in words; empty where none is."""
    words = [
        f"{found.tokens} tokens" if found.tokens else "",
        f"{found.calls} calls" if found.calls else "",
        f"{found.seconds:g} s" if found.seconds else "",
    ]
    return ", ".join(word for word in words if word)


def facts(pairs: Sequence[tuple[str, str]]) -> Table:
    """Names and values, a line each; those without a value are left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        if value:
            grid.add_row(name, safe.text(value))
    return grid


def table(*columns: str) -> Table:
    """An empty table with these headings."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        # Ids stand first and are to be copied: they are neither cut nor folded, the rest makes room.
        made.add_column(column, overflow="fold", no_wrap=index == 0)
    return made


def heading(words: str) -> Text:
    """A line over what follows."""
    return Text(f"\n{words}", style="bold")
