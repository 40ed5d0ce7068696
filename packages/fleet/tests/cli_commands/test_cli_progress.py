"""The demo's observer: nothing counts that was not observed."""

import datetime as dt
import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.cli import progress
from fleet.cli.progress import Explained, Jobs, Observation, Progress, Shown
from fleet.steps import STEPS, JobSeen, steps_of_jobs
from fleet_wire import events, ids

ZERO = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)
PLAN = "plan-1"
DELIBERATION = ids.deliberation_id(PLAN, "one", 1)
DECISION = ids.decision_id(DELIBERATION)
AGENTS = ["agent-DEV-001", "agent-DEV-002", "agent-DEV-003"]


def at(seconds: float) -> dt.datetime:
    return ZERO + dt.timedelta(seconds=seconds)


def begun() -> Progress:
    return progress.begin(PLAN, [("one", "One", "DEV", [])])


def approved(plan_id: str = PLAN) -> events.PlanApproved:
    task = events.PlanTask(task_id="one", title="One", description="d", role="DEV")
    story = events.StoryText(title="t", brief="b")
    return events.PlanApproved(
        story_id="s", story=story, plan_id=plan_id, plan_version=1, approved_by="x", approved_at=ZERO, tasks=[task]
    )


def started() -> events.DeliberationStarted:
    return events.DeliberationStarted(
        deliberation_id=DELIBERATION,
        task_id="one",
        plan_id=PLAN,
        story_id="s",
        role="DEV",
        protocol="p",
        agents=AGENTS,
        deadline=at(60),
    )


def result(agent: str, status: str = "completed") -> events.AgentResult:
    return events.AgentResult(
        job_id="job-1",
        deliberation_id=DELIBERATION,
        task_id="one",
        agent_id=agent,
        role="DEV",
        phase="propose",
        attempt=1,
        status=status,  # type: ignore[arg-type]
    )


def completed() -> events.DeliberationCompleted:
    ranked = events.Ranked(agent_id=AGENTS[1], rank=1, score=0.75, checks=[], content="c")
    return events.DeliberationCompleted(
        deliberation_id=DELIBERATION,
        task_id="one",
        plan_id=PLAN,
        story_id="s",
        decision_id=DECISION,
        role="DEV",
        protocol="p",
        winner=AGENTS[1],
        decision=events.DecisionText(title="t", content="c", rationale="r"),
        ranking=[ranked],
        margin=0.1,
        duration_seconds=3,
        decided_at=at(4),
    )


def updated(deliberation_id: str = DELIBERATION) -> events.ContextUpdated:
    return events.ContextUpdated(
        story_id="s", plan_id=PLAN, deliberation_id=deliberation_id, changed=[DECISION], version=2, hash="h"
    )


def jobs(agents: list[str] = AGENTS, actor: str = "VLLMAgentJob-1", accepted: bool = True) -> Jobs:
    return Jobs(DELIBERATION, [JobSeen(agent, at(1.5) if accepted else None, actor) for agent in agents])


WHOLE: list[Observation] = [
    approved(),
    started(),
    jobs(),
    result(AGENTS[0]),
    completed(),
    updated(),
    Shown(DELIBERATION, DECISION),
    Explained(DELIBERATION, DECISION, "c"),
]


def observed(observations: list[Observation]) -> Progress:
    state = begun()
    for index, seen in enumerate(observations):
        state = progress.observe(state, seen, at(index))
    return state


def test_the_whole_way_is_complete_with_times_since_approval() -> None:
    state = observed(WHOLE)
    assert state.complete and state.settled and progress.missing(state) == []
    [task] = state.tasks
    assert (task.decision_id, task.winner, task.score) == (DECISION, AGENTS[1], 0.75)
    seconds = {step.name: row[0] for step, row in progress.steps_table(state)}
    assert seconds == {
        "approved": 0,
        "started": 1,
        "submitted": 1.5,
        "running": 1.5,
        "answered": 3,
        "decided": 4,
        "remembered": 5,
        "shown": 6,
    }


@pytest.mark.parametrize(
    ("left_out", "step"),
    [
        (approved(), "approved"),
        (result(AGENTS[0]), "answered"),
        (updated(), "remembered"),
        (Shown(DELIBERATION, DECISION), "shown"),
        (Explained(DELIBERATION, DECISION, "c"), "remembered"),
        (jobs(), "submitted"),
        (started(), "started"),
        (completed(), "decided"),
    ],
)
def test_what_was_not_observed_is_named_though_all_else_was(left_out: Observation, step: str) -> None:
    state = observed([seen for seen in WHOLE if seen != left_out])
    assert not state.complete
    [lack] = progress.missing(state)
    assert (lack.task_id, lack.step.name) == ("one", step)


@given(st.permutations(WHOLE))
def test_no_order_of_events_invents_a_step(order: list[Observation]) -> None:
    """Answers that only have a point after an event are asked again, so here they come once more at the end."""
    state = observed([*order, *WHOLE[2:3], *WHOLE[6:]])
    assert state.complete


@given(st.lists(st.sampled_from(WHOLE)))
def test_repetitions_change_nothing(observations: list[Observation]) -> None:
    once = observed(observations)
    state = once
    for seen in observations:
        if not isinstance(seen, (Jobs, Shown, Explained)):
            state = progress.observe(state, seen, at(1000))
    assert state == once


def test_submitted_and_running_need_every_seat() -> None:
    short = observed([approved(), started(), jobs(AGENTS[:2])])
    assert not {"submitted", "running"} & set(short.tasks[0].times)
    without_actor = observed([approved(), started(), jobs(actor="")])
    assert "submitted" in without_actor.tasks[0].times and "running" not in without_actor.tasks[0].times
    not_accepted = observed([approved(), started(), jobs(accepted=False)])
    assert "submitted" not in not_accepted.tasks[0].times


def test_jobs_are_submitted_when_the_first_one_of_the_last_seat_was_accepted() -> None:
    seats = ["a", "b"]
    first = [JobSeen("a", at(1), "actor-1"), JobSeen("b", at(3), "")]
    assert steps_of_jobs(first, seats) == {"submitted": at(3)}
    again = [*first, JobSeen("b", at(9), "actor-2"), JobSeen("a", at(8), ""), JobSeen("other", None, "")]
    assert steps_of_jobs(again, seats) == {"submitted": at(3), "running": at(3)}
    assert steps_of_jobs(first, []) == {}


def test_failed_results_and_tokens_are_no_answer() -> None:
    chunk = events.TokenChunk(
        deliberation_id=DELIBERATION, agent_id=AGENTS[0], job_id="j", attempt=1, seq=0, text="hello"
    )
    state = observed([approved(), started(), chunk, result(AGENTS[0], "failed")])
    assert "answered" not in state.tasks[0].times
    assert state.tasks[0].ended == {AGENTS[0]}
    assert state.first_token_at == at(2)


def test_a_page_without_the_decision_does_not_show_it() -> None:
    assert "shown" not in observed([*WHOLE[:5], Shown(DELIBERATION, "")]).tasks[0].times
    assert "shown" not in observed([*WHOLE[:5], Shown(DELIBERATION, "dec-other")]).tasks[0].times
    assert "shown" not in observed([Shown(DELIBERATION, "")]).tasks[0].times


def test_an_update_of_the_plan_alone_is_not_remembered() -> None:
    assert "remembered" not in observed([approved(), updated("")]).tasks[0].times


def test_a_failed_deliberation_settles_and_says_why() -> None:
    failed = events.DeliberationFailed(
        deliberation_id=DELIBERATION,
        task_id="one",
        plan_id=PLAN,
        story_id="s",
        role="DEV",
        reason="quorum_missed",
        duration_seconds=1,
        failed_at=at(1),
        agents=[
            events.SeatReport(
                agent_id=AGENTS[0],
                state="failed",
                error=events.JobError(kind="unreachable", message="no model", retryable=True),
            ),
            events.SeatReport(agent_id=AGENTS[1], state="completed"),
        ],
    )
    state = observed([approved(), started(), failed])
    assert state.settled and not state.complete
    [lack] = progress.missing(state)
    assert lack.why == "failed: quorum_missed; agent-DEV-001 failed (unreachable: no model)"


def test_a_skipped_task_settles_and_says_why() -> None:
    closed = events.PlanCompleted(
        plan_id=PLAN, story_id="s", decided=[], skipped=[events.FailedTask(task_id="one", reason="zero failed")]
    )
    state = observed([approved(), closed])
    assert state.settled and state.tasks[0].failure == "skipped: zero failed"
    assert not observed([approved(), events.PlanCompleted(plan_id="other", story_id="s", decided=[])]).settled


def test_what_belongs_to_others_changes_nothing() -> None:
    state = begun()
    others: list[Observation] = [
        approved("plan-2"),
        Shown("delib-other", DECISION),
        Explained("delib-other", DECISION, ""),
        Jobs("delib-other", []),
        updated("delib-other"),
    ]
    assert all(progress.observe(state, seen, at(1)) == state for seen in others)


def test_the_steps_are_judged_per_task() -> None:
    state = progress.begin(PLAN, [("one", "One", "DEV", []), ("two", "Two", "QA", ["one"])])
    for seen, second in zip(WHOLE, itertools.count(), strict=False):
        state = progress.observe(state, seen, at(second))
    assert state.tasks[0].complete and not state.tasks[1].complete
    assert [lack.task_id for lack in progress.missing(state)] == ["two"]
    assert len(progress.steps_table(state)) == len(STEPS)


def test_a_task_that_was_not_started_names_what_it_waits_for() -> None:
    state = progress.begin(PLAN, [("one", "One", "DEV", []), ("two", "Two", "QA", ["one"])])
    task = events.PlanTask(task_id="two", title="Two", description="d", role="QA")
    state = progress.observe(state, msgspec.structs.replace(approved(), tasks=[*approved().tasks, task]), at(0))
    assert [lack.why for lack in progress.missing(state)][1] == "it waits for one"


def test_only_seats_that_are_asked_to_propose_are_waited_for() -> None:
    asked = msgspec.structs.replace(started(), protocol="vote", numbers={"agents": 2.0})
    [task] = observed([approved(), asked, jobs(AGENTS[:2])]).tasks
    assert task.seats == tuple(AGENTS[:2]) and "submitted" in task.times


def test_jobs_of_later_phases_are_counted_by_phase_and_not_as_proposals() -> None:
    later = [msgspec.structs.replace(result(AGENTS[0]), phase="judge", job_id=f"job-{n}") for n in (2, 3, 3)]
    [task] = observed([approved(), started(), result(AGENTS[0]), *later]).tasks
    assert task.ended == {AGENTS[0]}
    assert task.later == {"judge": {"job-2", "job-3"}}
