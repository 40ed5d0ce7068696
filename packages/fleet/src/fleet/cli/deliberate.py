"""`fleet deliberate`: one question to one council, outside any plan."""

import asyncio
import datetime as dt
import sys
import uuid
from typing import Annotated

import typer
from rich.text import Text

from fleet.cli import client, lines, safe, show
from fleet.cli.addresses import addresses
from fleet.cli.client import DONE, REFUSED, RPC_SECONDS, Clients
from fleet.cli.feed import Feed
from fleet.cli.target import Target
from fleet.describe import describe
from fleet_wire import bus as bus_module
from fleet_wire import events, ids
from fleet_wire.errors import Invalid, NotFound, Precondition, Unavailable
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2
from fleet_wire.rpc import call

CONNECT = dt.timedelta(seconds=5)
ASK_SECONDS = 2.0
"""How often the orchestrator is asked besides: the event that ends it may not reach us."""

Ended = events.DeliberationCompleted | events.DeliberationFailed


def deliberate(
    task: Annotated[str, typer.Argument(metavar="TASK", help="What the council is to decide.")],
    role: Annotated[str, typer.Option(help=f"Which council: {', '.join(ids.ROLES)}.")],
    title: Annotated[str, typer.Option(help="A short name; the beginning of the task unless given.")] = "",
    requirement: Annotated[
        list[str] | None, typer.Option(help="What an answer must deal with; may be given several times.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0, max=86400, help="Seconds until the deadline; 0 for the service's own setting.")
    ] = 0,
    request_id: Annotated[
        str, typer.Option(help="Makes a repeated call safe: the same id gives the same deliberation.")
    ] = "",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it until it ends.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as one line of JSON.")] = False,
) -> None:
    """Ask one council one thing, and follow it until it is decided.

    Examples:  fleet deliberate "Write a function that parses a date" --role DEV
               fleet deliberate "Which tests does a login need?" --role QA --requirement "a wrong password"
    """

    async def main() -> int:
        if not task.strip():
            raise Invalid("TASK must not be empty")
        asked = orchestrator_pb2.DeliberateRequest(
            request_id=ids.check_id("--request-id", request_id) if request_id else f"cli-{uuid.uuid4().hex}",
            role=ids.check_role("--role", role.upper()),
            title=title or safe.line(task, 80),
            description=task,
            requirements=requirement or [],
            timeout_seconds=timeout,
        )
        at = addresses()
        async with client.clients(at) as to:
            if not wait:
                answer = await call(to.orchestrator.Deliberate(asked, timeout=RPC_SECONDS), "the orchestrator")
                _say_begun(answer, as_json)
                return DONE
            bus = await bus_module.connect(at.nats_url, "cli", at.nats_creds, wait=CONNECT)
            try:
                async with Feed(bus, report=_complain) as feed:
                    answer = await call(to.orchestrator.Deliberate(asked, timeout=RPC_SECONDS), "the orchestrator")
                    print(f"deliberation {safe.line(answer.deliberation_id)}", file=sys.stderr)
                    ended = await _follow(feed, to, answer.deliberation_id)
            finally:
                await bus.close()
        return _say_ended(ended, as_json)

    client.run(main, {Precondition: "does the role have a council? `fleet status` lists them"})


async def outcome(to: Clients, deliberation_id: str) -> Ended | None:
    """How a deliberation has ended, or None while it runs. Raises Unavailable once the record of the end was dropped."""
    asked = orchestrator_pb2.GetDeliberationResultRequest(deliberation_id=deliberation_id)
    answer = await call(to.orchestrator.GetDeliberationResult(asked, timeout=RPC_SECONDS), "the orchestrator")
    state = answer.deliberation.state
    if state not in ("completed", "failed"):
        return None
    if not answer.outcome:
        raise Unavailable(f"{deliberation_id} is {state}, but its outcome is no longer kept")
    event = events.decode(f"orchestration.deliberation.{state}", answer.outcome)
    assert isinstance(event, (events.DeliberationCompleted, events.DeliberationFailed))
    return event


async def _follow(feed: Feed, to: Clients, deliberation_id: str) -> Ended:
    """Prints its events to standard error until one of the two that end it."""
    target, tails = Target("deliberation", deliberation_id), lines.Tails()
    console, loop = safe.console(stderr=True), asyncio.get_running_loop()
    ask_at = loop.time() + ASK_SECONDS
    status = console.status("") if console.is_terminal else None
    if status is not None:
        status.start()
    try:
        while True:
            seen = await feed.next(timeout=0.25)
            if seen is not None and target.takes(seen.event):
                if isinstance(seen.event, events.TokenChunk):
                    tails.add(seen.event)
                    if status is not None:
                        last = tails.last_line(deliberation_id, seen.event.agent_id, max(20, console.width - 30))
                        status.update(Text(f"{safe.line(seen.event.agent_id)}  {last}", no_wrap=True))
                    continue
                console.print(Text(lines.event_line(seen.event)), soft_wrap=True)
                if isinstance(seen.event, (events.DeliberationCompleted, events.DeliberationFailed)):
                    return seen.event
            if loop.time() >= ask_at:
                ask_at = loop.time() + ASK_SECONDS
                try:
                    ended = await outcome(to, deliberation_id)
                except (NotFound, Unavailable) as error:
                    _complain(f"asking again: {error}")
                else:
                    if ended is not None:
                        return ended
    finally:
        if status is not None:
            status.stop()


def _say_begun(answer: orchestrator_pb2.DeliberateResponse, as_json: bool) -> None:
    if as_json:
        print(safe.json_line(answer))
    else:
        name = safe.line(answer.deliberation_id)
        print(f"deliberation {name} is {safe.line(answer.state)}\nnext: fleet watch {name}")


def _say_ended(ended: Ended, as_json: bool) -> int:
    if as_json:
        print(safe.json_line({"type": ended.TYPE, "event": ended}))
    elif isinstance(ended, events.DeliberationCompleted):
        safe.console().print(show.outcome(ended))
    else:
        print(safe.line(describe(ended)), file=sys.stderr)
    return DONE if isinstance(ended, events.DeliberationCompleted) else REFUSED


def _complain(sentence: str) -> None:
    print(safe.line(sentence, 400), file=sys.stderr, flush=True)
