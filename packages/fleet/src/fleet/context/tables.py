"""Draws the order in which blocks go, and the scopes, into a page of the docs. `python -m fleet.context.tables FILE`."""

import sys
from collections.abc import Iterable
from pathlib import Path

from fleet import drawn
from fleet.context import scopes
from fleet.context.domain import KINDS
from fleet.context.packing import GOES_FIRST

ORDER = "fleet/context/packing.py"
SCOPES = "fleet/context/scopes.yaml"


def filled(page: str) -> str:
    """The page with both as they are now; raises ValueError where it lacks a mark."""
    return drawn.filled(drawn.filled(page, ORDER, order()), SCOPES, scoped())


def order() -> str:
    """What goes when space is short, the first one first."""
    lines = [f"{place}. {words}{', cut' if cut else ''}" for place, (_, cut, words) in enumerate(GOES_FIRST, 1)]
    return "\n".join(["", *lines, ""])


def scoped() -> str:
    """A row for each role and phase: the kinds of blocks that it does not see, and whose decisions it sees."""
    lines = [
        f"| {role} | {phase} | {_names(kind for kind in KINDS if kind not in scope.kinds)} "
        f"| {_names(scope.depends_on)} | {_names(scope.affects)} |"
        for (role, phase), scope in scopes.load().items()
    ]
    heading = "| role | phase | does not see | decisions it depends on | decisions that affect it |"
    return "\n".join(["", heading, "|---|---|---|---|---|", *lines, ""])


def _names(values: Iterable[str]) -> str:
    return ", ".join(values) or "—"


def main(path: Path) -> None:
    path.write_text(filled(path.read_text()))
    print(f"{path}: {len(GOES_FIRST)} kinds of what goes, {len(scopes.load())} scopes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
