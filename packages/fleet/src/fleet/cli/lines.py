"""One line of text for each event, and the tail of what an agent is writing."""

from fleet.cli import safe
from fleet.cli.progress import failure_sentence
from fleet_wire import events

TAIL_CHARACTERS = 400


def event_line(event: events.Event) -> str:
    """What happened, in a line that is safe to print."""
    return safe.line(_words(event), 300)


def _words(event: events.Event) -> str:
    match event:
        case events.StoryCreated():
            return f"story {event.story_id} created: {event.title}"
        case events.StoryTransitioned():
            return f"story {event.story_id} goes from {event.from_state} to {event.to_state}, by {event.actor}"
        case events.PlanApproved():
            what = f"{len(event.tasks)} tasks" if event.tasks else f"roles {', '.join(event.roles)}"
            return f"plan {event.plan_id} approved by {event.approved_by}: {event.story.title} ({what})"
        case events.DeliberationStarted():
            return f"{event.deliberation_id} started: {event.role} on {event.task_id}, {len(event.agents)} agents"
        case events.TokenChunk():
            return f"{event.deliberation_id} {event.agent_id} writes: {event.text}"
        case events.AgentResult(status="failed"):
            why = f"{event.error.kind}: {event.error.message}" if event.error else "no reason given"
            return f"{event.deliberation_id} {event.agent_id} failed: {why}"
        case events.AgentResult():
            took = f"{event.timing.total_seconds:.1f} s, {event.usage.completion} tokens"
            return f"{event.deliberation_id} {event.agent_id} answered ({took}): {event.content}"
        case events.DeliberationCompleted():
            return f"{event.deliberation_id} decided: {event.winner} wins, {event.decision_id}: {event.decision.title}"
        case events.DeliberationFailed():
            return f"{event.deliberation_id} {failure_sentence(event)}"
        case events.ResultLate():
            return f"{event.deliberation_id} {event.agent_id} answered {event.late_seconds:.1f} s too late"
        case events.PlanCompleted():
            counts = f"{len(event.decided)} decided, {len(event.failed)} failed, {len(event.skipped)} skipped"
            return f"plan {event.plan_id} completed: {counts}"
        case events.ContextUpdated():
            whose = event.deliberation_id or event.plan_id or event.story_id
            return f"{whose} is in the graph, {len(event.changed)} changed, version {event.version}"
        case _:
            return event.message_id()


class Tails:
    """The end of what each agent of each deliberation has written, bounded; `seq` and `attempt` order the chunks.

    `version` grows with each chunk that is taken in.
    """

    def __init__(self) -> None:
        self.version = 0
        self._tails: dict[tuple[str, str], tuple[tuple[int, int], str]] = {}

    def add(self, chunk: events.TokenChunk) -> None:
        """Appends a chunk; one that comes late is left out, a new attempt begins anew."""
        key, position = (chunk.deliberation_id, chunk.agent_id), (chunk.attempt, chunk.seq)
        before, tail = self._tails.get(key, ((0, -1), ""))
        if position <= before:
            return
        if chunk.attempt != before[0]:
            tail = ""
        self.version += 1
        self._tails[key] = (position, (tail + chunk.text)[-TAIL_CHARACTERS:])

    def last_line(self, deliberation_id: str, agent_id: str, width: int) -> str:
        """The end of the agent's last line that is not blank, safe and at most `width` wide; empty before it writes."""
        tail = self._tails.get((deliberation_id, agent_id), ((0, -1), ""))[1]
        last = next((part for part in reversed(tail.splitlines()) if part.strip()), "")
        flat = safe.line(last)
        return flat if len(flat) <= width else "…" + flat[-(width - 1) :]
