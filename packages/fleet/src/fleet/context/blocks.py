"""The blocks that an agent may see, in their order, and what its scope keeps from it. Pure: facts in, blocks out.

What all seats of all roles share stands first: the task, its story and plan, the constraints, the decisions that the task depends
on (those that the request requires first, each oldest first), the decisions that affect the story and the milestones (both
newest first), and the summary. The role's lens stands last.
"""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from fleet.context import domain
from fleet.context.domain import Decision, Facts
from fleet.deliberation.lenses import lens
from fleet.deliberation.prompt import inside
from fleet_wire.fence import harmless
from fleet_wire.redaction import redact_all

Level = Literal["summary", "milestone", "affecting", "plan", "role", "story", "constraint", "task", "depended_on"]
"""What a block is when space is short: see `packing.GOES_FIRST`. A decision is `depended_on` or `affecting`."""
Reason = Literal["scope", "budget", "superseded"]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A block before it is known whether there is room for it."""

    kind: str
    source_id: str
    title: str
    text: str
    level: Level

    @property
    def shown(self) -> str:
        """What of it reaches the model, and is counted: the inside of its fence in the prompt."""
        return harmless(inside(self.title, self.text)).strip()


class LeftOut(msgspec.Struct, frozen=True):
    """What the agent does not see, or not whole: `tokens` of it, where that is known; the scope's are not counted. In the place
    of a superseded decision stands the one that `superseded_by` names."""

    source_id: str
    kind: str
    reason: Reason
    tokens: int = 0
    superseded_by: str = ""


def candidates(request: domain.ContextRequest, facts: Facts) -> tuple[list[Candidate], list[LeftOut]]:
    """All blocks that the request's scope allows, in the order of the answer, and what it does not."""
    scope, kinds = request.scope, {*request.scope.kinds}
    found: dict[tuple[str, str], Candidate] = {}
    left_out = [LeftOut(id, "decision", "superseded", 0, by) for id, by in facts.superseded.items()]
    for candidate, tells_of, role in _all(request, facts):
        councils = scope.depends_on if candidate.level == "depended_on" else scope.affects
        if {candidate.kind, tells_of} <= kinds and (not role or role in councils):
            found.setdefault((candidate.kind, candidate.source_id), candidate)
        else:
            left_out.append(LeftOut(candidate.source_id, candidate.kind, "scope"))
    left_out += [LeftOut(id, "decision", "scope") for id in facts.out_of_scope]
    kept_back = [item for item in dict.fromkeys(left_out) if (item.kind, item.source_id) not in found]
    return _redacted(found.values()), kept_back


def _redacted(found: Collection[Candidate]) -> list[Candidate]:
    """The one way from what is known to what is seen, so that no block holds a secret."""
    clean = redact_all([text for candidate in found for text in (candidate.title, candidate.text)])
    return [
        Candidate(candidate.kind, candidate.source_id, title, text, candidate.level)
        for candidate, title, text in zip(found, clean[::2], clean[1::2], strict=True)
    ]


def _all(request: domain.ContextRequest, facts: Facts) -> Iterator[tuple[Candidate, str, str]]:
    """Each block with the kind that it tells of, mostly its own, and the council that the scope must name; empty for any."""
    if facts.task is not None:
        yield _task(facts.task), "task", ""
    yield _story(facts.story), "story", ""
    yield _plan(facts.plan, facts.task), "plan", ""
    for constraint in _oldest_first(facts.constraints):
        text = _joined(_set_by(constraint), constraint.content, _because(constraint))
        yield Candidate("constraint", constraint.decision_id, constraint.title, text, "constraint"), "constraint", ""
    bound = {constraint.decision_id for constraint in facts.constraints}
    for decision in (*_oldest_first(facts.required), *_oldest_first(facts.depended_on)):
        if decision.decision_id not in bound:
            tells_of = "constraint" if decision.decision_id in facts.binding else "decision"
            yield _decision(decision, "depended_on"), tells_of, decision.role
    for decision in reversed(_oldest_first(facts.affecting)):
        yield _decision(decision, "affecting"), "decision", decision.role
    for milestone in facts.milestones:
        text = f"{milestone.at[:16].replace('T', ' ')} {milestone.summary}".strip()
        made = Candidate("milestone", milestone.event_id, "", text, "milestone")
        yield made, *_told(milestone)
    yield _summary(facts), "summary", ""
    title = f"{request.role}, {request.phase}"
    yield Candidate("role", request.role, title, lens(request.role, request.phase), "role"), "role", ""


def told_in(scope: domain.Scope, milestone: domain.Milestone) -> bool:
    """Whether the scope allows an entry of the timeline, and what it tells of."""
    tells_of, role = _told(milestone)
    return {"milestone", tells_of} <= {*scope.kinds} and (not role or role in scope.affects)


def _told(milestone: domain.Milestone) -> tuple[str, str]:
    """The kind that an entry of the timeline tells of, and the council whose decision it is; empty for none. What is of no known
    kind tells of none that a scope could name."""
    tells_of = milestone.tells_of or domain.TELLS_OF.get(milestone.kind, "")
    return tells_of, milestone.role if tells_of == "decision" else ""


def _task(task: domain.Task) -> Candidate:
    text = _joined(task.description, _listed("Requirements", task.requirements), _listed("Acceptance", task.acceptance))
    return Candidate("task", task.key, task.title, text, "task")


def _story(story: domain.Story) -> Candidate:
    text = _joined(story.brief, _listed("Acceptance", story.acceptance))
    return Candidate("story", story.story_id, story.title, text, "story")


def _plan(plan: domain.Plan, task: domain.Task | None) -> Candidate:
    lines = [
        f"{other.task_id} ({other.role}): {other.title}"
        + (f"; after {', '.join(other.needs)}" if other.needs else "")
        + ("; this is the task at hand" if task and other.task_id == task.task_id else "")
        for other in plan.tasks
    ]
    title = f"Plan version {plan.plan_version}, approved by {plan.approved_by}"
    return Candidate("plan", plan.plan_id, title, _listed("Tasks", lines), "plan")


def _decision(decision: Decision, level: Level) -> Candidate:
    by = f"Decided by the {decision.role} council."
    if decision.kind == "override":
        by = f"Decided by {decision.decided_by}, who overruled what was decided before."
    elif decision.kind == "constraint":
        by = _set_by(decision)
    flag = ""
    if decision.relies_on_superseded:
        flag = f"It was decided on what has since been overruled: {', '.join(decision.relies_on_superseded)}."
    text = _joined(by, flag, decision.content, _because(decision))
    return Candidate("decision", decision.decision_id, decision.title, text, level)


def _set_by(constraint: Decision) -> str:
    return f"Set by {constraint.decided_by}."


def _summary(facts: Facts) -> Candidate:
    """The last summary that was written of the story; without one, how far it is. That names no task and no decision: who may not
    see those does not get them here."""
    if written := facts.summary:
        text = f"{written.at[:16].replace('T', ' ')} {written.text}".strip()
        return Candidate("summary", written.event_id, "", text, "summary")
    tasks = facts.plan.tasks
    state = f"The story is in {facts.story.state}. " if facts.story.state else ""
    text = f"{state}{sum(task.decided for task in tasks)} of the {len(tasks)} tasks of its plan are decided."
    return Candidate("summary", facts.plan.plan_id, "", text, "summary")


def _because(decision: Decision) -> str:
    return f"Rationale: {decision.rationale}" if decision.rationale else ""


def _oldest_first(decisions: Iterable[Decision]) -> list[Decision]:
    return sorted(decisions, key=lambda decision: (decision.decided_at, decision.decision_id))


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def _listed(heading: str, items: Sequence[str]) -> str:
    return "\n".join((f"{heading}:", *(f"- {item}" for item in items))) if items else ""
