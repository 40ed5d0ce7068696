"""From a closed deliberation and its results to the one event it ends in. Pure: the same counted results, the same event."""

import datetime as dt
from collections.abc import Iterable, Mapping

import msgspec

from fleet.deliberation.evidence import Evidence, Proposal, evidence, used
from fleet.deliberation.phases import proposers
from fleet.deliberation.protocols import PROTOCOLS, Ranking
from fleet.deliberation.state import Deliberation, Job, counted, job_word, needed
from fleet_wire import events, ids
from fleet_wire.events import AgentResult, Check, DeliberationCompleted, DeliberationFailed, JobError, SkippedPhase

MAX_DISSENT_BYTES = 4 * 1024
MAX_ARGUMENT_BYTES = 2 * 1024
MAX_PROPOSALS_BYTES = 320 * 1024
"""What all proposals of one event may take as JSON, so that it stays below its limit with the decision and the rest."""
MAX_DETAIL_BYTES = 240
"""What one check, error or missing answer may say there."""


def decides(state: Deliberation) -> bool:
    """Whether the counted proposals are enough, and nothing else ended it: then the outcome needs the results of all its
    jobs."""
    return state.closed_by in ("all_ended", "deadline") and 0 < len(counted(state)) >= needed(state)


def outcome(state: Deliberation, results: Mapping[str, AgentResult]) -> DeliberationCompleted | DeliberationFailed:
    """The event for a deliberation in `deciding`, given the results of its ended jobs by id.

    Fails with `error` where the result of a counted proposal is not given; raises ValueError where the deliberation is not
    closed.
    """
    closed_at = state.closed_at
    if closed_at is None or state.closed_by is None:
        raise ValueError(f"{state.deliberation_id} is not closed")
    if not decides(state):
        return _failed(state, results, closed_at)
    state = msgspec.structs.replace(state, skipped=state.skipped + _unopened(state))
    said = evidence(state, results)
    if said.lost:
        broken = msgspec.structs.replace(
            state, closed_by="error", detail=f"the results of {', '.join(said.lost)} are lost"
        )
        return _failed(broken, results, closed_at)
    ranking = PROTOCOLS[state.protocol].rank(state, said)
    winner = ranking.places[0].author
    limit = min(events.MAX_CONTENT_BYTES, MAX_PROPOSALS_BYTES // len(ranking.places))
    seconds = max(0.0, (closed_at - state.created_at).total_seconds())
    return DeliberationCompleted(
        deliberation_id=state.deliberation_id,
        task_id=state.task.task_id,
        plan_id=state.plan_id,
        story_id=state.story_id,
        decision_id=ids.decision_id(state.deliberation_id),
        role=state.task.role,
        protocol=state.protocol,
        winner=winner,
        decision=events.DecisionText(
            title=state.task.title,
            content=events.cut(said.proposals[winner].content)[0],
            rationale=rationale(state, said, ranking, seconds),
        ),
        ranking=[
            _ranked(place, placed.score, said.proposals[placed.author], limit)
            for place, placed in enumerate(ranking.places, start=1)
        ],
        margin=ranking.margin,
        numbers=state.numbers,
        chosen_because=state.chosen_because,
        flips=ranking.flips,
        verdicts=len(said.verdicts),
        dissent=_dissent(said, ranking),
        missing=_missing(state, said),
        skipped=list(state.skipped),
        based_on=list(state.based_on),
        supersedes=[
            ids.decision_id(ids.deliberation_id(state.plan_id, state.task.task_id, number))
            for number in range(1, state.number)
        ],
        calls=said.calls,
        usage=said.usage,
        duration_seconds=seconds,
        decided_at=closed_at,
    )


def rationale(state: Deliberation, said: Evidence, ranking: Ranking, seconds: float) -> str:
    """Why the winner won, in one paragraph of numbers."""
    best = ranking.places[0]
    numbers = ", ".join(f"{name} {value:g}" for name, value in sorted(state.numbers.items()))
    text = f"{best.author} won by {state.protocol}" + (f" ({numbers})" if numbers else "") + f": {ranking.words}. "
    checks = ", ".join(
        f"{check.name} {check.status}" + (f" ({detail})" if (detail := _short(check.detail)) else "")
        for check in said.proposals[best.author].checks
    )
    text += f"Its checks: {checks}. " if checks else ""
    if ranking.dissent:
        text += f"Margin over {ranking.dissent}: {ranking.margin:g}. "
    asked = len(proposers(state))
    text += f"{len(ranking.places)} of {asked} seats answered, {needed(state)} were needed. "
    if said.revisions:
        kept = len(said.revisions) - len(said.dropped)
        text += f"{kept} of {len(said.revisions)} revisions are kept, {len(said.dropped)} fared worse in the checks. "
    judged = [job for job in state.jobs if job.phase == "judge"]
    if len(said.verdicts) < len(judged):
        text += f"{len(judged) - len(said.verdicts)} of {len(judged)} judgements are missing and count as ties. "
    tokens = said.usage.prompt + said.usage.completion
    return text + f"It took {tokens} tokens in {said.calls} calls to the model, and {seconds:.1f} s."


def _failed(state: Deliberation, results: Mapping[str, AgentResult], closed_at: dt.datetime) -> DeliberationFailed:
    reason: events.FailureReason = "quorum_missed"
    if state.closed_by is not None and state.closed_by != "all_ended":
        reason = state.closed_by
    answered, asked = len(counted(state)), len(proposers(state))
    return DeliberationFailed(
        deliberation_id=state.deliberation_id,
        task_id=state.task.task_id,
        plan_id=state.plan_id,
        story_id=state.story_id,
        role=state.task.role,
        reason=reason,
        detail=state.detail or f"{answered} of {asked} seats answered, {needed(state)} were needed",
        agents=[
            events.SeatReport(
                agent_id=job.agent_id,
                phase=job.phase,
                item=job.item,
                state=job_word(state, job),
                error=_short_error(job.error),
            )
            for job in state.jobs
        ],
        protocol=state.protocol,
        calls=sum(job.calls for job in state.jobs if job.status != "waiting"),
        usage=used(state, results),
        duration_seconds=max(0.0, (closed_at - state.created_at).total_seconds()),
        failed_at=closed_at,
    )


def _ranked(place: int, score: float, one: Proposal, limit: int) -> events.Ranked:
    content, shortened = events.cut(one.content, limit)
    return events.Ranked(
        agent_id=one.author,
        rank=place,
        score=score,
        checks=[_short_check(check) for check in one.checks],
        content=content,
        content_cut=shortened or one.content_cut,
        revised=one.revised,
    )


def _dissent(said: Evidence, ranking: Ranking) -> list[events.Dissent]:
    """The best proposal that lost, with what a judge said for it: against the winner rather than against another, and against
    the better placed of these."""
    author = ranking.dissent
    if not author:
        return []
    place = {placed.author: at for at, placed in enumerate(ranking.places)}
    for_it = [verdict for verdict in said.verdicts if verdict.winner == author]
    best = min(
        for_it,
        key=lambda verdict: (place[verdict.second if verdict.first == author else verdict.first], verdict.item),
        default=None,
    )
    return [
        events.Dissent(
            agent_id=author,
            content=events.cut(said.proposals[author].content, MAX_DISSENT_BYTES)[0],
            argument=events.cut(best.reason, MAX_ARGUMENT_BYTES)[0] if best else "",
        )
    ]


def _missing(state: Deliberation, said: Evidence) -> list[events.MissingAgent]:
    """The seats that were not asked, and the jobs without an answer that counts."""
    asked = {job.agent_id for job in state.jobs if job.phase == "propose"}
    missing = [(agent, "not asked: budget") for agent in proposers(state) if agent not in asked]
    missing += [(job.agent_id, _prefix(job) + _why(job)) for job in state.jobs if job.status != "completed"]
    missing += [(job.agent_id, f"{_prefix(job)}the verdict cannot be read") for job in said.unread]
    return [events.MissingAgent(agent_id=agent, reason=_short(reason)) for agent, reason in missing]


def _prefix(job: Job) -> str:
    """What the job was, but for a proposal's."""
    return "" if job.phase == "propose" else " ".join(filter(None, (job.phase, job.item))) + ": "


def _why(job: Job) -> str:
    return f"{job.error.kind}: {job.error.message}" if job.error else "no answer before the deadline"


def _unopened(state: Deliberation) -> tuple[SkippedPhase, ...]:
    """The phases that were still to come when the deliberation was closed."""
    told = {job.phase for job in state.jobs} | {one.phase for one in state.skipped}
    phases: Iterable[str] = (phase for group in PROTOCOLS[state.protocol].phases for phase in group)
    return tuple(SkippedPhase(phase=phase, reason="no time was left for it") for phase in phases if phase not in told)


def _short(text: str) -> str:
    return events.cut(text, MAX_DETAIL_BYTES)[0]


def _short_check(check: Check) -> Check:
    detail = _short(check.detail)
    return check if detail == check.detail else msgspec.structs.replace(check, detail=detail)


def _short_error(error: JobError | None) -> JobError | None:
    return msgspec.structs.replace(error, message=_short(error.message)) if error else None
