"""The use cases of the memory, their ports as arguments."""

import asyncio
import dataclasses
import functools
import uuid
from collections.abc import Awaitable, Callable, Sequence

import structlog

from fleet.batching import Batches
from fleet.bolt import Graph, is_answer
from fleet.context import domain, graph, packing, projection, reading
from fleet.context.arrivals import Arrivals
from fleet.context.cache import ContextCache
from fleet.context.contextmessages import answer_of
from fleet.context.telling import Publish, tell
from fleet.context.tokenizer import ESTIMATE, Tokenizer, estimate
from fleet.deliberation.plan_rules import tasks_of
from fleet_wire import clock, events
from fleet_wire.errors import Invalid, Unavailable
from fleet_wire.gen.context.v1 import context_pb2

log = structlog.get_logger(__name__)

PLAN_RESTS_SECONDS = 0.01
"""How long a plan that has come waits to be written: it is shown already, and who starts its tasks asks for contexts now."""

Count = Callable[[Sequence[str]], Awaitable[Sequence[int]]]
Remembered = (
    events.StoryCreated
    | events.StoryTransitioned
    | events.PlanApproved
    | events.DeliberationCompleted
    | events.DeliberationFailed
    | events.PlanCompleted
)


@dataclasses.dataclass(frozen=True)
class Recorder:
    """Writes events to the memory. A plan is shown from the moment it comes."""

    batches: Batches[projection.Arriving, graph.Recorded]
    arrivals: Arrivals

    async def record(self, arriving: projection.Arriving) -> graph.Recorded:
        """Raises as `graph.record` does."""
        with self.arrivals.held(arriving):
            if isinstance(arriving.event, events.PlanApproved):
                await asyncio.sleep(PLAN_RESTS_SECONDS)
            return await self.batches.ask(arriving)


def recorder(memory: Graph, arrivals: Arrivals | None = None) -> Recorder:
    """Records events in the memory, those that come at once in one transaction, one of a story at a time."""
    work = functools.partial(graph.record, memory)
    return Recorder(Batches(work, graph.MOST_AT_ONCE, lambda one: one.turn, is_answer), arrivals or Arrivals())


async def remember(event: Remembered, recorder: Recorder, cache: ContextCache, publish: Publish) -> None:
    """Writes an event to the graph, makes what the cache held of its story stale, and publishes `context.updated`, which says so
    where a decision supersedes others, relies on superseded ones, or others do so by it: then for their stories too.

    An event that comes again writes nothing and publishes the same `context.updated`, under the same message id: what a crash
    between the write and the publication left out is made good. Another content under a known id is kept out, with a
    warning. Raises Unavailable while the graph or NATS is away, Invalid for an event that contradicts itself.
    """
    domain.check_event(event)
    names = {"story_id": event.story_id, "plan_id": "", "deliberation_id": ""}
    changed = [event.story_id] if event.story_id else []
    if isinstance(event, events.PlanApproved):
        names["plan_id"] = event.plan_id
        changed += [event.plan_id, *(domain.task_key(event.plan_id, task.task_id) for task in tasks_of(event))]
    elif isinstance(event, events.DeliberationCompleted):
        names |= {"plan_id": event.plan_id, "deliberation_id": event.deliberation_id}
        changed += [event.deliberation_id, event.decision_id]
        changed += [domain.proposal_key(event.deliberation_id, entry.agent_id) for entry in event.ranking]
    elif isinstance(event, events.DeliberationFailed | events.PlanCompleted):
        # The deliberation stays unnamed: that would say that its decision is in the graph.
        names["plan_id"] = event.plan_id
        changed.append(event.message_id())
    arriving = projection.arriving(event, event.story_id, born=uuid.uuid4().hex, now=clock.now())
    recorded = await recorder.record(arriving)
    if not recorded.same:
        log.warning("another content under a known id was kept out", event_id=event.message_id(), **names)
        return
    kind = event.TYPE.split(".", 1)[1]
    log.info(f"{kind} recorded", new=recorded.new, version=recorded.version, **names)
    effects = recorded.effects
    own = [event.decision_id] if isinstance(event, events.DeliberationCompleted) and recorded.relies else []
    await tell(
        {event.story_id: recorded.version, **effects.versions},
        [*changed, *effects.superseded],
        cache,
        publish,
        plan_id=names["plan_id"],
        deliberation_id=names["deliberation_id"],
        superseded=sorted({*recorded.relies, *effects.superseded}),
        flagged=[*own, *effects.flagged],
        flagged_in=effects.flagged_in,
    )


async def get_context(
    request: domain.ContextRequest, reader: reading.Reader, cache: ContextCache, tokenizer: Tokenizer
) -> tuple[context_pb2.GetContextResponse, bool]:
    """The answer, and whether the cache held it. Raises as `Reader.facts` and `packing.packed` say."""
    head: domain.StoryHead | None = None
    if reader.arrivals.of(request.plan_id) is None:  # else nothing is held of it yet
        head, held = await asyncio.gather(reader.head(request.story_id), cache.get(request, tokenizer.name))
        known = held.at(head) if head else None
        if known is not None:
            return known, True
    facts = await reader.facts(request, head)
    answer = answer_of(await counted(request, facts, tokenizer))
    if facts.in_graph:
        await cache.put(facts.head, request, answer)
    return answer, False


async def counted(request: domain.ContextRequest, facts: domain.Facts, tokenizer: Tokenizer) -> packing.Context:
    """The context in tokens of the served model; all of it in estimated ones where its tokenizer cannot be asked."""
    try:
        return await _packed(packing.packed(request, facts, tokenizer.name), tokenizer.count)
    except Unavailable:
        return await _packed(packing.packed(request, facts, ESTIMATE), _estimates)


async def _packed(packing_it: packing.Packing, count: Count) -> packing.Context:
    try:
        wanted = next(packing_it)
        while True:
            wanted = packing_it.send(await count(wanted))
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


async def _estimates(texts: Sequence[str]) -> list[int]:
    return [estimate(text) for text in texts]


def remembered(event: events.Event, *kinds: type[Remembered]) -> Remembered:
    """The event, if it is one of these kinds; raises Invalid otherwise."""
    for kind in kinds:
        if isinstance(event, kind):
            return event
    raise Invalid(f"{event.TYPE} is nothing that the memory records from this subject")
