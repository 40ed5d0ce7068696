"""One line of text for each event, and the tail of what an agent is writing."""

from fleet.cli import safe
from fleet.describe import describe
from fleet_wire import events

TAIL_CHARACTERS = 400


def event_line(event: events.Event) -> str:
    """What happened, in a line that is safe to print."""
    return safe.line(describe(event), 300)


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
