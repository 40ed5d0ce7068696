"""This system as the load meets it: from `planning.plan.approved` published to `orchestration.deliberation.completed` received.

All parts are the real ones of the local stack, but for the model server. Planning and the dashboard are stopped once the
stack is up: they are not on the way from one event to the other.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import itertools
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
from nats.aio.msg import Msg
from nats.js.api import DeliverPolicy

import fleet.local.stack as stacks
from bench.model_server import MODEL, TOKENS
from bench.subjects import AGENTS, QUESTION
from fleet.local.layout import Layout
from fleet_wire import bus as buses
from fleet_wire import events

NOT_ON_THE_WAY = ("planning", "monitoring")
ANSWER_SECONDS = 120
"""How long one deliberation may take before it counts as failed."""


class Failed(Exception):
    """A deliberation did not end as it should; the text says how."""


class _Usage(msgspec.Struct):
    completion: int = 0


class _Ranked(msgspec.Struct):
    agent_id: str


class _Ended(msgspec.Struct):
    """What is looked at of either end: all three proposals must be there, whole."""

    plan_id: str
    usage: _Usage = msgspec.field(default_factory=_Usage)
    ranking: list[_Ranked] = []
    reason: str = ""
    detail: str = ""


class System:
    """`deliberate` is one call of a load: publishes an approved plan of one task, and returns when its decision is received
    from the stream."""

    def __init__(self, bus: buses.Bus, stack: stacks.Stack, protocol: str) -> None:
        self.bus = bus
        self.stack = stack
        self.kept = 0
        self._protocol = protocol
        self._numbers = itertools.count()
        self._waiting: dict[str, asyncio.Future[_Ended]] = {}
        self._decoder = msgspec.json.Decoder(_Ended)

    async def listen(self) -> None:
        """Follows both ends with ordered consumers: what they hand over is in the stream already."""
        for end in ("completed", "failed"):
            await self.bus.js.subscribe(
                f"orchestration.deliberation.{end}",
                stream="ORCHESTRATOR_EVENTS",
                ordered_consumer=True,
                deliver_policy=DeliverPolicy.NEW,
                cb=self._ended,
            )

    async def _ended(self, message: Msg) -> None:
        ended = self._decoder.decode(message.data)
        waiting = self._waiting.get(ended.plan_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(ended)

    async def deliberate(self) -> None:
        """Raises Failed."""
        name = f"bench-{next(self._numbers)}"
        self._waiting[name] = asyncio.get_running_loop().create_future()
        try:
            await self.bus.publish(plan(name, self._protocol))
            ended = await asyncio.wait_for(self._waiting[name], ANSWER_SECONDS)
        except TimeoutError as error:
            raise Failed(f"{name} has no outcome after {ANSWER_SECONDS} s") from error
        finally:
            del self._waiting[name]
        if ended.reason:
            raise Failed(f"{name} failed: {ended.reason}: {ended.detail}")
        if len(ended.ranking) != len(AGENTS) or ended.usage.completion != TOKENS * len(AGENTS):
            raise Failed(f"{name} was decided without all three answers: {ended}")
        self.kept += 1


def plan(name: str, protocol: str) -> events.PlanApproved:
    """An approved plan of one task in prose, with a story of its own."""
    task = events.PlanTask(
        task_id="import", title="A shorter import", description=QUESTION, role="DEV", protocol=protocol
    )
    story = events.StoryText(title="The nightly import", brief="Orders are there by six in the morning.")
    return events.PlanApproved(
        story_id=f"story-{name}",
        story=story,
        plan_id=name,
        plan_version=1,
        approved_by="bench",
        approved_at=dt.datetime.now(dt.UTC),
        tasks=[task],
    )


@contextlib.asynccontextmanager
async def running(model_url: str, protocol: str, sync_always: bool) -> AsyncIterator[System]:
    """Starts the stack on free ports in a folder of its own, which is removed at the end."""
    env = {"VLLM_URL": model_url, "VLLM_MODEL": MODEL, "LOG_LEVEL": "WARNING"}
    # Another's settings must not lead the benchmark to another's stack.
    elsewhere = dict.fromkeys(("NATS_URL", "NEO4J_URI", "VALKEY_URL", "RAY_ADDRESS", "NATS_CREDS"), "")
    with tempfile.TemporaryDirectory(prefix="fleet-bench-") as folder, _synced_always(sync_always, Path(folder)):
        async with stacks.running_stack(Path(folder), free_ports=True, env={**env, **elsewhere}) as stack:
            await asyncio.gather(*(stack.part(name).stop() for name in NOT_ON_THE_WAY))
            bus = await buses.connect(stack.env["NATS_URL"], "bench", wait=dt.timedelta(seconds=10))
            try:
                system = System(bus, stack, protocol)
                await system.listen()
                yield system
            finally:
                await bus.close()


@contextlib.contextmanager
def _synced_always(wanted: bool, folder: Path) -> Iterator[None]:
    """While it lasts, stacks are laid out with a NATS that syncs every message to disk before it acknowledges it."""
    if not wanted:
        yield
        return
    config = folder / "sync.conf"
    config.write_text("jetstream { sync_interval: always }\n")
    original = stacks.lay_out  # type: ignore[attr-defined]

    def lay_out(*arguments: Any, **named: Any) -> Layout:
        layout = original(*arguments, **named)
        parts = tuple(
            dataclasses.replace(part, argv=(*part.argv, "-c", str(config))) if part.name == "nats" else part
            for part in layout.parts
        )
        return dataclasses.replace(layout, parts=parts)

    stacks.lay_out = lay_out  # type: ignore[attr-defined]
    try:
        yield
    finally:
        stacks.lay_out = original  # type: ignore[attr-defined]
