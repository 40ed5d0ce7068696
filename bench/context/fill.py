"""Fills the graph with the statements that the service writes events with, many events in one transaction."""

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
"""Events in one transaction, each of another story. One transaction at a time: on the embedded server two that write so much
meet on the same pages."""
LABELS = ("Story", "Plan", "Task", "Deliberation", "Agent", "Proposal", "Check", "Decision", "Event")


async def fill(graph: Graph, stories: int, say: Say) -> None:
    """Writes all stories."""
    begun = time.monotonic()
    written = 0
    for first in range(0, stories, AT_ONCE):
        for batch in _history(range(first, min(stories, first + AT_ONCE))):
            now = clock.now()
            recorded = await memory.record(
                graph, [arriving(event, event.story_id, f"born-{event.story_id}", now) for event in batch]
            )
            assert all(one.new for one in recorded), "the graph was not empty"
            written += sum(isinstance(event, events.DeliberationCompleted) for event in batch)
        rate = written / (time.monotonic() - begun)
        say(f"{written} of {stories * PLANS * TASKS} decisions written, {rate:.0f} a second")


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
