"""What a person does to what runs: cancel a deliberation or a plan, try a task again.

Each is one fold into a record; what follows from it is due in that record. So a repeated call changes nothing, and a process that
dies in the middle leaves nothing undone.
"""

import dataclasses

import structlog

from fleet.deliberation import plan as rules
from fleet.deliberation.plan import Plan
from fleet.deliberation.plan_rules import tasks_of
from fleet.deliberation.state import Cancelled, Deliberation
from fleet.orchestrator.clocks import Clock
from fleet.orchestrator.driver import Driver
from fleet.orchestrator.live import DeliberationRecords
from fleet.orchestrator.peers import PlanBook
from fleet.orchestrator.plans import Plans
from fleet_wire import events, ids
from fleet_wire.errors import NotFound, Precondition
from fleet_wire.events import PlanTask

log = structlog.get_logger(__name__)

MAX_REASON_BYTES = 500


@dataclasses.dataclass(frozen=True)
class Interventions:
    """The ports of these."""

    records: DeliberationRecords
    plans: Plans
    plan_book: PlanBook
    driver: Driver
    plan_driver: Driver
    clock: Clock

    async def cancel_deliberation(self, deliberation_id: str, reason: str) -> Deliberation:
        """Ends it with the reason `cancelled`. Raises NotFound, and Precondition where it has ended otherwise."""
        ids.check_id("deliberation_id", deliberation_id)
        state = await self.records.fold(deliberation_id, (Cancelled(_shortened(reason), self.clock()),))
        if state is None:
            raise NotFound(f"no deliberation {deliberation_id}")
        if state.closed_by != "cancelled":
            raise Precondition(f"deliberation {deliberation_id} is {state.status}: there is nothing to cancel")
        log.info("deliberation cancelled", deliberation_id=deliberation_id)
        self.driver.wake(deliberation_id)
        return state

    async def cancel_plan(self, plan_id: str, reason: str) -> tuple[list[str], list[str]]:
        """Cancels what runs of the plan and skips what waits; the ids of these and of those. Raises NotFound, and Precondition
        where it has ended."""
        ids.check_id("plan_id", plan_id)
        before = await self.plans.records.read(plan_id)
        if before is None:
            raise NotFound(f"no approved plan {plan_id}")
        if before.status == "completed":
            raise Precondition(f"plan {plan_id} has ended: there is nothing to cancel")
        plan = await self.plans.fold(plan_id, rules.Cancelled(_shortened(reason)))
        if plan is None:
            raise NotFound(f"no approved plan {plan_id}")
        log.info("plan cancelled", plan_id=plan_id)
        self.plan_driver.wake(plan_id)
        return (
            [task.task.task_id for task in plan.tasks if task.status == "running"],
            [task.task.task_id for task in plan.tasks if task.status == "skipped" and _was_cancelled(task)],
        )

    async def retry_task(self, plan_id: str, task_id: str) -> tuple[Plan, list[str]]:
        """Has a failed or cancelled task tried again; the plan then, and the ids of what waits for that try. While that waits or
        runs, a further call changes nothing and answers with it. Raises NotFound, Precondition for a task in another
        state, and Unavailable where the plan's texts are needed and planning does not answer."""
        ids.check_id("plan_id", plan_id)
        ids.check_id("task_id", task_id)
        plan = await self.plans.records.read(plan_id)
        if plan is None:
            raise NotFound(f"no approved plan {plan_id}")
        try:
            task = rules.task_of(plan, task_id)
        except KeyError as error:
            raise NotFound(f"plan {plan_id} has no task {task_id}") from error
        ended = False
        if not (task.number > 1 and task.status in ("waiting", "running")):
            why = rules.retry_refused(plan, task_id)
            if why:
                raise Precondition(why)
            texts = await self._texts(plan)
            ended = plan.status == "completed"
            if ended:
                await self._publish_round(plan)
                await self.plans.live_plans.mark_again(plan_id, self.clock())
            plan = await self.plans.fold(plan_id, rules.Retried(task_id, task.number, texts)) or plan
            if (
                rules.task_of(plan, task_id).number == task.number
            ):  # the plan was closed in between: now its texts are needed
                return await self.retry_task(plan_id, task_id)
            log.info("task tried again", plan_id=plan_id, task_id=task_id, number=task.number + 1)
        self.plan_driver.wake(plan_id)
        if ended:  # who found it completed may have seen the marker from before
            await self.plans.live_plans.mark_again(plan_id, self.clock())
        above = rules.above(plan, task_id)
        return plan, [one.task.task_id for one in plan.tasks if one.task.task_id in above and one.status == "waiting"]

    async def _publish_round(self, plan: Plan) -> None:
        """Publishes the completion of the round that a retry follows on, where a marker says that this may not have been done:
        with the next round open, nobody else would."""
        revision = await self.plans.live_plans.revision(plan.plan_id)
        if revision:
            await self.plans.complete(plan, revision)

    async def _texts(self, plan: Plan) -> tuple[PlanTask, ...]:
        """The tasks with their texts, which a completed plan's record keeps no longer."""
        if plan.status == "running":
            return ()
        try:
            return tasks_of(await self.plan_book.plan(plan.plan_id))
        except NotFound as error:
            raise Precondition(
                f"planning does not know plan {plan.plan_id}, and its texts are not kept here"
            ) from error


def _shortened(reason: str) -> str:
    return events.cut(reason.strip(), MAX_REASON_BYTES)[0] or "on request"


def _was_cancelled(task: rules.TaskProgress) -> bool:
    return task.reason.startswith("cancelled")
