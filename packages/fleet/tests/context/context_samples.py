"""Events as the memory gets them, with what a test does not care about filled in."""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Any

from fleet.context import domain, projection, scopes
from fleet.context.rulings import Ruling
from fleet_wire import events, ids
from fleet_wire.errors import Unavailable

SCOPES = scopes.load()
NOW = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.timezone.utc)


def arriving(event: Any, born: str = "b") -> projection.Arriving:
    return projection.arriving(event, event.story_id, born, NOW)


def story_created(story_id: str, **changes: Any) -> events.StoryCreated:
    return events.StoryCreated(**{"story_id": story_id, "title": "Login", "brief": "Users log in.", **changes})


def transitioned(story_id: str, version: int, to: str) -> events.StoryTransitioned:
    return events.StoryTransitioned(
        story_id=story_id,
        from_state="BACKLOG",
        to_state=to,
        actor="ada",
        version=version,
        event="start_draft",
        transitioned_at=NOW,
    )


def task(task_id: str, **changes: Any) -> events.PlanTask:
    return events.PlanTask(
        **{
            "task_id": task_id,
            "title": f"Title of {task_id}",
            "description": f"Description of {task_id}.",
            "role": "DEV",
            "requirements": ["hash passwords"],
            "acceptance": ["tests pass"],
            **changes,
        }
    )


def plan_approved(story_id: str, plan_id: str, tasks: list[events.PlanTask], **changes: Any) -> events.PlanApproved:
    story = events.StoryText(title="Login", brief="Users log in with a password.", acceptance=["they can log in"])
    return events.PlanApproved(
        **{
            "story_id": story_id,
            "story": story,
            "plan_id": plan_id,
            "plan_version": 1,
            "approved_by": "ada",
            "approved_at": NOW,
            "tasks": tasks,
            **changes,
        }
    )


def failed(story_id: str, plan_id: str, task_id: str, **changes: Any) -> events.DeliberationFailed:
    return events.DeliberationFailed(
        **{
            "deliberation_id": ids.deliberation_id(plan_id or "adhoc", task_id, 1),
            "task_id": task_id,
            "plan_id": plan_id,
            "story_id": story_id,
            "role": "DEV",
            "reason": "quorum_missed",
            "duration_seconds": 2.5,
            "failed_at": NOW,
            **changes,
        }
    )


def plan_completed(story_id: str, plan_id: str, decided: list[str], **changes: Any) -> events.PlanCompleted:
    return events.PlanCompleted(**{"plan_id": plan_id, "story_id": story_id, "decided": decided, **changes})


def completed(
    story_id: str, plan_id: str, task_id: str, role: str = "DEV", minute: int = 0, number: int = 1, **changes: Any
) -> events.DeliberationCompleted:
    *earlier, deliberation = [ids.deliberation_id(plan_id or "adhoc", task_id, one) for one in range(1, number + 1)]
    winner, other = ids.agent_id(role, 1), ids.agent_id(role, 2)
    passed = events.Check(name="present", status="passed", score=1.0)
    unrun = events.Check(name="code", status="not_run", detail="no code")
    return events.DeliberationCompleted(
        **{
            "deliberation_id": deliberation,
            "task_id": task_id,
            "plan_id": plan_id,
            "story_id": story_id,
            "decision_id": ids.decision_id(deliberation),
            "role": role,
            "protocol": "tournament",
            "winner": winner,
            "decision": events.DecisionText(
                title=f"Decision on {task_id}", content=f"Do {task_id} with Argon2.", rationale="Best checks."
            ),
            "ranking": [
                events.Ranked(
                    agent_id=winner, rank=1, score=0.9, checks=[passed, unrun], content="Argon2", revised=True
                ),
                events.Ranked(agent_id=other, rank=2, score=0.4, checks=[passed], content="bcrypt", content_cut=True),
            ],
            "margin": 0.5,
            "numbers": {"finalists": 4},
            "chosen_because": "an open task",
            "verdicts": 2,
            "flips": 1,
            "skipped": [events.SkippedPhase(phase="rerun", reason="no sandbox")],
            "calls": 5,
            "usage": events.Usage(prompt=90, completion=10),
            "dissent": [events.Dissent(agent_id=other, content="bcrypt is older", argument="it is everywhere")],
            "supersedes": [ids.decision_id(one) for one in earlier],
            "missing": [events.MissingAgent(agent_id=ids.agent_id(role, 3), reason="timeout")],
            "duration_seconds": 1.5,
            "decided_at": NOW + dt.timedelta(minutes=minute),
            **changes,
        }
    )


def asked(
    story_id: str, plan_id: str, task_id: str, role: str, phase: str, token_budget: int, required: list[str]
) -> domain.ContextRequest:
    """A valid request, under the policy of scopes that is shipped."""
    return domain.checked(story_id, plan_id, task_id, role, phase, token_budget, required, SCOPES)


def override(ruling_id: str, decision_id: str, **changes: Any) -> Ruling:
    return Ruling(
        **{
            "ruling_id": ruling_id,
            "kind": "override",
            "by": "ada",
            "reason": "The audit says so.",
            "at": NOW + dt.timedelta(hours=1),
            "decision_id": decision_id,
            "title": "Use bcrypt",
            "content": "bcrypt, cost 12",
            **changes,
        }
    )


def constraint(ruling_id: str, story_id: str, plan_id: str = "", task_id: str = "", **changes: Any) -> Ruling:
    return Ruling(
        **{
            "ruling_id": ruling_id,
            "kind": "constraint",
            "by": "ada",
            "reason": "The release is near.",
            "at": NOW + dt.timedelta(hours=1),
            "story_id": story_id,
            "plan_id": plan_id,
            "task_id": task_id,
            "title": "No new tables",
            "content": "The schema is frozen.",
            **changes,
        }
    )


def affects(ruling_id: str, decision_id: str, story_id: str) -> Ruling:
    at = NOW + dt.timedelta(hours=1)
    return Ruling(ruling_id, "affects", "ada", "They share the store.", at, decision_id, story_id)


async def patiently(write: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
    """As a consumer does, where other writers were quicker too often."""
    while True:
        try:
            await write(*arguments)
            return
        except Unavailable:
            await asyncio.sleep(0.05)
