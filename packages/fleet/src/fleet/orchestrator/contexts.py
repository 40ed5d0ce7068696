"""What context gives for prompts. For tasks that start with their plan it is asked for while the plan's record is written."""

import asyncio

from fleet.deliberation import plan as rules
from fleet.deliberation.plan import Plan, Start
from fleet.deliberation.state import Deliberation
from fleet.orchestrator.peers import Given, Memory, Wanted
from fleet_wire.errors import FleetError

AHEAD_SECONDS = 1.0
"""How long an answer that was asked for ahead is kept."""
MOST_AHEAD = 16
"""Answers that are asked for ahead and not taken yet: where more plans come at once, they wait for other things than this."""


class Contexts:
    """Asks context for what agents may see, `token_budget` tokens of it."""

    def __init__(self, memory: Memory, token_budget: int) -> None:
        self._memory = memory
        self._token_budget = token_budget
        self._ahead: dict[Wanted, asyncio.Future[Given | None]] = {}

    def begin(self, plan: Plan) -> None:
        """Asks for what the tasks of a new plan need that may start at once. What is not there yet is asked for again by `of`."""
        for command in rules.due(plan):
            if not isinstance(command, Start):
                continue
            task = rules.task_of(plan, command.task_id)
            wanted = Wanted(
                story_id=plan.story_id,
                plan_id=plan.plan_id,
                task_id=task.task.task_id,
                role=task.task.role,
                phase=plan.phase,
                required=rules.decisions_below(plan, task),
            )
            if wanted not in self._ahead and len(self._ahead) < MOST_AHEAD:
                answer = self._ahead[wanted] = asyncio.ensure_future(self._try(wanted))
                asyncio.get_running_loop().call_later(AHEAD_SECONDS, self._drop, wanted, answer)

    async def of(self, state: Deliberation) -> Given:
        """Raises Unavailable until the graph holds what the task depends on."""
        wanted = wanted_of(state)
        ahead = self._ahead.pop(wanted, None)
        if ahead is not None and (given := await ahead) is not None:
            return given
        return await self._memory.context_for(wanted, self._token_budget)

    def _drop(self, wanted: Wanted, answer: asyncio.Future[Given | None]) -> None:
        """Lets go of what nobody took: its task did not start, or another replica started it."""
        if self._ahead.get(wanted) is answer:
            self._ahead.pop(wanted).cancel()

    async def _try(self, wanted: Wanted) -> Given | None:
        try:
            return await self._memory.context_for(wanted, self._token_budget)
        except FleetError:
            return None


def wanted_of(state: Deliberation) -> Wanted:
    """What a plan's deliberation needs."""
    return Wanted(
        story_id=state.story_id,
        plan_id=state.plan_id,
        task_id=state.task.task_id,
        role=state.task.role,
        phase=state.story_phase,
        required=state.based_on,
    )
