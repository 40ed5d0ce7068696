"""`fleet watch`: the events as they happen."""

import asyncio
import datetime as dt
import sys
from collections.abc import AsyncIterator
from typing import Annotated

import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.text import Text

from fleet.cli import client, lines, safe
from fleet.cli.addresses import Addresses, addresses
from fleet.cli.client import DONE, RPC_SECONDS, Clients
from fleet.cli.feed import Feed, Seen
from fleet.cli.target import Target
from fleet_wire import bus as bus_module
from fleet_wire import events, ids
from fleet_wire.errors import NotFound
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2
from fleet_wire.gen.planning.v1 import planning_pb2
from fleet_wire.rpc import call

CONNECT = dt.timedelta(seconds=10)
LINGER_SECONDS = 5.0
"""After the end of what is watched, how long to wait for its last decision to reach the graph."""
HISTORY_SECONDS = 10.0
HISTORY_EVENTS = 20_000
"""Bounds of what is held back to be put in order before it is printed."""
EARLIER = dt.timedelta(seconds=5)
"""Clocks of services and of NATS may differ by so much."""


def watch(
    name: Annotated[str, typer.Argument(metavar="ID", help="A plan, story or deliberation; all unless given.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print each event as one line of JSON.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Print each chunk of the agents' text too, which is much.")
    ] = False,
) -> None:
    """Follow events as they happen; of a plan, story or deliberation also those that already did.

    Ends by itself when the plan or deliberation has ended, else with Ctrl-C.

    Examples:  fleet watch
               fleet watch plan-3f2a
               fleet watch plan-3f2a --json --all
    """

    async def main() -> int:
        at = addresses()
        target, since = await find(at, ids.check_id("ID", name)) if name else (Target("everything"), None)
        bus = await bus_module.connect(at.nats_url, "cli", at.nats_creds, wait=CONNECT)
        try:
            async with Feed(bus, since, report=_complain) as feed:
                await _follow(feed, target, as_json, everything)
        finally:
            await bus.close()
        return DONE

    client.run(main, {NotFound: "`fleet plan list` names the plans there are"}, on_interrupt=DONE)


async def find(at: Addresses, name: str) -> tuple[Target, dt.datetime]:
    """What the id names, and since when there are events of it. Raises NotFound where it names nothing."""
    async with client.clients(at) as to:
        for look in (_plan, _deliberation, _story):
            try:
                return await look(to, name)
            except NotFound:
                continue
    raise NotFound(f"{name} is no plan, story or deliberation")


async def _follow(feed: Feed, target: Target, as_json: bool, everything: bool) -> None:
    loop = asyncio.get_running_loop()
    ended_at: float | None = None
    async for seen in _in_order(feed, everything):
        if seen is not None and target.takes(seen.event):
            if everything or not isinstance(seen.event, events.TokenChunk):
                _print(seen, as_json)
        elif seen is None and target.ended:
            ended_at = ended_at or loop.time()
            if target.finished or loop.time() - ended_at > LINGER_SECONDS:
                return


async def _in_order(feed: Feed, everything: bool) -> AsyncIterator[Seen | None]:
    """What already happened by its time, over all streams; then what happens, as it comes, and None when nothing does."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + HISTORY_SECONDS
    history: list[Seen] = []
    while not feed.caught_up and len(history) < HISTORY_EVENTS and loop.time() < give_up:
        seen = await feed.next(timeout=0.1)
        if seen is not None and (everything or not isinstance(seen.event, events.TokenChunk)):
            history.append(seen)
    for seen in sorted(history, key=lambda seen: seen.at):
        yield seen
    while True:
        yield await feed.next(timeout=0.5)


def _print(seen: Seen, as_json: bool) -> None:
    if as_json:
        where = {"time": seen.at, "stream": seen.stream, "sequence": seen.sequence, "type": seen.event.TYPE}
        print(safe.json_line({**where, "event": seen.event}), flush=True)
    else:
        moment = seen.at.astimezone().strftime("%H:%M:%S.%f")[:-3]
        kind = seen.event.TYPE.removeprefix("orchestration.")
        _console.print(Text(f"{moment}  {kind:<22}  {lines.event_line(seen.event)}"), soft_wrap=True)


_console = safe.console()


def _complain(sentence: str) -> None:
    print(safe.line(sentence, 400), file=sys.stderr, flush=True)


async def _plan(to: Clients, name: str) -> tuple[Target, dt.datetime]:
    asked = planning_pb2.GetPlanRequest(plan_id=name)
    plan = (await call(to.planning.GetPlan(asked, timeout=RPC_SECONDS), "planning")).plan
    target = Target("plan", name, (ids.deliberation_id(name, task.task_id, 1) for task in plan.tasks))
    # A plan that is over has no event to wait for, or one that the stream may have dropped since.
    never_ran = plan.state == "rejected" or (plan.state == "superseded" and not plan.decided_by)
    target.ended = never_ran or plan.HasField("completed_at") or plan.state == "completed"
    return target, _since(plan.proposed_at)


async def _deliberation(to: Clients, name: str) -> tuple[Target, dt.datetime]:
    asked = orchestrator_pb2.GetDeliberationResultRequest(deliberation_id=name)
    answer = await call(to.orchestrator.GetDeliberationResult(asked, timeout=RPC_SECONDS), "the orchestrator")
    target = Target("deliberation", name)
    target.ended = answer.deliberation.state in ("completed", "failed")
    return target, _since(answer.deliberation.created_at)


async def _story(to: Clients, name: str) -> tuple[Target, dt.datetime]:
    asked = planning_pb2.GetStoryRequest(story_id=name)
    story = (await call(to.planning.GetStory(asked, timeout=RPC_SECONDS), "planning")).story
    return Target("story", name), _since(story.created_at)


def _since(stamp: Timestamp) -> dt.datetime:
    return stamp.ToDatetime(tzinfo=dt.timezone.utc) - EARLIER
