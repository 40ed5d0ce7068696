"""Draws the machine of transitions.py into a page of the docs, between two marks. `python -m fleet.planning.diagram FILE`."""

import sys
from pathlib import Path

from fleet import drawn
from fleet.planning.transitions import EVENTS, FIRST, STATES, TABLE, Guard

SOURCE = "fleet/planning/transitions.py"


def filled(page: str) -> str:
    """The page with the drawing as it is now; raises ValueError where it has not both marks."""
    return drawn.filled(page, SOURCE, drawing())


def drawing() -> str:
    """A Mermaid diagram, and a table of what each event needs."""
    last = [state for state in STATES if all(row.from_state != state for row in TABLE)]
    arrows = [
        f"    [*] --> {FIRST}",
        *(f"    {row.from_state} --> {row.to_state} : {row.event}" for row in TABLE),
        *(f"    {state} --> [*]" for state in last),
    ]
    lines = [
        f"| `{row.event}` | {row.from_state} | {row.to_state} | {'; '.join(map(_needs, row.guards))} |" for row in TABLE
    ]
    table = ["| event | from | to | needs |", "|---|---|---|---|", *lines]
    return "\n".join(["", "```mermaid", "stateDiagram-v2", *arrows, "```", "", *table, ""])


def _needs(guard: Guard) -> str:
    return (guard.__doc__ or "").strip()


def main(path: Path) -> None:
    path.write_text(filled(path.read_text()))
    print(f"{path}: {len(STATES)} states, {len(EVENTS)} events")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
