"""The store's twin in memory, for unit tests: the same contract, nothing kept."""

import dataclasses

from fleet.planning.domain import Plan, PlanState, PlanSummary, Story, StoryWithPlans
from fleet.planning.store import Outgoing, Step, position
from fleet_wire.errors import NotFound


class MemoryStore:
    """See `store.Store`. No call gives way to another, so each is a transaction."""

    def __init__(self) -> None:
        self._stories: dict[str, Story] = {}
        self._plans: dict[str, Plan] = {}
        self._outbox: dict[str, Outgoing] = {}

    async def prepare(self) -> None:
        return

    async def create_story(self, story: Story, event: Outgoing) -> Story:
        if story.story_id not in self._stories:
            self._stories[story.story_id] = story
            self._outbox[event.message_id] = event
        return self._stories[story.story_id]

    async def story(self, story_id: str) -> StoryWithPlans | None:
        story = self._stories.get(story_id)
        return None if story is None else self._with_plans(story)

    async def stories(self, limit: int, before: str = "", plan_state: PlanState | None = None) -> list[StoryWithPlans]:
        found = [self._with_plans(story) for story in sorted(self._stories.values(), key=position, reverse=True)]
        return [
            item
            for item in found
            if (not before or position(item.story) < before)
            and (plan_state is None or any(plan.state == plan_state for plan in item.plans))
        ][:limit]

    async def propose_plan(self, plan: Plan) -> Plan:
        story_id = plan.story.story_id
        if story_id not in self._stories:
            raise NotFound(f"there is no story {story_id}")
        if plan.plan_id not in self._plans:
            self._plans[plan.plan_id] = dataclasses.replace(plan, version=len(self._of(story_id)) + 1)
        return self._plans[plan.plan_id]

    async def plan(self, plan_id: str) -> Plan | None:
        return self._plans.get(plan_id)

    async def change_plan(self, plan_id: str, step: Step) -> Plan:
        if plan_id not in self._plans:
            raise NotFound(f"there is no plan {plan_id}")
        plan, event = step(self._plans[plan_id])
        self._plans[plan_id] = plan
        if event is not None:
            self._outbox[event.message_id] = event
        return plan

    async def pending(self, limit: int) -> list[Outgoing]:
        return sorted(self._outbox.values(), key=lambda item: item.position)[:limit]

    async def forget(self, message_id: str) -> None:
        self._outbox.pop(message_id, None)

    def _of(self, story_id: str) -> list[Plan]:
        return [plan for plan in self._plans.values() if plan.story.story_id == story_id]

    def _with_plans(self, story: Story) -> StoryWithPlans:
        plans = sorted(self._of(story.story_id), key=lambda plan: plan.version)
        return StoryWithPlans(
            story, tuple(PlanSummary(plan.plan_id, plan.version, plan.state, plan.proposed_at) for plan in plans)
        )
