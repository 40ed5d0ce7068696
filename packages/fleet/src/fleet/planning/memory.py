"""The store's twin in memory, for unit tests: the same contract, nothing kept."""

import dataclasses

from fleet.planning.domain import Plan, PlanState, PlanSummary, Story, StoryWithPlans, Transitioned
from fleet.planning.store import Outgoing, PlanStep, StoryStep, position
from fleet.planning.transitions import StoryState
from fleet_wire.errors import NotFound


class MemoryStore:
    """See `store.Store`. No call gives way to another, so each is a transaction."""

    def __init__(self) -> None:
        self._stories: dict[str, Story] = {}
        self._plans: dict[str, Plan] = {}
        self._transitions: dict[str, Transitioned] = {}
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
        return None if story is None else self._whole(story)

    async def stories(
        self, limit: int, before: str = "", plan_state: PlanState | None = None, state: StoryState | None = None
    ) -> list[StoryWithPlans]:
        found = [self._with_plans(story) for story in sorted(self._stories.values(), key=position, reverse=True)]
        return [
            item
            for item in found
            if (not before or position(item.story) < before)
            and (plan_state is None or any(plan.state == plan_state for plan in item.plans))
            and (state is None or item.story.state == state)
        ][:limit]

    async def transition_story(self, story_id: str, transition_id: str, step: StoryStep) -> Transitioned:
        if story_id not in self._stories:
            raise NotFound(f"there is no story {story_id}")
        if transition_id not in self._transitions:
            story, record, event = step(self._whole(self._stories[story_id]))
            self._stories[story_id] = story
            self._transitions[transition_id] = record
            self._outbox[event.message_id] = event
        return self._transitions[transition_id]

    async def propose_plan(self, plan: Plan) -> Plan:
        story_id = plan.story.story_id
        if story_id not in self._stories:
            raise NotFound(f"there is no story {story_id}")
        if plan.plan_id not in self._plans:
            self._plans[plan.plan_id] = dataclasses.replace(plan, version=len(self._of(story_id)) + 1)
        return self._plans[plan.plan_id]

    async def plan(self, plan_id: str) -> Plan | None:
        return self._plans.get(plan_id)

    async def change_plan(self, plan_id: str, step: PlanStep) -> Plan:
        if plan_id not in self._plans:
            raise NotFound(f"there is no plan {plan_id}")
        plan = self._plans[plan_id]
        change = step(plan, self._whole(self._stories[plan.story.story_id]))
        self._stories[plan.story.story_id] = change.story
        self._plans[plan_id] = change.plan
        for other in change.superseded:
            self._plans[other] = dataclasses.replace(self._plans[other], state="superseded", superseded_by=plan_id)
        if change.event is not None:
            self._outbox[change.event.message_id] = change.event
        return change.plan

    async def pending(self, limit: int) -> list[Outgoing]:
        return sorted(self._outbox.values(), key=lambda item: item.position)[:limit]

    async def forget(self, message_id: str) -> None:
        self._outbox.pop(message_id, None)

    def _of(self, story_id: str) -> list[Plan]:
        return [plan for plan in self._plans.values() if plan.story.story_id == story_id]

    def _whole(self, story: Story) -> StoryWithPlans:
        made = [record for record in self._transitions.values() if record.story_id == story.story_id]
        return dataclasses.replace(self._with_plans(story), transitions=tuple(made))

    def _with_plans(self, story: Story) -> StoryWithPlans:
        plans = sorted(self._of(story.story_id), key=lambda plan: plan.version)
        return StoryWithPlans(
            story, tuple(PlanSummary(plan.plan_id, plan.version, plan.state, plan.proposed_at) for plan in plans)
        )
