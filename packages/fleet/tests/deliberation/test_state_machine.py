"""The record's moves, one at a time; what any history does to them is in test_any_history.py."""

import msgspec
from delibkit import DEADLINE, ERROR, after, fresh, prepared

from fleet.deliberation import state as machine
from fleet.deliberation.state import Deliberation, Job, advance, due, needed, spent


def job(number: int, phase: machine.Phase = "propose") -> Job:
    agent = f"agent-DEV-{number:03d}"
    return Job(job_id=f"job-{phase}-{number}", agent_id=agent, phase=phase, tokens=100, calls=1)


def opened(phase: machine.Phase = "propose", after_phase: str = "", seats: int = 3) -> machine.PhaseOpened:
    jobs = tuple(job(number, phase) for number in range(1, seats + 1))
    return machine.PhaseOpened(after=after_phase, phase=phase, jobs=jobs, until=DEADLINE)


def running(seats: int = 3, quorum: int = 2) -> Deliberation:
    state = advance(prepared(fresh(seats, quorum), "vote"), opened(seats=seats))
    return advance(state, machine.Submitted("propose"))


def ended(number: int, phase: str = "propose", seconds: float = 1, failed: bool = False) -> machine.JobEnded:
    job_id = f"job-{phase}-{number}"
    return machine.JobEnded(job_id=job_id, error=ERROR if failed else None, at=after(seconds), tokens=7, calls=1)


def test_a_new_deliberation_owes_its_timer_and_its_prompt() -> None:
    assert due(fresh()) == ("schedule", "prepare")


def test_once_the_protocol_is_chosen_it_is_announced_and_its_first_phase_opened() -> None:
    state = prepared(fresh(), "vote")
    assert due(msgspec.structs.replace(state, announced=False)) == ("announce", "turn")


def test_a_frozen_prompt_is_never_replaced_nor_the_protocol_chosen_again() -> None:
    second = machine.Prepared(prompt_hash="second", protocol="single", numbers={}, chosen_because="")
    state = advance(prepared(fresh(), "vote"), second)
    assert (state.prompt_hash, state.protocol) == ("hash", "vote")


def test_no_phase_opens_before_the_protocol_is_chosen() -> None:
    assert advance(fresh(), opened()) == fresh()
    assert advance(fresh(), machine.PhasesDone(after="", at=after(1))) == fresh()


def test_an_opened_phase_is_submitted_and_then_nothing_is_due_while_the_agents_work() -> None:
    state = advance(prepared(fresh(), "vote"), opened())
    assert due(state) == ("submit",)
    assert due(advance(state, machine.Submitted("propose"))) == ()


def test_a_phase_is_opened_once_whoever_opens_it_too() -> None:
    state = running()
    assert advance(state, opened()) == state
    for number in (1, 2, 3):
        state = advance(state, ended(number))
    assert advance(state, opened()) == state


def test_every_job_ended_makes_a_turn_due_and_no_phase_left_closes_it() -> None:
    state = running()
    for number in (1, 2, 3):
        state = advance(state, ended(number))
    assert due(state) == ("turn",)
    state = advance(state, machine.PhasesDone(after="propose", at=after(4)))
    assert (state.status, state.closed_by, state.closed_at) == ("deciding", "all_ended", after(4))


def test_the_next_phase_waits_for_its_own_jobs_and_its_own_submission() -> None:
    state = running()
    for number in (1, 2, 3):
        state = advance(state, ended(number))
    state = advance(state, opened("judge", "propose"))
    assert due(state) == ("submit",)
    assert advance(state, machine.Submitted("propose")) == state
    assert due(advance(state, machine.Submitted("judge"))) == ()
    assert len(state.jobs) == 6


def test_a_duplicate_answer_is_no_further_agent_and_costs_nothing_more() -> None:
    state = advance(running(), ended(1))
    again = machine.JobEnded(job_id="job-propose-1", error=ERROR, at=after(2), tokens=99, calls=9)
    assert advance(state, again) == state
    assert len(machine.counted(state)) == 1


def test_a_result_that_overtakes_the_executors_answer_proves_the_submission() -> None:
    state = advance(prepared(fresh(), "vote"), opened())
    assert due(advance(state, ended(1))) == ()


def test_what_is_reserved_is_settled_when_a_job_ends() -> None:
    state = running()
    assert spent(state).tokens == 300
    assert spent(advance(state, ended(1))).tokens == 207


def test_looking_at_the_clock_before_the_deadline_changes_nothing() -> None:
    state = running()
    assert advance(state, machine.DeadlinePassed(after(59.999))) == state


def test_at_the_deadline_what_still_runs_is_stopped() -> None:
    state = advance(advance(running(), ended(1)), machine.DeadlinePassed(DEADLINE))
    assert due(state) == ("stop", "decide")
    assert due(advance(state, machine.Stopped())) == ("decide",)


def test_an_answer_after_closing_is_not_counted() -> None:
    state = advance(running(), machine.DeadlinePassed(DEADLINE))
    assert advance(state, ended(1, seconds=61)) == state


def test_a_cancelled_deliberation_stops_its_jobs_and_stays_cancelled() -> None:
    state = advance(running(), machine.Cancelled("not wanted", after(3)))
    assert (state.closed_by, state.detail) == ("cancelled", "not wanted")
    assert due(state) == ("stop", "decide")
    assert advance(state, machine.DeadlinePassed(DEADLINE)) == state


def test_what_is_cancelled_while_it_prepares_is_stopped_for_its_jobs_may_run_already() -> None:
    state = advance(fresh(), machine.Cancelled("not wanted", after(3)))
    assert due(state) == ("stop", "decide")
    assert due(advance(state, machine.Stopped())) == ("decide",)
    state = advance(state, machine.OutcomePublished("", "cancelled"))
    assert due(state) == ("stop", "report")
    state = advance(state, machine.Reported())
    assert due(state) == ("stop",)
    assert due(advance(state, machine.Stopped())) == ("retire",)


def test_what_never_had_a_job_and_was_not_cancelled_has_nothing_to_stop() -> None:
    stillborn = msgspec.structs.replace(fresh(), status="deciding", closed_at=after(0), closed_by="no_council")
    assert due(stillborn) == ("decide",)
    assert due(advance(fresh(), machine.DeadlinePassed(DEADLINE))) == ("decide",)
    assert due(advance(fresh(), machine.Broke("no such task", after(1)))) == ("decide",)


def test_a_stop_that_is_not_confirmed_stays_due_to_the_end() -> None:
    state = advance(running(), machine.Cancelled("", after(3)))
    state = advance(state, machine.OutcomePublished("", "cancelled"))
    assert due(state) == ("stop", "report")
    state = advance(state, machine.Reported())
    assert due(state) == ("stop",)
    assert due(advance(state, machine.Stopped())) == ("retire",)


def test_what_was_not_confirmed_stays_due_while_the_agents_work() -> None:
    state = msgspec.structs.replace(running(), announced=False, scheduled=False)
    assert due(state) == ("schedule", "announce")


def test_a_lost_submission_is_due_again() -> None:
    assert due(advance(running(), machine.SubmissionLost())) == ("submit",)


def test_the_end_is_reported_and_retired_once_each() -> None:
    state = msgspec.structs.replace(running(), jobs=(), status="deciding")
    state = advance(state, machine.OutcomePublished("dec-1", None))
    assert state.status == "completed"
    assert due(state) == ("retire",)
    state = advance(state, machine.Retired())
    assert due(state) == ("report",)
    assert due(advance(state, machine.Reported())) == ()


def test_a_deliberation_of_no_plan_reports_to_none() -> None:
    state = msgspec.structs.replace(running(), plan_id="", jobs=(), status="deciding")
    assert due(advance(state, machine.OutcomePublished("", "deadline"))) == ("retire",)


def test_an_end_is_never_changed() -> None:
    state = msgspec.structs.replace(running(), status="deciding")
    state = advance(state, machine.OutcomePublished("dec-1", None))
    assert advance(state, machine.OutcomePublished("", "deadline")) == state


def test_what_is_kept_of_an_ended_deliberation_is_small() -> None:
    state = advance(running(), machine.DeadlinePassed(DEADLINE))
    state = advance(advance(state, machine.OutcomePublished("", "deadline")), machine.Retired())
    assert (state.task.title, state.task.description, state.task.requirements) == ("Parse", "", [])


def test_the_quorum_is_that_of_the_seats_asked() -> None:
    assert needed(running(seats=5, quorum=4)) == 4
    few = advance(prepared(fresh(5, 4), "vote"), opened(seats=3))
    assert needed(few) == 2
    assert needed(advance(prepared(fresh(5, 1), "vote"), opened(seats=3))) == 1
    assert needed(advance(prepared(fresh(5, 3), "single"), opened(seats=1))) == 1
