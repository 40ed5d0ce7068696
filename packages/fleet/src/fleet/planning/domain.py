"""The rules of stories and plans, on plain values: what may be proposed, and which state of a plan follows which.

    proposed ──approve──▶ approved ──complete──▶ completed
        ├─────reject────▶ rejected     │
        └─────────────────┬────────────┘
      another is approved └▶ superseded

A story has at most one approved plan. What a plan holds never changes: who wants another proposes the next version. The states
of a story are in transitions.py.

Limits, in characters unless said otherwise. They keep texts readable and prompts finite; that a whole plan fits into its
event (MAX_MESSAGE_BYTES of JSON) is checked beside them, when it is proposed.
"""

import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import Literal, cast, get_args

import msgspec

from fleet.deliberation.plan_rules import (
    MAX_BRIEF,
    MAX_DESCRIPTION,
    MAX_ITEM,
    MAX_ITEMS,
    MAX_TASKS,
    MAX_TITLE,
    check_order,
    check_text,
)
from fleet.people import MAX_PERSON, MAX_REASON
from fleet.planmessages import NO_LIMITS, check_budget, check_how
from fleet.planning import transitions
from fleet.planning.transitions import StoryState
from fleet_wire import events
from fleet_wire.errors import Invalid, Precondition
from fleet_wire.ids import check_id, check_role
from fleet_wire.redaction import redact_struct

PlanState = Literal["proposed", "approved", "rejected", "completed", "superseded"]
PLAN_STATES: tuple[PlanState, ...] = get_args(PlanState)
PHASES: tuple[events.StoryPhase, ...] = get_args(events.StoryPhase)

APPROVAL_BYTES = 6 * MAX_PERSON + 160
"""What the version and an approval may add to the event of a plan: a name at JSON's longest (\\u0000), digits, and the id of
the plan that was approved before."""

Task = events.PlanTask


@dataclasses.dataclass(frozen=True)
class Story:
    """What the team wants. `actor` is who asked, for the record. `version` counts its transitions; `changed_at` is when the
    last of those, or of its approvals, was."""

    story_id: str
    title: str
    brief: str
    acceptance: tuple[str, ...]
    phase: events.StoryPhase
    actor: str
    created_at: dt.datetime
    state: StoryState = transitions.FIRST
    version: int = 0
    changed_at: dt.datetime | None = None

    @property
    def content(self) -> tuple[object, ...]:
        """What two requests under one request_id must share."""
        return (self.title, self.brief, self.acceptance, self.phase)

    @property
    def last_event_at(self) -> dt.datetime:
        return self.changed_at or self.created_at


@dataclasses.dataclass(frozen=True)
class Transitioned:
    """A transition that a story made, its `version`-th: who asked for it, and why where that was said."""

    transition_id: str
    story_id: str
    version: int
    event: str
    from_state: StoryState
    to_state: StoryState
    actor: str
    reason: str
    transitioned_at: dt.datetime

    @property
    def content(self) -> tuple[object, ...]:
        """What two requests under one request_id must share."""
        return (self.story_id, self.event, self.actor, self.reason)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a story is to be done. `story` is as it was when the plan was proposed; `version` counts the story's plans
    from 1; `decided_…` tell of the approval or rejection; `budget` is that of all tasks together; `superseded_by` is the plan
    that was approved in its place."""

    plan_id: str
    story: Story
    version: int
    roles: tuple[events.Role, ...]
    tasks: tuple[Task, ...]
    proposed_at: dt.datetime
    state: PlanState = "proposed"
    decided_by: str = ""
    decided_at: dt.datetime | None = None
    reject_reason: str = ""
    completed_at: dt.datetime | None = None
    budget: events.Budget = NO_LIMITS
    superseded_by: str = ""

    @property
    def content(self) -> tuple[object, ...]:
        """What two requests under one request_id must share."""
        return (self.story.story_id, self.roles, self.tasks, self.budget)


@dataclasses.dataclass(frozen=True)
class PlanSummary:
    plan_id: str
    version: int
    state: PlanState
    proposed_at: dt.datetime


@dataclasses.dataclass(frozen=True)
class StoryWithPlans:
    """A story, its plans and its transitions, oldest first. A listing leaves the transitions out."""

    story: Story
    plans: tuple[PlanSummary, ...] = ()
    transitions: tuple[Transitioned, ...] = ()


def new_story(
    story_id: str, title: str, brief: str, acceptance: Sequence[str], phase: str, actor: str, now: dt.datetime
) -> Story:
    """A story; raises Invalid naming the field that is wrong. An empty phase is `build`."""
    check_text("title", title, MAX_TITLE, needed=True)
    check_text("brief", brief, MAX_BRIEF)
    _items("acceptance", acceptance)
    check_text("actor", actor, MAX_PERSON)
    chosen = phase or "build"
    if chosen not in PHASES:
        raise Invalid(f"phase must be one of {', '.join(PHASES)}, or empty for build, not {phase[:80]!r}")
    return Story(story_id, title, brief, tuple(acceptance), chosen, actor, now)


def transition(
    whole: StoryWithPlans, transition_id: str, event: str, actor: str, reason: str, now: dt.datetime
) -> tuple[Story, Transitioned]:
    """The story in its next state, and the record of how it got there. Raises Invalid naming the field that is wrong, and
    Precondition naming the events that the story's state has, or what is missing."""
    check_text("actor", actor, MAX_PERSON, needed=True)
    check_text("reason", reason, MAX_REASON)
    story = whole.story
    asked = transitions.Asked(actor, reason, [plan.state for plan in whole.plans])
    found = transitions.find(story.story_id, story.state, event, asked)
    moment, version = later(now, story.last_event_at), story.version + 1
    record = Transitioned(
        transition_id, story.story_id, version, event, found.from_state, found.to_state, actor, reason, moment
    )
    return dataclasses.replace(story, state=found.to_state, version=version, changed_at=moment), record


def new_plan(
    plan_id: str,
    story: Story,
    roles: Sequence[str],
    tasks: Sequence[Task],
    now: dt.datetime,
    budget: events.Budget = NO_LIMITS,
) -> Plan:
    """A proposed plan, its version yet to be counted; raises Invalid naming the field that is wrong."""
    check_roles_and_tasks(roles, tasks)
    check_budget("budget", budget)
    checked = tuple(cast(events.Role, role) for role in roles)
    plan = Plan(plan_id, story, 1, checked, tuple(tasks), later(now, story.created_at), budget=budget)
    # The version and the approval are not known yet: both have their room in APPROVAL_BYTES. What is taken out of a text may be
    # shorter than the word that stands in its place.
    size = len(msgspec.json.encode(redact_struct(approved_event(dataclasses.replace(plan, decided_at=now)))))
    if size + APPROVAL_BYTES > events.MAX_MESSAGE_BYTES:
        raise Invalid(
            f"tasks are too long: the plan and its story take {size} bytes of JSON, and"
            f" {events.MAX_MESSAGE_BYTES - APPROVAL_BYTES} is the limit; shorten or split the plan"
        )
    return plan


def check_roles_and_tasks(roles: Sequence[str], tasks: Sequence[Task]) -> None:
    """Raises Invalid naming the field that is wrong."""
    if not roles and not tasks:
        raise Invalid("tasks must hold at least one task, or roles at least one role")
    for index, role in enumerate(roles):
        check_role(f"roles[{index}]", role)
    _distinct("roles", roles)
    if len(tasks) > MAX_TASKS:
        raise Invalid(f"tasks holds {len(tasks)} tasks, above the limit of {MAX_TASKS}")
    for index, task in enumerate(tasks):
        check_id(f"tasks[{index}].task_id", task.task_id)
        try:
            _check_task(f"tasks[{index}]", task)
        except Invalid as error:
            raise Invalid(f"{error} (task {task.task_id})") from error
    _distinct("task_id", [task.task_id for task in tasks])
    unused = [role for role in roles if tasks and role not in {task.role for task in tasks}]
    if unused:
        raise Invalid(f"roles names {', '.join(unused)}, but no task has that role: add one, or leave roles empty")
    check_order({task.task_id: task.depends_on for task in tasks})


def approve(plan: Plan, by: str, now: dt.datetime) -> Plan:
    """The plan as approved; raises Precondition where it is not proposed."""
    check_text("approved_by", by, MAX_PERSON, needed=True)
    _must_be_proposed(plan)
    return dataclasses.replace(plan, state="approved", decided_by=by, decided_at=later(now, plan.proposed_at))


def reject(plan: Plan, by: str, reason: str, now: dt.datetime) -> Plan:
    """The plan as rejected; raises Precondition where it is not proposed."""
    check_text("rejected_by", by, MAX_PERSON, needed=True)
    check_text("reason", reason, MAX_REASON, needed=True)
    _must_be_proposed(plan)
    return dataclasses.replace(
        plan, state="rejected", decided_by=by, decided_at=later(now, plan.proposed_at), reject_reason=reason
    )


def superseded(approved: Plan, plans: Sequence[PlanSummary]) -> tuple[str, ...]:
    """Which of the story's plans an approval puts aside: those that are proposed, and the one that was approved before."""
    return tuple(
        plan.plan_id for plan in plans if plan.plan_id != approved.plan_id and plan.state in ("proposed", "approved")
    )


def complete(plan: Plan, story_id: str, now: dt.datetime) -> Plan:
    """The plan as completed; the same where it is already. One that was superseded while it ran stays so, and keeps the time
    of its end. Raises Precondition where it was never approved."""
    if plan.story.story_id != story_id:
        raise Invalid(f"story_id of {plan.plan_id} is {plan.story.story_id}, not {story_id}")
    if plan.completed_at is not None:
        return plan
    if plan.state == "approved":
        return dataclasses.replace(plan, state="completed", completed_at=now)
    if plan.state == "superseded" and plan.decided_at is not None:
        return dataclasses.replace(plan, completed_at=now)
    raise Precondition(f"plan {plan.plan_id} is {plan.state}, not approved, and cannot be completed")


def created_event(story: Story) -> events.StoryCreated:
    """What is published of a new story."""
    return events.StoryCreated(story_id=story.story_id, title=story.title, brief=story.brief)


def transitioned_event(record: Transitioned) -> events.StoryTransitioned:
    """What is published of a transition."""
    return events.StoryTransitioned(
        story_id=record.story_id,
        from_state=record.from_state,
        to_state=record.to_state,
        actor=record.actor,
        version=record.version,
        event=record.event,
        reason=record.reason,
        transitioned_at=record.transitioned_at,
    )


def approved_event(plan: Plan, supersedes: Sequence[str] = ()) -> events.PlanApproved:
    """What is published of an approved plan; `supersedes` are the plans that were approved before."""
    assert plan.decided_at is not None, "an approved plan has the time of its approval"
    story = plan.story
    return events.PlanApproved(
        story_id=story.story_id,
        story=events.StoryText(
            title=story.title, brief=story.brief, acceptance=list(story.acceptance), phase=story.phase
        ),
        plan_id=plan.plan_id,
        plan_version=plan.version,
        approved_by=plan.decided_by,
        approved_at=plan.decided_at,
        roles=list(plan.roles),
        tasks=list(plan.tasks),
        budget=plan.budget,
        supersedes=list(supersedes),
    )


def check_plan_state(field: str, value: str) -> PlanState | None:
    """The state, None for an empty value; raises Invalid naming the field otherwise."""
    _check_state(field, value, PLAN_STATES)
    return cast(PlanState, value) or None


def check_story_state(field: str, value: str) -> StoryState | None:
    """The state, None for an empty value; raises Invalid naming the field otherwise."""
    _check_state(field, value, transitions.STATES)
    return cast(StoryState, value) or None


def _check_state(field: str, value: str, known: Sequence[str]) -> None:
    if value and value not in known:
        raise Invalid(f"{field} must be one of {', '.join(known)}, or empty, not {value[:80]!r}")


def later(now: dt.datetime, than: dt.datetime) -> dt.datetime:
    """Now, or a microsecond after what came before it: the clocks of two replicas may differ, the order must not."""
    return max(now, than + dt.timedelta(microseconds=1))


def _must_be_proposed(plan: Plan) -> None:
    if plan.state == "superseded":
        instead = plan.superseded_by
        raise Precondition(f"plan {plan.plan_id} is superseded, not proposed: {instead} was approved in its place")
    if plan.state != "proposed":
        raise Precondition(f"plan {plan.plan_id} is {plan.state}, not proposed: {plan.decided_by} decided on it")


def _check_task(field: str, task: Task) -> None:
    check_text(f"{field}.title", task.title, MAX_TITLE, needed=True)
    check_text(f"{field}.description", task.description, MAX_DESCRIPTION, needed=True)
    check_role(f"{field}.role", task.role)
    _items(f"{field}.requirements", task.requirements)
    _items(f"{field}.acceptance", task.acceptance)
    _distinct(f"{field}.depends_on", task.depends_on)
    check_how(field, task)


def _items(field: str, values: Sequence[str]) -> None:
    if len(values) > MAX_ITEMS:
        raise Invalid(f"{field} holds {len(values)} entries, above the limit of {MAX_ITEMS}")
    for index, value in enumerate(values):
        check_text(f"{field}[{index}]", value, MAX_ITEM, needed=True)


def _distinct(field: str, values: Sequence[str]) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise Invalid(f"{field} holds {value[:80]!r} twice")
        seen.add(value)
