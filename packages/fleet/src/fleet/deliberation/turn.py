"""What follows when the jobs of a phase have all ended, and at the start: the jobs of the next phase, or no phase any more."""

import datetime as dt
from collections.abc import Mapping

import msgspec

from fleet.deliberation import phases
from fleet.deliberation.evidence import Evidence, evidence
from fleet.deliberation.prompt import Prompt
from fleet.deliberation.protocols import PROTOCOLS
from fleet.deliberation.requests import make, reserve
from fleet.deliberation.state import Deliberation, Job, Phase, PhaseOpened, PhasesDone, counted, needed, spent
from fleet_wire import ids
from fleet_wire.events import AgentResult, Budget, SkippedPhase

FIRST_ATTEMPT = 1  # of a job's id; the executor counts the attempts of a job


def turn(
    state: Deliberation, prompt: Prompt, results: Mapping[str, AgentResult], now: dt.datetime
) -> PhaseOpened | PhasesDone:
    """The event that opens the next phase of a prepared deliberation whose jobs have all ended, or that says that none follows.

    `results` are those of all its jobs, by job id. Until when a phase may take is an equal share of the time left for it
    and for those that may still follow. Before it opens, what its jobs may use at most is reserved in them; where the
    budget has no room for it, the first phase asks fewer seats and later ones are left out, or judge fewer pairs.
    """
    if end := _end_after(state, results, now):
        return end
    skipped: list[SkippedPhase] = []
    said = evidence(state, results)
    left = _groups_left(state)
    for at, group in enumerate(left):
        jobs = _open(state, prompt, group, said, results, skipped)
        if not jobs and group[0] == "propose":
            text = f"the budget ({_budget(state.budget)}) has no room for one proposal"
            return PhasesDone(after="", at=now, by="budget", detail=text, skipped=tuple(skipped))
        if jobs:
            parts = 1 + sum(not phases.not_applicable(state, prompt, later[0]) for later in left[at + 1 :])
            until = now + (state.deadline - now) / parts
            return PhaseOpened(after=state.phase, phase=group[0], jobs=jobs, until=until, skipped=tuple(skipped))
    return PhasesDone(after=state.phase, at=now, skipped=tuple(skipped))


def _end_after(state: Deliberation, results: Mapping[str, AgentResult], now: dt.datetime) -> PhasesDone | None:
    """Why nothing follows on the phase that has ended, if so."""
    late = now >= state.deadline
    answered = counted(state)
    if state.phase and len(answered) < needed(state):
        return PhasesDone(after=state.phase, at=now, by="deadline" if late else "all_ended")
    if not _groups_left(state):
        return PhasesDone(after=state.phase, at=now)
    if late:
        return PhasesDone(after=state.phase, at=now, by="deadline")
    lost = sorted(job.agent_id for job in answered if job.job_id not in results)
    if lost:
        return PhasesDone(after=state.phase, at=now, by="error", detail=f"the results of {', '.join(lost)} are lost")
    return None


def _groups_left(state: Deliberation) -> tuple[tuple[Phase, ...], ...]:
    """The phases that may still follow, those that run at once together."""
    groups = PROTOCOLS[state.protocol].phases
    at = next((at for at, group in enumerate(groups) if state.phase in group), -1)
    return groups[at + 1 :]


def _open(
    state: Deliberation,
    prompt: Prompt,
    group: tuple[Phase, ...],
    said: Evidence,
    results: Mapping[str, AgentResult],
    skipped: list[SkippedPhase],
) -> tuple[Job, ...]:
    """The jobs of the phases that run at once, with what is reserved for them; adds to `skipped` what is left out."""
    planned: dict[Phase, list[Job]] = {}
    for phase in group:
        work = phases.plan(state, prompt, phase, said, results)
        if isinstance(work, str):
            skipped.append(SkippedPhase(phase=phase, reason=work))
        else:
            planned[phase] = _jobs(state, prompt, phase, work, said, results)
    jobs = [job for part in planned.values() for job in part]
    if _fits(state, jobs):
        return tuple(jobs)
    return _within_budget(state, planned, skipped)


def _jobs(
    state: Deliberation,
    prompt: Prompt,
    phase: Phase,
    work: tuple[phases.Work, ...],
    said: Evidence,
    results: Mapping[str, AgentResult],
) -> list[Job]:
    jobs = [
        Job(
            job_id=ids.job_id(state.deliberation_id, phase, agent, item, FIRST_ATTEMPT),
            agent_id=agent,
            phase=phase,
            item=item,
        )
        for agent, item in work
    ]
    if phase in ("dry_run", "rerun"):  # cost no tokens: their programs need not be made to know that
        return jobs
    reserved = [reserve(request) for request in make(state, prompt, jobs, said, results)]
    return [
        msgspec.structs.replace(job, tokens=most.tokens, calls=most.calls)
        for job, most in zip(jobs, reserved, strict=True)
    ]


def _within_budget(
    state: Deliberation, planned: dict[Phase, list[Job]], skipped: list[SkippedPhase]
) -> tuple[Job, ...]:
    """As much of the planned jobs as the budget has room for.

    Of proposals: fewer seats, with the tests as long as two of them can be told apart by these, else without. Of
    judgements: fewer pairs, each in both orders. Of the rest all or nothing, since half a round of critiques favours those
    that got one.
    """
    phase, jobs = next(iter(planned.items()))
    tests = planned.get("tests", [])
    if phase == "propose":
        for count in range(len(jobs) - 1, 1, -1):
            if tests and _fits(state, jobs[:count] + tests):
                return (*jobs[:count], *tests)
        if tests:
            skipped.append(SkippedPhase(phase="tests", reason=f"budget ({_budget(state.budget)})"))
    elif phase != "judge":
        skipped.append(SkippedPhase(phase=phase, reason=f"budget ({_budget(state.budget)})"))
        return ()
    step = 2 if phase == "judge" else 1
    count = next((count for count in range(len(jobs), 0, -step) if _fits(state, jobs[:count])), 0)
    if phase == "judge":
        reason = (
            f"budget ({_budget(state.budget)}): {(len(jobs) - count) // 2} of {len(jobs) // 2} pairs are not judged"
        )
        skipped.append(SkippedPhase(phase=phase, reason=reason))
    return tuple(jobs[:count])


def _fits(state: Deliberation, jobs: list[Job]) -> bool:
    """Whether the budget has room for these jobs beside those before; what costs nothing always fits."""
    before, limit = spent(state), state.budget
    tokens, calls = sum(job.tokens for job in jobs), sum(job.calls for job in jobs)
    return (not tokens or not limit.tokens or before.tokens + tokens <= limit.tokens) and (
        not calls or not limit.calls or before.calls + calls <= limit.calls
    )


def _budget(budget: Budget) -> str:
    """A budget's limits in words."""
    limits = [f"{budget.tokens} tokens"] if budget.tokens else []
    return " and ".join([*limits, *([f"{budget.calls} calls"] if budget.calls else [])])
