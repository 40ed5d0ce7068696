"""What the memory knows, and what it is asked for: plain values, and the rules on what comes in.

Who may see what is `scopes`, what becomes a block `blocks`, and what fits the budget `packing`.
"""

import dataclasses
import datetime as dt
from collections.abc import Iterable, Mapping
from typing import get_args

import msgspec

from fleet.deliberation.plan_rules import check_plan
from fleet_wire import events, ids
from fleet_wire.errors import Invalid
from fleet_wire.fingerprint import whole

PHASES: tuple[str, ...] = get_args(events.StoryPhase)
KINDS = ("task", "story", "plan", "constraint", "decision", "milestone", "summary", "role")
"""Of blocks, in the order in which they stand in a context: what all seats of all roles share first, the role's lens last."""
SUMMARIZED = "context.summary"
"""Kind of a timeline's event: a summary of where the story stands."""
TELLS_OF = {
    events.StoryCreated.TYPE: "story",
    events.StoryTransitioned.TYPE: "story",
    events.PlanApproved.TYPE: "plan",
    events.PlanCompleted.TYPE: "plan",
    events.DeliberationCompleted.TYPE: "decision",
    events.DeliberationFailed.TYPE: "decision",
    "context.override": "decision",
    "context.affects": "decision",
    "context.constraint": "constraint",
    "context.milestone": "milestone",
    SUMMARIZED: "summary",
}
"""The kind of block that each kind of a timeline's events tells of; a ruling on what binds says it of itself."""
LEAST_BUDGET, GREATEST_BUDGET = 64, 1_000_000


class Scope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one role may see in one phase: the kinds of blocks, and the councils whose decisions it sees where its task depends
    on them, and where they affect its story without that. Nothing is seen that is not named."""

    kinds: tuple[str, ...]
    depends_on: tuple[str, ...] = ()
    affects: tuple[str, ...] = ()


Scopes = Mapping[tuple[str, str], Scope]
"""By role and phase; every pair is there."""


@dataclasses.dataclass(frozen=True)
class ContextRequest:
    """What is asked for; made by `checked`, so that its fields are valid. `required` is sorted and without repetition, `scope` is
    what the role may see in the phase. `task_id` is empty for what concerns the plan as a whole."""

    story_id: str
    plan_id: str
    task_id: str
    role: str
    phase: str
    token_budget: int
    scope: Scope
    required: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class StoryHead:
    """A story's version in the graph. `born` tells its node from one of the same id in another, or emptied, database."""

    story_id: str
    born: str
    version: int


@dataclasses.dataclass(frozen=True)
class Story:
    """`state` is empty where no event has told it."""

    story_id: str
    title: str
    brief: str
    acceptance: tuple[str, ...] = ()
    state: str = ""


@dataclasses.dataclass(frozen=True)
class Task:
    """`key` names its node: task ids are unique only in their plan."""

    plan_id: str
    task_id: str
    title: str
    description: str
    requirements: tuple[str, ...] = ()
    acceptance: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return task_key(self.plan_id, self.task_id)


class Decision(msgspec.Struct, frozen=True):
    """Plan and story are empty for one that an ad-hoc deliberation made. `kind` is council for a deliberation's; a person's,
    `decided_by` them, is an override or a constraint and has no deliberation and no winner. One that was overruled says
    by which; `relies_on_superseded` names the overruled ones that it depends on, directly or through others."""

    decision_id: str
    deliberation_id: str
    story_id: str
    plan_id: str
    task_id: str
    role: str
    protocol: str
    winner: str
    title: str
    content: str
    rationale: str
    score: float
    margin: float
    decided_at: dt.datetime
    kind: str = "council"
    decided_by: str = ""
    superseded_by: str = ""
    relies_on_superseded: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class PlannedTask:
    """A task as its plan shows it to the others. `needs` are the tasks it depends on."""

    task_id: str
    title: str
    role: str
    needs: tuple[str, ...]
    decided: bool


@dataclasses.dataclass(frozen=True)
class Plan:
    """An approved plan, its tasks in its order."""

    plan_id: str
    plan_version: int
    approved_by: str
    tasks: tuple[PlannedTask, ...] = ()


@dataclasses.dataclass(frozen=True)
class Milestone:
    """An event of the story's timeline in one line. `role` is the council's that decided, empty where none did; `text` is what
    a note says, whole; `tells_of` is set where it is not as TELLS_OF says of its kind."""

    event_id: str
    kind: str
    at: str
    summary: str
    role: str = ""
    text: str = ""
    tells_of: str = ""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the graph holds for a request, all of one version of the story. `required` and `depended_on` hold what stands in the
    place of superseded ones, `superseded` those with what stands there, `binding` names the required ones that are constraints,
    or overruled one; `affecting` are decisions of the scope's councils, newest first, `out_of_scope` the ids of other councils';
    `milestones` are newest first, then those that the scope hides, `summary` is the last that was written, if any. `task` is
    None for the whole plan. `in_graph` is False where the plan has come and is not in the graph yet."""

    head: StoryHead
    story: Story
    task: Task | None
    plan: Plan
    required: tuple[Decision, ...] = ()
    depended_on: tuple[Decision, ...] = ()
    superseded: Mapping[str, str] = dataclasses.field(default_factory=dict)
    binding: frozenset[str] = frozenset()
    affecting: tuple[Decision, ...] = ()
    out_of_scope: tuple[str, ...] = ()
    constraints: tuple[Decision, ...] = ()
    milestones: tuple[Milestone, ...] = ()
    summary: Milestone | None = None
    in_graph: bool = True


class How(msgspec.Struct, frozen=True):
    """What it took to decide. `flips` of the `verdicts`' pairs were judged differently in the two orders."""

    numbers: dict[str, float] = {}
    chosen_because: str = ""
    verdicts: int = 0
    flips: int = 0
    skipped: tuple[events.SkippedPhase, ...] = ()
    calls: int = 0


def how(event: events.DeliberationCompleted) -> How:
    """What it took to decide."""
    return How(event.numbers, event.chosen_because, event.verdicts, event.flips, tuple(event.skipped), event.calls)


def task_key(plan_id: str, task_id: str) -> str:
    """Id of a task's node."""
    return f"{plan_id}/{task_id}"


def proposal_key(deliberation_id: str, agent_id: str) -> str:
    """Id of a proposal's node."""
    return f"{deliberation_id}/{agent_id}"


def check_key(deliberation_id: str, agent_id: str, name: str) -> str:
    """Id of the node of one check of a proposal."""
    return f"{proposal_key(deliberation_id, agent_id)}/{name}"


def checked(
    story_id: str,
    plan_id: str,
    task_id: str,
    role: str,
    phase: str,
    token_budget: int,
    required: Iterable[str],
    scopes: Scopes,
    whole_plan: bool = False,
) -> ContextRequest:
    """The request; raises Invalid naming the first field that is wrong. Without a task only where it may be of the whole plan."""
    for field, value in (("story_id", story_id), ("plan_id", plan_id), ("task_id", task_id)):
        if value or field != "task_id" or not whole_plan:
            ids.check_id(field, value)
    scope = scope_of(role, phase, scopes)
    if not LEAST_BUDGET <= token_budget <= GREATEST_BUDGET:
        raise Invalid(f"token_budget must be from {LEAST_BUDGET} to {GREATEST_BUDGET}, not {token_budget}")
    wanted = tuple(sorted({ids.check_id("required_decision_ids", value) for value in required}))
    return ContextRequest(story_id, plan_id, task_id, role, phase, token_budget, scope, wanted)


def scope_of(role: str, phase: str, scopes: Scopes) -> Scope:
    """What a role may see in a phase; raises Invalid naming the field that is wrong."""
    ids.check_role("role", role)
    if phase not in PHASES:
        raise Invalid(f"phase must be one of {', '.join(PHASES)}, not {phase[:80]!r}")
    return scopes[role, phase]


def as_json(value: object) -> str:
    """A value as the graph and the sessions keep it: JSON text."""
    return msgspec.json.encode(value).decode()


def searched(text: str) -> str:
    """A text as it is compared in a search: without regard to case."""
    return text.casefold()


def check_event(event: events.Event) -> None:
    """Raises Invalid for an event whose parts contradict each other; the types alone cannot see that."""
    if isinstance(event, events.PlanApproved):
        check_plan(event)
    elif isinstance(event, events.DeliberationCompleted):
        _check_completed(event)


def update_of(
    changed: Iterable[str],
    version: int,
    story_id: str,
    plan_id: str = "",
    deliberation_id: str = "",
    superseded: Iterable[str] = (),
    flagged: Iterable[str] = (),
) -> events.ContextUpdated:
    """The event that tells of a write. The same write gives the same event, and so the same message id."""
    names = sorted(set(changed))
    digest = whole([names, deliberation_id, version])
    return events.ContextUpdated(
        story_id=story_id,
        plan_id=plan_id,
        deliberation_id=deliberation_id,
        changed=names,
        version=version,
        hash=digest,
        superseded=list(superseded),
        flagged=list(flagged),
    )


def _check_completed(event: events.DeliberationCompleted) -> None:
    if event.decision_id != ids.decision_id(event.deliberation_id):
        raise Invalid(f"decision_id must be {ids.decision_id(event.deliberation_id)}, not {event.decision_id}")
    if bool(event.plan_id) != bool(event.story_id):
        raise Invalid("plan_id and story_id: both or none must be given")
    ranked = [entry.agent_id for entry in event.ranking]
    dissenting = [entry.agent_id for entry in event.dissent]
    for field, names in (("ranking", ranked), ("dissent", dissenting)):
        if len(set(names)) != len(names):
            raise Invalid(f"{field}: an agent stands twice")
    for field, names in (("winner", [event.winner]), ("dissent", dissenting)):
        if not set(names) <= set(ranked):
            raise Invalid(f"{field}: {', '.join(sorted(set(names) - set(ranked)))} is not in the ranking")
