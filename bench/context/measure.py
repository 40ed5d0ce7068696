"""The phases of a run on one graph server, and what was found: seconds, requests a second, CPU milliseconds, MiB."""

import asyncio
import datetime as dt
import itertools
import random
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import valkey.asyncio
from nats.aio.msg import Msg
from nats.js.api import DeliverPolicy

from bench import load, usage
from bench.context import corpus
from bench.context.budget import HOT_SHARE, MANY, PLANS, Budget
from bench.context.fill import counts
from bench.context.running import Running
from bench.measure import Say
from fleet.context import graph as memory
from fleet.context.projection import arriving
from fleet_wire import bus as buses
from fleet_wire import clock, events
from fleet_wire.gen.context.v1 import context_pb2, context_pb2_grpc
from fleet_wire.rpc import channel

ANSWER_SECONDS = 30


class Wrong(Exception):
    """An answer is not what was to be measured; the text says how."""


async def measured(running: Running, budget: Budget, say: Say) -> dict[str, Any]:
    """All phases, on a graph that was filled."""
    held = await counts(running.graph)
    say(f"holds {held}")
    async with channel(running.stack.env["CONTEXT_ADDRESS"]) as opened:
        reading = Reading(running, context_pb2_grpc.ContextServiceStub(opened), budget, say)
        reads = {
            "cold": await reading.cold(),
            "cached": await reading.cached(),
            "cold_many": await reading.many("cold_many", 0.0),
            "cached_many": await reading.many("cached_many", 1.0),
            "mix": await reading.many("mix", HOT_SHARE),
        }
    writes = await _writes(running, budget, say)
    return {
        "nodes": held,
        **reads,
        **writes,
        "hot": budget.hot,
        "rss_mib": _memory(running),
        "tokens_of_a_context": reading.tokens / max(1, reading.answers),
    }


class Reading:
    """GetContext over gRPC. A cold request is one that nobody has made before; a hot one was made before it is measured."""

    def __init__(self, running: Running, stub: Any, budget: Budget, say: Say) -> None:
        self.tokens = self.answers = 0
        self._running = running
        self._stub = stub
        self._budget = budget
        self._say = say
        self._new: Iterator[context_pb2.GetContextRequest] = corpus.requests(budget.stories)
        self._hot: list[context_pb2.GetContextRequest] = []

    async def cold(self) -> dict[str, Any]:
        """One at a time, after the cache was emptied."""
        for request in itertools.islice(self._new, self._budget.warm_up):
            await self._ask(request, None)
        await _flush(self._running)

        async def call() -> None:
            await self._ask(next(self._new), False)

        return self._times("cold", await load.run(call, load.Load(1, self._budget.cold)))

    async def cached(self) -> dict[str, Any]:
        """One at a time, all asked before. From here on, the hot requests are held."""
        self._hot = list(itertools.islice(self._new, self._budget.hot))
        for request in self._hot:
            await self._ask(request, None)
        hot = itertools.cycle(self._hot)

        async def call() -> None:
            await self._ask(next(hot), True)

        return self._times("cached", await load.run(call, load.Load(1, self._budget.cached)))

    async def many(self, name: str, hot_share: float) -> dict[str, Any]:
        """MANY at a time, of which this share was asked before."""
        chance = random.Random(1)

        async def call() -> None:
            if chance.random() < hot_share:
                await self._ask(chance.choice(self._hot), True)
            else:
                await self._ask(next(self._new), False)

        async with usage.measured(self._running.processes) as spent:
            outcome = await load.run(call, load.Load(MANY, 0, self._budget.many_seconds))
        each = 1000 / max(1, len(outcome.latencies))
        return {
            **self._times(name, outcome),
            "rate": outcome.rate,
            "cpu_ms_by_part": {part: cpu * each for part, cpu in sorted(spent.cpu.items(), key=lambda it: -it[1])},
        }

    async def _ask(self, request: context_pb2.GetContextRequest, from_cache: bool | None) -> None:
        """Raises Wrong for an answer that came from where it should not, or without what it must hold."""
        answer = await self._stub.GetContext(request, timeout=ANSWER_SECONDS)
        if from_cache is not None and answer.from_cache != from_cache:
            raise Wrong(f"from_cache is {answer.from_cache}")
        sources = {block.source_id for block in answer.blocks}
        if not sources.issuperset(request.required_decision_ids):
            raise Wrong(f"without {set(request.required_decision_ids) - sources}")
        self.tokens += answer.tokens
        self.answers += 1

    def _times(self, name: str, outcome: load.Outcome) -> dict[str, Any]:
        found = _times(outcome)
        self._say(
            f"{name}: p50 {found['p50_ms']:.1f} ms, p95 {found['p95_ms']:.1f}, p99 {found['p99_ms']:.1f}, "
            f"{outcome.rate:.0f} a second, {found['failed']} failed {found['failures']}"
        )
        return found


async def _writes(running: Running, budget: Budget, say: Say) -> dict[str, Any]:
    """A decided deliberation: its transaction alone, and from its event published to `context.updated` received. The first
    transactions are not counted: Java compiles what writes by then, which takes Neo4j longer than to write 400 of them."""

    def transactions(task: str) -> load.Call:
        stories = itertools.count()

        async def transaction() -> None:
            event = corpus.decided(next(stories) % budget.stories, PLANS - 1, task)
            [recorded] = await memory.record(running.graph, [arriving(event, event.story_id, "", clock.now())])
            if not recorded.new:
                raise Wrong("it was there already")

        return transaction

    await load.run(transactions(corpus.OPEN[0]), load.Load(1, min(budget.warm_up, budget.stories)))
    outcome = await load.run(transactions(corpus.OPEN[1]), load.Load(1, min(budget.writes, budget.stories)))
    found = {"transaction": _times(outcome)}
    bus = await buses.connect(running.stack.env["NATS_URL"], "bench", wait=dt.timedelta(seconds=10))
    waiting: dict[str, asyncio.Future[float]] = {}
    decoder = msgspec.json.Decoder(events.ContextUpdated)

    async def updated(message: Msg) -> None:
        event = decoder.decode(message.data)
        if event.deliberation_id in waiting:
            waiting.pop(event.deliberation_id).set_result(time.perf_counter())

    await bus.js.subscribe(
        "context.updated",
        stream="CONTEXT_EVENTS",
        ordered_consumer=True,
        deliver_policy=DeliverPolicy.NEW,
        cb=updated,
    )
    stories = itertools.count()

    async def remembered() -> None:
        event = corpus.decided(next(stories) % budget.stories, PLANS - 1, corpus.OPEN[2])
        done = waiting[event.deliberation_id] = asyncio.get_running_loop().create_future()
        await bus.publish(event)
        await asyncio.wait_for(done, ANSWER_SECONDS)

    try:
        found["remembered"] = _times(await load.run(remembered, load.Load(1, min(budget.writes, budget.stories))))
    finally:
        await bus.close()
    for name, times in found.items():
        say(f"{name}: p50 {times['p50_ms']:.1f} ms, p95 {times['p95_ms']:.1f}, {times['failures']}")
    return found


def _times(outcome: load.Outcome) -> dict[str, Any]:
    return {
        "samples": len(outcome.latencies),
        **{f"p{share}_ms": load.percentile(outcome.latencies, share / 100) * 1000 for share in (50, 95, 99)},
        "failed": len(outcome.failures),
        "failures": outcome.failures[:1],
    }


async def _flush(running: Running) -> None:
    client = valkey.asyncio.Valkey.from_url(running.stack.env["VALKEY_URL"])
    try:
        await client.flushall()
    finally:
        await client.aclose()


def _memory(running: Running) -> dict[str, float]:
    """Resident memory of each part, in MiB."""
    found: dict[str, float] = {}
    for process in running.processes():
        part = usage.part_of(process)
        found[part] = found.get(part, 0) + process.memory_info().rss / usage.MEBIBYTE
    return found
