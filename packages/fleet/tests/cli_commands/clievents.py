"""Events of one small plan, for the tests that publish them."""

import datetime as dt

from fleet_wire import events, ids

NOW = dt.datetime.now(dt.timezone.utc)
AGENTS = ["agent-DEV-001", "agent-DEV-002"]


def started(deliberation: str, plan: str = "") -> events.DeliberationStarted:
    return events.DeliberationStarted(
        deliberation_id=deliberation,
        task_id="one",
        plan_id=plan,
        story_id="",
        role="DEV",
        protocol="tournament",
        agents=AGENTS,
        deadline=NOW,
    )


def chunk(deliberation: str, seq: int, text: str) -> events.TokenChunk:
    return events.TokenChunk(
        deliberation_id=deliberation, agent_id=AGENTS[0], job_id=f"job-{deliberation}", attempt=1, seq=seq, text=text
    )


def completed(deliberation: str, plan: str = "") -> events.DeliberationCompleted:
    return events.DeliberationCompleted(
        deliberation_id=deliberation,
        task_id="one",
        plan_id=plan,
        story_id="",
        decision_id=ids.decision_id(deliberation),
        role="DEV",
        protocol="tournament",
        winner=AGENTS[0],
        decision=events.DecisionText(title="The way", content="def way(): pass\x1b[2J", rationale="most agreed"),
        ranking=[events.Ranked(agent_id=AGENTS[0], rank=1, score=1.5, checks=[], content="def way(): pass")],
        margin=0.25,
        dissent=[events.Dissent(agent_id=AGENTS[1], content="not this way")],
        duration_seconds=1,
        decided_at=NOW,
    )


def failed(deliberation: str, plan: str = "") -> events.DeliberationFailed:
    return events.DeliberationFailed(
        deliberation_id=deliberation,
        task_id="one",
        plan_id=plan,
        story_id="",
        role="DEV",
        reason="quorum_missed",
        detail="0 of 2 answered",
        duration_seconds=1,
        failed_at=NOW,
    )


def updated(deliberation: str, plan: str = "") -> events.ContextUpdated:
    return events.ContextUpdated(
        story_id="", plan_id=plan, deliberation_id=deliberation, changed=["x"], version=1, hash=f"hash-{deliberation}"
    )


def plan_completed(plan: str) -> events.PlanCompleted:
    return events.PlanCompleted(plan_id=plan, story_id="s", decided=["one"])
