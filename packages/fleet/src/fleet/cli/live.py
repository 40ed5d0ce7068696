"""A deliberation while it runs, for people and for programs: phases, checks, the text as it is written, and how it ended."""

import datetime as dt
import sys
from collections.abc import Callable
from typing import Any, TextIO

import msgspec
from rich.console import Console
from rich.status import Status
from rich.text import Text as RichText

from fleet.cli import following, lines, outcomes, safe
from fleet.cli.client import DONE, REFUSED, Clients
from fleet.cli.following import Ended, Happened, Text
from fleet.describe import PROGRAM_PHASES, describe, protocol
from fleet_wire import events
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2


async def follow(to: Clients, deliberation_id: str, out: TextIO = sys.stdout) -> Ended:
    """Tells on `out` what happens until it ends; on a terminal also the last line of what is being written."""
    console = safe.console(stderr=out is sys.stderr)
    status = console.status("") if console.is_terminal else None
    tails = lines.Tails()
    if status is not None:
        status.start()
    try:
        async for happened in following.follow(to, deliberation_id, complain):
            if isinstance(happened, (events.DeliberationCompleted, events.DeliberationFailed)):
                return happened
            if isinstance(happened, Text):
                _write(status, console, tails, deliberation_id, happened)
            else:
                moment = dt.datetime.now().astimezone().strftime("%H:%M:%S")
                console.print(RichText(f"{moment}  {line(happened)}"), soft_wrap=True)
    finally:
        if status is not None:
            status.stop()
    raise AssertionError("what is followed ends with an outcome")


async def print_json(to: Clients, deliberation_id: str, everything: bool, write: Callable[[str], None]) -> Ended:
    """Writes what happens as lines of JSON with a `kind`: changed, result, outcome, and, with `everything`, text."""
    async for happened in following.follow(to, deliberation_id, complain):
        if everything or not isinstance(happened, Text):
            write(safe.json_line(as_values(happened)))
        if isinstance(happened, (events.DeliberationCompleted, events.DeliberationFailed)):
            return happened
    raise AssertionError("what is followed ends with an outcome")


def as_values(happened: Happened) -> dict[str, Any]:
    """For programs."""
    match happened:
        case orchestrator_pb2.Deliberation():
            return {"kind": "changed", "deliberation": safe.plain(happened)}
        case Text():
            return {"kind": "text", **msgspec.to_builtins(happened)}
        case events.AgentResult():
            return {"kind": "result", "event": happened}
        case _:
            return {"kind": "outcome", "type": happened.TYPE, "event": happened}


def line(happened: orchestrator_pb2.Deliberation | events.AgentResult) -> str:
    """One thing that happened in a safe line."""
    if isinstance(happened, events.AgentResult):
        told = describe(happened).removeprefix(f"{happened.deliberation_id} ")
        failed = [f"{check.name}: {check.detail}" for check in happened.checks if check.status == "failed"]
        failed += [
            f"{run.test_id}: {run.detail}"
            for run in happened.runs
            if run.status == "failed" and happened.phase in PROGRAM_PHASES
        ]
        return safe.line(told, 300) + "".join(f"\n            {safe.line(why, 200)}" for why in failed[:8])
    by = protocol(happened.protocol, happened.numbers) if happened.protocol else "protocol not chosen yet"
    spent = f"{happened.tokens_spent} tokens and {happened.calls_spent} calls so far"
    if not happened.phase:
        return safe.line(f"{happened.state}, by {by}")
    jobs = [job for job in happened.jobs if job.phase == happened.phase]
    ended = sum(job.state in ("completed", "failed") for job in jobs)
    why = f" (auto: {happened.chosen_because})" if happened.chosen_because else ""
    return safe.line(
        f"{happened.state}, by {by}{why}: {happened.phase}, {ended} of {len(jobs)} jobs ended, {spent}", 400
    )


def say_ended(ended: Ended, as_json: bool) -> int:
    """Prints the outcome; the exit code it means."""
    if as_json:
        print(safe.json_line({"type": ended.TYPE, "event": ended}))
    elif isinstance(ended, events.DeliberationCompleted):
        safe.console().print(outcomes.outcome(ended))
    else:
        print(safe.line(describe(ended)), file=sys.stderr)
    return exit_code(ended)


def exit_code(ended: Ended) -> int:
    """0 for a decision, 1 for a failure."""
    return DONE if isinstance(ended, events.DeliberationCompleted) else REFUSED


def complain(sentence: str) -> None:
    """A line on standard error."""
    print(safe.line(sentence, 400), file=sys.stderr, flush=True)


def _write(status: Status | None, console: Console, tails: lines.Tails, deliberation_id: str, text: Text) -> None:
    chunk = events.TokenChunk(
        deliberation_id=deliberation_id,
        agent_id=text.agent_id,
        job_id=text.job_id,
        attempt=text.attempt,
        seq=text.seq,
        text=text.text,
    )
    tails.add(chunk)
    if status is not None:
        last = tails.last_line(deliberation_id, text.agent_id, max(20, console.width - 30))
        status.update(RichText(f"{safe.line(text.agent_id)}  {last}", no_wrap=True))
