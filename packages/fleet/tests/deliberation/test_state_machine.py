"""The deliberation's record under any order, repetition and loss of events."""

import datetime as dt

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from fleet.deliberation import state as machine
from fleet.deliberation.outcome import outcome
from fleet.deliberation.state import Deliberation, Seat, advance, due
from fleet_wire.events import AgentResult, DeliberationCompleted, DeliberationFailed, JobError, PlanTask

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
DEADLINE = START + dt.timedelta(seconds=60)
TASK = PlanTask(task_id="t1", title="Parse", description="Parse it", role="DEV", requirements=["parse the file"])
ERROR = JobError(kind="timeout", message="no token in 30 s", retryable=True)


def fresh(agents: int = 3, quorum: int = 2) -> Deliberation:
    return Deliberation(
        deliberation_id="delib-1",
        plan_id="plan-1",
        story_id="story-1",
        phase="build",
        task=TASK,
        number=1,
        protocol="consensus",
        seats=tuple(Seat(agent_id=f"agent-DEV-{n:03d}", job_id=f"job-{n}") for n in range(1, agents + 1)),
        quorum=quorum,
        created_at=START,
        deadline=DEADLINE,
    )


def after(seconds: float) -> dt.datetime:
    return START + dt.timedelta(seconds=seconds)


def running(agents: int = 3, quorum: int = 2) -> Deliberation:
    state = fresh(agents, quorum)
    for event in (machine.Announced(), machine.Scheduled(), machine.Prepared("hash"), machine.Submitted()):
        state = advance(state, event)
    return state


def result(seat: Seat, content: str) -> AgentResult:
    return AgentResult(
        job_id=seat.job_id,
        deliberation_id="delib-1",
        task_id="t1",
        agent_id=seat.agent_id,
        role="DEV",
        phase="propose",
        attempt=1,
        status="completed",
        content=content,
    )


def test_a_new_deliberation_owes_its_announcement_its_timer_and_its_prompt() -> None:
    assert due(fresh()) == ("announce", "schedule", "prepare")


def test_jobs_are_submitted_once_the_prompt_is_frozen() -> None:
    assert "submit" in due(advance(fresh(), machine.Prepared("hash")))


def test_a_frozen_prompt_is_never_replaced() -> None:
    state = advance(advance(fresh(), machine.Prepared("first")), machine.Prepared("second"))
    assert state.prompt_hash == "first"


def test_nothing_is_due_while_the_agents_work() -> None:
    assert due(running()) == ()


def test_every_seat_ended_closes_it() -> None:
    state = running()
    for number in (1, 2, 3):
        state = advance(state, machine.SeatEnded(f"job-{number}", None, after(number)))
    assert (state.status, state.closed_by, state.closed_at) == ("deciding", "all_ended", after(3))


def test_a_duplicate_answer_is_no_further_agent() -> None:
    state = running()
    for _ in range(5):
        state = advance(state, machine.SeatEnded("job-1", None, after(1)))
    assert state.status == "running"
    assert len(machine.counted(state)) == 1


def test_a_result_that_overtakes_the_executors_answer_is_counted() -> None:
    state = advance(fresh(), machine.Prepared("hash"))
    for number in (1, 2, 3):
        state = advance(state, machine.SeatEnded(f"job-{number}", None, after(number)))
    assert state.status == "deciding"
    assert advance(state, machine.Submitted()).status == "deciding"


def test_looking_at_the_clock_before_the_deadline_changes_nothing() -> None:
    state = running()
    assert advance(state, machine.DeadlinePassed(DEADLINE - dt.timedelta(milliseconds=1))) == state


def test_at_the_deadline_a_quorum_decides_without_the_missing() -> None:
    state = running()
    for number in (1, 2):
        state = advance(state, machine.SeatEnded(f"job-{number}", None, after(1)))
    state = advance(state, machine.DeadlinePassed(DEADLINE))
    event = outcome(state, {seat.job_id: result(seat, f"answer {seat.agent_id}") for seat in state.seats})
    assert isinstance(event, DeliberationCompleted)
    assert [missing.agent_id for missing in event.missing] == ["agent-DEV-003"]
    assert len(event.ranking) == 2


def test_below_the_quorum_the_deadline_is_a_failure_and_says_so() -> None:
    state = advance(running(), machine.SeatEnded("job-1", None, after(1)))
    state = advance(state, machine.DeadlinePassed(DEADLINE))
    event = outcome(state, {"job-1": result(state.seats[0], "alone")})
    assert isinstance(event, DeliberationFailed)
    assert event.reason == "deadline"
    assert [agent.state for agent in event.agents] == ["completed", "running", "running"]


def test_all_failed_is_quorum_missed_with_each_agents_error() -> None:
    state = running()
    for number in (1, 2, 3):
        state = advance(state, machine.SeatEnded(f"job-{number}", ERROR, after(1)))
    event = outcome(state, {})
    assert isinstance(event, DeliberationFailed)
    assert event.reason == "quorum_missed"
    assert all(agent.error == ERROR for agent in event.agents)


def test_an_answer_after_closing_is_not_counted() -> None:
    state = advance(running(), machine.DeadlinePassed(DEADLINE))
    assert advance(state, machine.SeatEnded("job-1", None, after(61))) == state


def test_what_was_not_confirmed_stays_due_while_the_agents_work() -> None:
    state = advance(advance(fresh(), machine.Prepared("hash")), machine.Submitted())
    assert state.status == "running"
    assert due(state) == ("announce", "schedule")


def test_failures_that_come_with_the_deadline_fail_by_the_deadline() -> None:
    state = running()
    for number in (1, 2, 3):
        state = advance(state, machine.SeatEnded(f"job-{number}", ERROR, DEADLINE))
    event = outcome(state, {})
    assert isinstance(event, DeliberationFailed)
    assert event.reason == "deadline"


def test_counted_results_that_nobody_has_any_more_are_a_failure_that_says_so() -> None:
    state = running()
    for number in (1, 2, 3):
        state = advance(state, machine.SeatEnded(f"job-{number}", None, after(1)))
    event = outcome(state, {"job-1": result(state.seats[0], "kept")})
    assert isinstance(event, DeliberationFailed)
    assert event.reason == "error"
    assert "agent-DEV-002, agent-DEV-003" in event.detail


def test_what_is_kept_of_an_ended_deliberation_is_small() -> None:
    state = advance(advance(running(), machine.DeadlinePassed(DEADLINE)), machine.OutcomePublished("", "deadline"))
    kept = advance(advance(state, machine.Reported()), machine.Retired())
    assert (kept.task.title, kept.task.description, kept.task.requirements) == ("Parse", "", [])


def test_a_lost_submission_is_due_again() -> None:
    assert due(advance(running(), machine.SubmissionLost())) == ("submit",)


def test_the_end_is_reported_and_retired_once_each() -> None:
    state = advance(advance(running(), machine.DeadlinePassed(DEADLINE)), machine.OutcomePublished("", "deadline"))
    assert due(state) == ("report",)
    state = advance(state, machine.Reported())
    assert due(state) == ("retire",)
    assert due(advance(state, machine.Retired())) == ()


def test_a_deliberation_of_no_plan_reports_to_none() -> None:
    state = msgspec.structs.replace(running(), plan_id="")
    state = advance(advance(state, machine.DeadlinePassed(DEADLINE)), machine.OutcomePublished("", "deadline"))
    assert due(state) == ("retire",)


EVENTS = st.one_of(
    st.just(machine.Announced()),
    st.just(machine.Scheduled()),
    st.just(machine.Prepared("hash")),
    st.just(machine.Submitted()),
    st.just(machine.SubmissionLost()),
    st.builds(
        machine.SeatEnded,
        st.sampled_from(["job-1", "job-2", "job-3", "job-unknown"]),
        st.sampled_from([None, ERROR]),
        st.integers(0, 120).map(after),
    ),
    st.builds(machine.DeadlinePassed, st.integers(0, 120).map(after)),
    st.builds(machine.Broke, st.just("prompt is gone"), st.integers(0, 120).map(after)),
)


def finish(state: Deliberation) -> tuple[Deliberation, DeliberationCompleted | DeliberationFailed]:
    """Closes what is open at the deadline and decides."""
    state = advance(state, machine.DeadlinePassed(DEADLINE + dt.timedelta(seconds=1)))
    results = {seat.job_id: result(seat, f"the answer of {seat.agent_id} parses the file") for seat in state.seats}
    event = outcome(state, results)
    if isinstance(event, DeliberationCompleted):
        return advance(state, machine.OutcomePublished(event.decision_id, None)), event
    return advance(state, machine.OutcomePublished("", event.reason)), event


@given(st.lists(EVENTS, max_size=30))
def test_any_history_ends_in_one_terminal_state_and_counts_nobody_twice(
    history: list[machine.DeliberationEvent],
) -> None:
    state = fresh()
    for event in history:
        state = advance(state, event)
    ended, final = finish(state)
    assert ended.status in machine.ENDED
    if isinstance(final, DeliberationCompleted):
        agents = [one.agent_id for one in final.ranking]
        assert len(agents) == len(set(agents)) >= ended.quorum
    for event in history:
        assert advance(ended, event).status == ended.status


@given(st.lists(EVENTS, max_size=30), st.data())
def test_repeating_any_prefix_changes_nothing_that_is_due(
    history: list[machine.DeliberationEvent], data: st.DataObject
) -> None:
    """A crash after any event, and everything before it delivered once more, leaves the same due but for lost submissions."""
    state = fresh()
    seen: list[machine.DeliberationEvent] = []
    for event in history:
        if isinstance(event, machine.SubmissionLost):
            continue
        state = advance(state, event)
        seen.append(event)
        repeated = advance(state, data.draw(st.sampled_from(seen)))
        if not isinstance(event, machine.DeadlinePassed | machine.Broke) and state.status != "deciding":
            assert set(due(repeated)) <= {*due(state), "decide"}


@given(st.permutations([1, 2, 3]), st.integers(0, 3))
def test_the_same_accepted_set_decides_the_same_in_any_order(order: list[int], repeated: int) -> None:
    expected = running()
    for number in (1, 2, 3):
        expected = advance(expected, machine.SeatEnded(f"job-{number}", None, after(5)))
    state = running()
    for number in [*order, *order[:repeated]]:
        state = advance(state, machine.SeatEnded(f"job-{number}", None, after(5)))
    assert finish(state)[1] == finish(expected)[1]
