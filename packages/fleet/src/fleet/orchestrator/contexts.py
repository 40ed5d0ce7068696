"""What context gives for prompts. Of tasks that start with their plan it is asked while the plan's record is being written."""

import asyncio
import dataclasses

from fleet.deliberation import plan as rules
from fleet.deliberation.plan import Plan, Start
from fleet.deliberation.state import Deliberation
from fleet.orchestrator.peers import Given, Memory, Wanted
from fleet_wire.errors import FleetError

AHEAD_SECONDS = 1.0
"""How old an answer may be that was asked for ahead."""
MOST_AHEAD = 16
"""Answers that are asked for ahead and not taken yet: where more plans come at once, they wait for other things than this."""


@dataclasses.dataclass(frozen=True)
class _Ahead:
    begun: float
    answer: asyncio.Future[Given | None]


class Contexts:
    """Asks context for what agents may see, `token_budget` tokens of it."""

    def __init__(self, memory: Memory, token_budget: int) -> None:
        self._memory = memory
        self._token_budget = token_budget
        self._ahead: dict[Wanted, _Ahead] = {}

    def begin(self, plan: Plan) -> None:
        """Asks for what those tasks of this new plan need that may start at once. What is not there yet `of` asks for again."""
        now = asyncio.get_running_loop().time()
        for wanted, ahead in list(self._ahead.items()):
            if ahead.begun + AHEAD_SECONDS < now:  # its task did not start, or another replica's did
                del self._ahead[wanted]
                ahead.answer.cancel()
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
                self._ahead[wanted] = _Ahead(now, asyncio.ensure_future(self._try(wanted)))

    async def of(self, state: Deliberation) -> Given:
        """Raises Unavailable until the graph holds what the task depends on."""
        wanted = wanted_of(state)
        ahead = self._ahead.pop(wanted, None)
        if ahead is not None and asyncio.get_running_loop().time() > ahead.begun + AHEAD_SECONDS:
            ahead.answer.cancel()
        elif ahead is not None and (given := await ahead.answer) is not None:
            return given
        return await self._memory.context_for(wanted, self._token_budget)

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
