"""From a closed deliberation and its results to the one event it ends in. Pure: the same counted results, the same event."""

import datetime as dt
from collections.abc import Mapping

import msgspec

from fleet.deliberation.consensus import Scored, rank
from fleet.deliberation.state import Deliberation, counted, seat_word
from fleet_wire import events, ids
from fleet_wire.events import AgentResult, DeliberationCompleted, DeliberationFailed

MAX_DISSENT_BYTES = 4 * 1024
MAX_PROPOSALS_BYTES = 320 * 1024
"""What all proposals of one event may take as JSON, so that it stays below its limit with the decision and the rest."""


def decides(state: Deliberation) -> bool:
    """Whether the counted answers are enough, and nothing else ended it: then the outcome needs their results."""
    return state.closed_by in ("all_ended", "deadline") and len(counted(state)) >= state.quorum


def outcome(state: Deliberation, results: Mapping[str, AgentResult]) -> DeliberationCompleted | DeliberationFailed:
    """The event for a deliberation in `deciding`, given the result of each counted job by its id.

    Fails with `error` where a counted result is not given; raises ValueError where the deliberation is not closed.
    """
    if state.closed_at is None or state.closed_by is None:
        raise ValueError(f"{state.deliberation_id} is not closed")
    if not decides(state):
        return _failed(state, state.closed_at)
    seats = counted(state)
    lost = sorted(seat.agent_id for seat in seats if seat.job_id not in results)
    if lost:
        broken = msgspec.structs.replace(state, closed_by="error", detail=f"the results of {', '.join(lost)} are lost")
        return _failed(broken, state.closed_at)
    answers = {seat.agent_id: results[seat.job_id] for seat in seats}
    proposals = {agent: answer.content for agent, answer in answers.items()}
    ranking = rank(state.deliberation_id, proposals, state.task.requirements)
    winner = ranking[0]
    limit = min(events.MAX_CONTENT_BYTES, MAX_PROPOSALS_BYTES // len(ranking))
    shown = [_ranked(place, one, limit, answers[one.agent_id]) for place, one in enumerate(ranking, start=1)]
    usage = events.Usage()
    for answer in answers.values():
        usage += answer.usage
    return DeliberationCompleted(
        deliberation_id=state.deliberation_id,
        task_id=state.task.task_id,
        plan_id=state.plan_id,
        story_id=state.story_id,
        decision_id=ids.decision_id(state.deliberation_id),
        role=state.task.role,
        protocol=state.protocol,
        winner=winner.agent_id,
        decision=events.DecisionText(
            title=state.task.title, content=events.cut(winner.content)[0], rationale=rationale(state, ranking)
        ),
        ranking=shown,
        margin=_margin(ranking),
        dissent=[
            events.Dissent(agent_id=one.agent_id, content=events.cut(one.content, MAX_DISSENT_BYTES)[0])
            for one in ranking[1:2]
        ],
        missing=_missing(state),
        based_on=list(state.based_on),
        usage=usage,
        duration_seconds=(state.closed_at - state.created_at).total_seconds(),
        decided_at=state.closed_at,
    )


def rationale(state: Deliberation, ranking: tuple[Scored, ...]) -> str:
    """Why the winner won, in one paragraph of numbers."""
    winner = ranking[0]
    ran = ", ".join(
        f"{check.name} {check.status}" + (f" ({check.detail})" if check.detail else "") for check in winner.checks
    )
    text = (
        f"{winner.agent_id} scored {winner.score:.3f} of 2 by {state.protocol}: checks {winner.check_score:.3f} ({ran}), "
        f"agreement {winner.agreement:.3f} with {len(ranking) - 1} other proposals. "
        f"{len(ranking)} of {len(state.seats)} seats answered, {state.quorum} were needed."
    )
    if len(ranking) > 1:
        tied = " (a tie, broken by hash)" if _margin(ranking) == 0 else ""
        text += f" Margin over {ranking[1].agent_id}: {_margin(ranking):.3f}{tied}."
    return text


def _failed(state: Deliberation, closed_at: dt.datetime) -> DeliberationFailed:
    reason: events.FailureReason = "quorum_missed"
    if state.closed_by is not None and state.closed_by != "all_ended":
        reason = state.closed_by
    answered = len(counted(state))
    return DeliberationFailed(
        deliberation_id=state.deliberation_id,
        task_id=state.task.task_id,
        plan_id=state.plan_id,
        story_id=state.story_id,
        role=state.task.role,
        reason=reason,
        detail=state.detail or f"{answered} of {len(state.seats)} seats answered, {state.quorum} were needed",
        agents=[
            events.SeatReport(agent_id=seat.agent_id, state=seat_word(state, seat), error=seat.error)
            for seat in state.seats
        ],
        duration_seconds=(closed_at - state.created_at).total_seconds(),
        failed_at=closed_at,
    )


def _ranked(place: int, one: Scored, limit: int, answer: AgentResult) -> events.Ranked:
    content, shortened = events.cut(one.content, limit)
    return events.Ranked(
        agent_id=one.agent_id,
        rank=place,
        score=one.score,
        checks=list(one.checks),
        content=content,
        content_cut=shortened or answer.content_cut,
    )


def _margin(ranking: tuple[Scored, ...]) -> float:
    """How far the winner is ahead of the next; its whole score where it stands alone."""
    return ranking[0].score - (ranking[1].score if len(ranking) > 1 else 0.0)


def _missing(state: Deliberation) -> list[events.MissingAgent]:
    return [
        events.MissingAgent(
            agent_id=seat.agent_id,
            reason=f"{seat.error.kind}: {seat.error.message}" if seat.error else "no answer before the deadline",
        )
        for seat in state.seats
        if seat.status != "completed"
    ]
