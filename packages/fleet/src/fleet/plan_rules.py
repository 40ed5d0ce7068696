"""What the tasks of a plan must keep, the same in a plan's file and at planning. Pure."""

import graphlib
from collections.abc import Mapping, Sequence

from fleet_wire.errors import Invalid

PROTOCOL_PATTERN = r"^[a-z_]{1,32}$(?!\n)"
"""The name of a protocol. The last part because `$` alone lets a final line break pass."""


def check_order(needs: Mapping[str, Sequence[str]]) -> None:
    """Raises Invalid, naming the place, where a task waits for one that is not there, or for itself by way of others.

    `needs` has the depends_on of each task_id, in the order of the plan's tasks.
    """
    for index, wanted in enumerate(needs.values()):
        for task_id in wanted:
            if task_id not in needs:
                raise Invalid(f"tasks[{index}].depends_on names {task_id[:80]!r}, which is no task of this plan")
    try:
        graphlib.TopologicalSorter(needs).prepare()
    except graphlib.CycleError as error:
        # The sorter lists each task before the one that waits for it; read backwards it follows depends_on.
        raise Invalid(
            f"tasks wait for each other in a cycle of depends_on: {' → '.join(error.args[1][::-1])}"
        ) from error
