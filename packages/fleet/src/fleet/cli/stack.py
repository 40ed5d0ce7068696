"""The stack a demo runs on: the one that runs in this folder, or one of its own that ends with the demo."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

from fleet.cli.addresses import Addresses, addresses
from fleet.local import home as homes
from fleet.local.running import Change, State
from fleet.local.stack import running_stack
from fleet_wire.errors import Unavailable

READY_SECONDS = 180.0
"""How long a stack that somebody else is starting may take."""
SLOW_SECONDS = 20.0
"""From then on a part that is not ready yet says why."""


@dataclasses.dataclass(frozen=True)
class StackView:
    """Where its services are and write; `until_ended` raises PartFailed when it cannot go on."""

    addresses: Addresses
    log_path: Callable[[str], Path | None]
    until_ended: Callable[[], Awaitable[object]]


@contextlib.asynccontextmanager
async def this_stack(say: Callable[[str], None]) -> AsyncIterator[StackView]:
    """Gives a stack whose parts are all ready, but for the dashboard where it starts one: that comes after them.

    Raises PartFailed, Precondition, Invalid or Unavailable.
    """
    home = homes.find()
    if home.is_running():
        say(f"using the stack that runs in {home.path}")
        await _until_ready(home)
        yield StackView(addresses(), home.log, asyncio.Event().wait)
        return
    say("starting the local stack: NATS, the graph, the cache, Ray, the model, and the five services")

    begun, told = time.monotonic(), set[tuple[str, str]]()

    def report(change: Change) -> None:
        if change.state is State.READY:
            say(f"{change.name} is ready" + (f" after {change.seconds:.1f} s" if change.seconds else ""))
        elif change.state is State.ENDED:
            say(f"{change.name} {change.detail}")
        elif change.detail and time.monotonic() - begun > SLOW_SECONDS and (change.name, change.detail) not in told:
            told.add((change.name, change.detail))
            say(f"{change.name} is not ready yet: {change.detail}")

    # The dashboard shows what has happened also where it comes up in the middle; what all wait for is the first token.
    async with running_stack(home, last=("monitoring",), report=report, say=say) as stack:
        yield StackView(addresses_of(stack.env), stack.log_path, stack.until_ended)


def addresses_of(env: Mapping[str, str]) -> Addresses:
    """The addresses among a stack's settings, which come before those of this process."""
    given = {name: env[name.upper()] for name in Addresses.model_fields if name.upper() in env}
    return Addresses.model_validate(given)


async def _until_ready(home: homes.Home) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while waiting := unready(home):
        if not home.is_running():
            raise Unavailable(f"the stack in {home.path} has ended")
        if time.monotonic() > deadline:
            raise Unavailable(f"the stack in {home.path} is not ready: {', '.join(waiting)}")
        await asyncio.sleep(0.2)


def unready(home: homes.Home) -> list[str]:
    """The parts that are not ready, as the stack's record says."""
    parts = (home.read_record() or {}).get("parts", [])
    if not parts:
        return ["it has not begun"]
    return [f"{part['name']} is {part['state']}" for part in parts if part["state"] != State.READY]
