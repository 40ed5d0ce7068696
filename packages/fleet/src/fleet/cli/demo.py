"""`fleet demo`: a plan through all eight steps on real parts, and the proof that each of them was observed."""

import asyncio
import contextlib
import datetime as dt
import sys
import time
import uuid
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

import typer

from fleet import planfile
from fleet.cli import STARTED_AT, client, progress, safe
from fleet.cli.asking import Asker
from fleet.cli.client import DONE, REFUSED, RPC_SECONDS
from fleet.cli.feed import Feed
from fleet.cli.lines import Tails
from fleet.cli.progress import Observation, Progress
from fleet.cli.report import MissingStep, as_json_summary, findings, print_summary
from fleet.cli.screen import LineScreen, LiveScreen, Screen, plain
from fleet.cli.stack import StackView, this_stack
from fleet.local.running import PartFailed
from fleet_wire import bus as bus_module
from fleet_wire import events
from fleet_wire.errors import Invalid, NotFound
from fleet_wire.gen.planning.v1 import planning_pb2
from fleet_wire.rpc import call

T = TypeVar("T")

CONNECT = dt.timedelta(seconds=10)
ROUND_SECONDS = 0.2
"""How often the executor, the dashboard and the graph are asked."""
SECONDS_PER_TASK = 150.0
"""The time limit unless given: a small model on two slow cores takes 25 for three answers, a busy machine more."""


def demo(
    test_case: Annotated[
        str, typer.Option(help=f"The plan to run: {', '.join(planfile.TEST_CASES)}.")
    ] = planfile.TEST_CASES[0],
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds from the approval to the end; 0 for 150 seconds a task.")
    ] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the stack running after the demo, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each observation as one line of JSON.")] = False,
) -> None:
    """Run a plan through all eight steps and show each of them.

    Uses the stack that runs in this folder, or starts one and stops it at the end. Ends with 0 only if every step was
    observed for every task; else it names the step that is missing and the log to read.

    Examples:  fleet demo
               fleet demo --test-case medium --keep
    """

    async def main() -> int:
        try:
            plan = planfile.load_test_case(test_case)
        except NotFound as error:
            raise Invalid(f"--test-case: {error}") from error
        screen = _screen(as_json)
        try:
            async with this_stack(screen.say) as stack:
                seconds = timeout or SECONDS_PER_TASK * len(plan.tasks)
                code = await _unless_ended(stack, _run(plan, stack, screen, seconds, as_json))
                if keep:
                    screen.say(f"the fleet keeps running; dashboard: {stack.addresses.monitoring_url}; Ctrl-C ends it")
                    with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C is how this is meant to end
                        await _unless_ended(stack, asyncio.Event().wait())
                return code
        except PartFailed as failure:
            screen.close()
            print(safe.safe(str(failure)), file=sys.stderr)  # with the last lines of its log
            return REFUSED
        finally:
            screen.close()

    client.run(main)


class _Run:
    """What is known of the plan now; events and answers both come in here."""

    def __init__(self, begun: Progress) -> None:
        self.progress = begun
        self.first_token_seconds: float | None = None

    def observed(self, seen: Observation, at: dt.datetime) -> None:
        before = self.progress
        self.progress = progress.observe(before, seen, at)
        if before.first_token_at is None and self.progress.first_token_at is not None:
            self.first_token_seconds = time.monotonic() - STARTED_AT


async def _run(plan: planfile.PlanFile, stack: StackView, screen: Screen, seconds: float, as_json: bool) -> int:
    at = stack.addresses
    actor = client.user_name()
    async with contextlib.AsyncExitStack() as opened:
        to = await opened.enter_async_context(client.clients(at))
        bus = await bus_module.connect(at.nats_url, "cli", at.nats_creds, wait=CONNECT)
        opened.push_async_callback(bus.close)
        feed = await opened.enter_async_context(Feed(bus, report=screen.say))
        story_id, plan_id = await planfile.submit(to.planning, plan, f"demo-{uuid.uuid4().hex}", actor)
        screen.say(f"story {story_id}, plan {plan_id}: {plan.story.title}, {len(plan.tasks)} tasks")
        run = _Run(
            progress.begin(plan_id, [(task.task_id, task.title, task.role, task.depends_on) for task in plan.tasks])
        )
        screen.show(run.progress, Tails())
        asked = planning_pb2.ApprovePlanRequest(plan_id=plan_id, approved_by=actor)
        await call(to.planning.ApprovePlan(asked, timeout=RPC_SECONDS), "planning")
        asker = Asker(to, at.monitoring_url, run.observed)
        asking = asyncio.create_task(_ask(asker, run))
        try:
            await _follow(feed, run, screen, seconds)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        screen.close()
    found = findings(run.progress, asker.refusals, stack.log_path, seconds)
    if as_json:
        summary = as_json_summary(run.progress, asker.explanations, found, run.first_token_seconds)
        print(safe.json_line({"kind": "summary", **summary}))
    else:
        print_summary(run.progress, asker.explanations, run.first_token_seconds)
    for finding in found:
        _complain(finding)
    return REFUSED if found else DONE


async def _unless_ended(stack: StackView, work: Coroutine[Any, Any, T]) -> T:
    """Does the work, unless the stack ends before: then raises why it did."""
    working, ended = asyncio.ensure_future(work), asyncio.ensure_future(stack.until_ended())
    try:
        await asyncio.wait({working, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            ended.result()
        return await working
    finally:
        for task in (working, ended):
            task.cancel()
        await asyncio.gather(working, ended, return_exceptions=True)


async def _follow(feed: Feed, run: _Run, screen: Screen, seconds: float) -> None:
    """Takes events in until nothing more is to come, or the time is over."""
    loop, tails = asyncio.get_running_loop(), Tails()
    deadline = loop.time() + seconds
    ours = {task.deliberation_id for task in run.progress.tasks}
    while not run.progress.settled and loop.time() < deadline:
        seen = await feed.next(timeout=0.1)
        if seen is not None:
            if isinstance(seen.event, events.TokenChunk) and seen.event.deliberation_id in ours:
                tails.add(seen.event)
            run.observed(seen.event, seen.at)
        screen.show(run.progress, tails)


async def _ask(asker: Asker, run: _Run) -> None:
    while True:
        await asker.ask(run.progress)
        await asyncio.sleep(ROUND_SECONDS)


def _screen(as_json: bool) -> Screen:
    console = safe.console()
    if console.is_terminal and not as_json:
        return LiveScreen(console)
    if as_json:
        return LineScreen(lambda kind, values: print(safe.json_line({"kind": kind, **values}), flush=True))
    return LineScreen(lambda kind, values: print(plain(kind, values), flush=True))


def _complain(finding: MissingStep) -> None:
    print(safe.line(finding.sentence(), 1000), file=sys.stderr, flush=True)
