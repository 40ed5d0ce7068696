"""One line of text for each event, and the tail of what an agent is writing."""

from collections import OrderedDict

from fleet.cli import safe
from fleet.describe import describe
from fleet_wire import events

TAIL_CHARACTERS = 400
MAX_JOBS = 1000
"""Jobs whose tails are kept: those that wrote last."""


def event_line(event: events.Event) -> str:
    """What happened, in a line that is safe to print."""
    return safe.line(describe(event), 300)


class Tails:
    """The end of what each agent of each deliberation has written, bounded; `seq` and `attempt` order the chunks of a job.

    `version` grows with each chunk that is taken in.
    """

    def __init__(self) -> None:
        self.version = 0
        self._tails: OrderedDict[str, tuple[tuple[int, int], str]] = OrderedDict()
        self._jobs: dict[tuple[str, str], str] = {}

    def add(self, chunk: events.TokenChunk) -> None:
        """Appends a chunk; one that comes late is left out, a new attempt begins anew."""
        job, position = chunk.job_id, (chunk.attempt, chunk.seq)
        before, tail = self._tails.get(job, ((0, -1), ""))
        if position <= before:
            return
        if chunk.attempt != before[0]:
            tail = ""
        self.version += 1
        self._jobs[chunk.deliberation_id, chunk.agent_id] = job
        self._tails[job] = (position, (tail + chunk.text)[-TAIL_CHARACTERS:])
        self._tails.move_to_end(job)
        while len(self._tails) > MAX_JOBS:
            self._tails.popitem(last=False)

    def last_line(self, deliberation_id: str, agent_id: str, width: int) -> str:
        """The end of the last line, blank ones aside, of the agent's newest job: safe, at most `width` wide; empty before it
        writes."""
        tail = self._tails.get(self._jobs.get((deliberation_id, agent_id), ""), ((0, -1), ""))[1]
        last = next((part for part in reversed(tail.splitlines()) if part.strip()), "")
        flat = safe.line(last)
        return flat if len(flat) <= width else "…" + flat[-(width - 1) :]
