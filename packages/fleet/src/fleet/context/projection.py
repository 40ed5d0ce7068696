"""What an event says, as the graph's statements take it. Pure: an event and the state of its story in, rows out.

Who sees that something happened, and what: `summary` is the line of the story's timeline.
"""

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import Any

import msgspec

from fleet.context import domain
from fleet.deliberation.plan_rules import tasks_of
from fleet_wire import events
from fleet_wire.errors import Invalid
from fleet_wire.fingerprint import fingerprint
from fleet_wire.redaction import redact

SUMMARY_CHARS = 160

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Arriving:
    """An event to be recorded, under its message id and with the fingerprint of its content. `story_id` is empty where it
    belongs to none, `born` marks the story's node if this makes it, `milestone` is what the timeline shows of it."""

    event: events.Event
    name: str
    fingerprint: str
    story_id: str
    born: str
    milestone: Row

    @property
    def turn(self) -> str:
        """Events with the same turn are written one after the other: only the first to commit wins, the others begin again."""
        return self.story_id or self.name


def arriving(event: events.Event, story_id: str, born: str, now: dt.datetime) -> Arriving:
    """An event to be recorded; `now` is its time where it does not say one. Its fingerprint is of what came, whatever
    `summary` takes out of it."""
    milestone = {
        "kind": event.TYPE,
        "story_id": story_id,
        "plan_id": getattr(event, "plan_id", ""),
        "role": getattr(event, "role", ""),
        "at": stamp(_happened(event) or now),
        "summary": summary(event),
    }
    return Arriving(event, event.message_id(), fingerprint(event), story_id, born, milestone)


@dataclasses.dataclass(frozen=True)
class Writing:
    """What an event says, as the statements take it."""

    story: Row = dataclasses.field(default_factory=dict)
    plans: tuple[Row, ...] = ()
    decision: Row | None = None
    proposals: tuple[Row, ...] = ()
    bases: tuple[Row, ...] = ()
    supersedes: tuple[Row, ...] = ()


def stamp(moment: dt.datetime) -> str:
    """A moment as stored: UTC with microseconds, so that the order of the texts is the order in time."""
    return moment.astimezone(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def summary(event: events.Event) -> str:
    """An event in one line of at most SUMMARY_CHARS characters, without secrets."""
    tail = ""
    match event:
        case events.StoryCreated():
            text = f"story created: {event.title}"
        case events.StoryTransitioned():
            text = f"{event.from_state} to {event.to_state} by {event.actor}" + (event.reason and f": {event.reason}")
        case events.PlanApproved():
            text = f"plan {event.plan_id} version {event.plan_version} approved by {event.approved_by}"
        case events.DeliberationCompleted():
            text, tail = f"{event.role} council decided {event.decision.title}", f" ({event.decision_id})"
        case events.DeliberationFailed():
            text = f"{event.role} council decided nothing on {event.task_id}: {event.reason}"
        case events.PlanCompleted():
            counts = ((len(event.decided), "decided"), (len(event.failed), "failed"), (len(event.skipped), "skipped"))
            text = f"plan {event.plan_id} completed: {', '.join(f'{count} {word}' for count, word in counts if count)}"
        case _:
            raise Invalid(f"{event.TYPE} is nothing that the memory records")
    return line(text, tail)


def line(text: str, tail: str = "") -> str:
    """A text as one line of the timeline that ends in `tail`: redacted first, so that the cut leaves no part of a secret that
    nobody knows."""
    words, room = " ".join(redact(text).split()), SUMMARY_CHARS - len(tail)
    return (words if len(words) <= room else f"{words[: room - 1]}…") + tail


def writing(event: events.Event, story: Row) -> Writing:
    """What the event says; `story` is the state its story is in."""
    match event:
        case events.StoryCreated():
            return Writing(_text(story, 0, "", {"title": event.title, "brief": event.brief}))
        case events.StoryTransitioned():
            if story["state_version"] is not None and event.version <= story["state_version"]:
                return Writing()
            return Writing({"state": event.to_state, "state_version": event.version, "state_actor": event.actor})
        case events.PlanApproved():
            text = _text(story, event.plan_version, event.plan_id, msgspec.to_builtins(event.story))
            return Writing(text, plans=(_plan(event),))
        case events.DeliberationCompleted():
            return Writing(
                decision=_decision(event),
                proposals=_proposals(event),
                bases=_bases(event),
                supersedes=_supersedes(event),
            )
        case _:
            return Writing()


def _happened(event: events.Event) -> dt.datetime | None:
    for field in ("decided_at", "failed_at", "approved_at", "transitioned_at"):
        if moment := getattr(event, field, None):
            return moment  # type: ignore[no-any-return]
    return None


def _text(story: Row, version: int, plan_id: str, values: Row) -> Row:
    """The story's text: that of its newest plan, whatever came first."""
    if story["text_version"] is not None and (version, plan_id) <= (story["text_version"], story["text_plan"]):
        return {}
    return {**values, "text_version": version, "text_plan": plan_id}


def _plan(event: events.PlanApproved) -> Row:
    plan = event.plan_id
    values = {
        "plan_version": event.plan_version,
        "approved_by": event.approved_by,
        "approved_at": stamp(event.approved_at),
    }
    tasks = [
        {
            "key": domain.task_key(plan, task.task_id),
            "values": {
                "plan_id": plan,
                "task_id": task.task_id,
                "place": place,
                "title": task.title,
                "description": task.description,
                "role": task.role,
                "requirements": task.requirements,
                "acceptance": task.acceptance,
                "protocol": task.protocol,
            },
        }
        for place, task in enumerate(tasks_of(event))
    ]
    edges = [
        {"task": domain.task_key(plan, task.task_id), "other": domain.task_key(plan, other)}
        for task in tasks_of(event)
        for other in task.depends_on
    ]
    return {"story_id": event.story_id, "plan_id": plan, "values": values, "tasks": tasks, "edges": edges}


def _decision(event: events.DeliberationCompleted) -> Row:
    """The decision, its deliberation, and the plan and task that they belong to by their ids; the plan's own event says the
    rest of these."""
    text = event.decision
    belongs = {"story_id": event.story_id, "plan_id": event.plan_id, "task_id": event.task_id, "role": event.role}
    deliberation = {
        **belongs,
        "protocol": event.protocol,
        "decided_at": stamp(event.decided_at),
        "duration_seconds": event.duration_seconds,
        "prompt_tokens": event.usage.prompt,
        "completion_tokens": event.usage.completion,
        "cached_tokens": event.usage.cached,
        "missing": domain.as_json(event.missing),
        "how": domain.as_json(domain.how(event)),
    }
    decision = {
        **belongs,
        "deliberation_id": event.deliberation_id,
        "kind": "council",
        "protocol": event.protocol,
        "winner": event.winner,
        "title": text.title,
        "content": text.content,
        "rationale": text.rationale,
        "words": domain.searched(f"{text.title}\n{text.content}"),
        "score": next(entry.score for entry in event.ranking if entry.agent_id == event.winner),
        "margin": event.margin,
        "decided_at": stamp(event.decided_at),
    }
    return {
        "deliberation_id": event.deliberation_id,
        "decision_id": event.decision_id,
        "deliberation": deliberation,
        "decision": decision,
        "story_id": event.story_id,
        "plan_id": event.plan_id,
        "task_id": event.task_id,
        "task": domain.task_key(event.plan_id, event.task_id),
    }


def _proposals(event: events.DeliberationCompleted) -> tuple[Row, ...]:
    dissent = {entry.agent_id: entry for entry in event.dissent}
    return tuple(
        {
            "agent_id": entry.agent_id,
            "key": domain.proposal_key(event.deliberation_id, entry.agent_id),
            "values": {
                "deliberation_id": event.deliberation_id,
                "agent_id": entry.agent_id,
                "rank": entry.rank,
                "score": entry.score,
                "content": entry.content,
                "content_cut": entry.content_cut,
                "revised": entry.revised,
            },
            "checks": _checks(event, entry),
            "supports": [event.decision_id] if entry.agent_id == event.winner else [],
            "dissents": [
                {"decision_id": event.decision_id, "content": said.content, "argument": said.argument}
                for said in (dissent.get(entry.agent_id),)
                if said
            ],
        }
        for entry in event.ranking
    )


def _checks(event: events.DeliberationCompleted, entry: events.Ranked) -> list[Row]:
    return [
        {
            "key": domain.check_key(event.deliberation_id, entry.agent_id, check.name),
            "place": place,
            "name": check.name,
            "status": check.status,
            "score": check.score,
            "detail": check.detail,
        }
        for place, check in enumerate({check.name: check for check in entry.checks}.values())
    ]


def _bases(event: events.DeliberationCompleted) -> tuple[Row, ...]:
    return tuple({"decision_id": event.decision_id, "base": base} for base in dict.fromkeys(event.based_on))


def _supersedes(event: events.DeliberationCompleted) -> tuple[Row, ...]:
    """`number` is the try that this is of."""
    earlier = list(dict.fromkeys(event.supersedes))
    return tuple({"decision_id": event.decision_id, "old": old, "number": len(earlier) + 1} for old in earlier)
