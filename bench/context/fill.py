"""Fills the graph with the statements that the service writes events with, many events in one transaction."""

import asyncio
import time
from collections.abc import Iterator, Sequence

from bench.context import corpus
from bench.context.budget import PLANS, TASKS
from bench.measure import Say
from fleet.bolt import Graph
from fleet.context import graph as memory
from fleet.context.projection import arriving
from fleet_wire import clock, events

AT_ONCE = 200
"""Events in one transaction, each of another story."""
SESSIONS = 2
"""Transactions at the same time, of different stories."""

LABELS = ("Story", "Plan", "Task", "Deliberation", "Agent", "Proposal", "Check", "Decision", "Event")


async def fill(graph: Graph, stories: int, say: Say) -> None:
    """Writes all stories."""
    begun = time.monotonic()
    written = 0
    total = stories * PLANS * TASKS
    waiting = [range(first, min(stories, first + AT_ONCE)) for first in range(0, stories, AT_ONCE)]

    async def work() -> None:
        nonlocal written
        while waiting:
            chunk = waiting.pop()
            for batch in _history(chunk):
                recorded = await memory.record(
                    graph, [arriving(event, event.story_id, f"born-{event.story_id}", clock.now()) for event in batch]
                )
                assert all(one.new for one in recorded), "the graph was not empty"
                written += sum(isinstance(event, events.DeliberationCompleted) for event in batch)
            say(f"{written} of {total} decisions written, {written / (time.monotonic() - begun):.0f} a second")

    await asyncio.gather(*(work() for _ in range(SESSIONS)))


async def counts(graph: Graph) -> dict[str, int]:
    """How many nodes of each label there are."""
    found = {}
    for label in LABELS:
        [row] = await graph.ask(f"MATCH (n:{label}) RETURN count(n) AS count")
        found[label] = row["count"]
    return found


def _history(stories: Sequence[int]) -> Iterator[list[events.PlanApproved] | list[events.DeliberationCompleted]]:
    """The events of these stories in the order in which they came to be, one of each story at a time."""
    for plan in range(PLANS):
        yield [corpus.approved(story, plan) for story in stories]
        for task in range(TASKS):
            yield [corpus.decided(story, plan, str(task)) for story in stories]
