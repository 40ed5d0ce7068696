"""Each event in one sentence, the same in the terminal and on the dashboard. Pure.

What an event carries is taken as it is: whoever shows the sentence makes it harmless and as short as there is room.
"""

from collections.abc import Mapping, Sequence

from fleet_wire import events

PROGRAM_PHASES = ("dry_run", "rerun")
"""Phases whose jobs run a proposal against tests, and ask no model."""


def describe(event: events.Event) -> str:
    """What happened."""
    match event:
        case events.StoryCreated():
            return f"story {event.story_id} created: {event.title}"
        case events.StoryTransitioned():
            return f"story {event.story_id} goes from {event.from_state} to {event.to_state}, by {event.actor}"
        case events.PlanApproved():
            what = f"tasks: {len(event.tasks)}" if event.tasks else f"roles: {', '.join(event.roles)}"
            return f"plan {event.plan_id} approved by {event.approved_by}: {event.story.title} ({what})"
        case events.DeliberationStarted():
            council = f"{event.role} council of {len(event.agents)}, by {protocol(event.protocol, event.numbers)}"
            why = f", since {event.chosen_because}" if event.chosen_because else ""
            return f"{event.deliberation_id} started on task {event.task_id}: {council}{why}"
        case events.TokenChunk():
            return f"{event.deliberation_id} {event.agent_id} writes: {event.text}"
        case events.AgentResult(status="failed"):
            why = f"{event.error.kind}: {event.error.message}" if event.error else "no reason given"
            return f"{event.deliberation_id} {event.agent_id} failed ({_work(event)}): {why}"
        case events.AgentResult(phase=phase) if phase in PROGRAM_PHASES:
            took = f"{phase}, {event.timing.total_seconds:.1f} s"
            return f"{event.deliberation_id} {event.agent_id}'s proposal {tests(event.runs)} ({took})"
        case events.AgentResult():
            took = f"{_work(event)}, {event.timing.total_seconds:.1f} s, {event.usage.completion} tokens"
            ran = f" [{checks(event.checks)}]" if event.checks else ""
            return f"{event.deliberation_id} {event.agent_id} answered ({took}){ran}: {event.content}"
        case events.DeliberationCompleted():
            judged = f", {event.flips} flips in {event.verdicts} verdicts" if event.verdicts else ""
            wins = f"{event.winner} wins{judged}"
            return f"{event.deliberation_id} decided: {wins}, {event.decision_id}: {event.decision.title}"
        case events.DeliberationFailed():
            return f"{event.deliberation_id} {failure(event)}"
        case events.ResultLate():
            return f"{event.deliberation_id} {event.agent_id} answered {event.late_seconds:.1f} s too late"
        case events.PlanCompleted():
            counts = f"{len(event.decided)} decided, {len(event.failed)} failed, {len(event.skipped)} skipped"
            return f"plan {event.plan_id} completed: {counts}"
        case events.ContextUpdated():
            whose = event.deliberation_id or event.plan_id or event.story_id
            superseded = f"; superseded: {', '.join(event.superseded)}" if event.superseded else ""
            flagged = f"; relying on that: {', '.join(event.flagged)}" if event.flagged else ""
            return (
                f"{whose} is in the graph, {len(event.changed)} changed, version {event.version}{superseded}{flagged}"
            )
        case _:
            return event.message_id()


def protocol(name: str, numbers: Mapping[str, float]) -> str:
    """A protocol with its numbers: `best_of_n (agents 3, testers 2)`."""
    listed = ", ".join(f"{number} {value:g}" for number, value in sorted(numbers.items()))
    return f"{name} ({listed})" if listed else name


def tests(runs: Sequence[events.TestRun]) -> str:
    """What became of a program's tests; those that did not run are never counted as passed."""
    passed = sum(run.status == "passed" for run in runs)
    ran = sum(run.status != "not_run" for run in runs)
    if not ran:
        why = next((run.detail for run in runs if run.detail), "")
        return f"was not run: {why}" if why else "was not run against any test"
    left = f", {len(runs) - ran} were not run" if ran < len(runs) else ""
    return f"passed {passed} of {ran} tests{left}"


def checks(found: Sequence[events.Check]) -> str:
    """Checks in a few words: `parse passed, lint failed`."""
    return ", ".join(f"{check.name} {check.status.replace('_', ' ')}" for check in found)


def failure(event: events.DeliberationFailed) -> str:
    """Why a deliberation failed, with what each agent that did not answer said."""
    agents = [
        f"{agent.agent_id} {agent.state}{_in(agent)}"
        + (f" ({agent.error.kind}: {agent.error.message})" if agent.error else "")
        for agent in event.agents
        if agent.state != "completed"
    ]
    return "; ".join(filter(None, [f"failed: {event.reason}", event.detail, *agents]))


def _work(result: events.AgentResult) -> str:
    return f"{result.phase} {result.item}" if result.item else result.phase


def _in(seat: events.SeatReport) -> str:
    return "" if seat.phase == "propose" else f" in {seat.phase}"
