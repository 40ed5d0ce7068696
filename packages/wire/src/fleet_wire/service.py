"""How every service lives: named loops under one stop, ended by a signal or by the first loop that fails."""

import asyncio
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Optional, TypeVar

import structlog

from fleet_wire.errors import Invalid, Unavailable

log = structlog.get_logger(__name__)

STOP_SECONDS = 15.0
"""How long a loop may take to end after the stop before it is cancelled."""

R = TypeVar("R")


def stop_on_signals(stop: asyncio.Event) -> None:
    """SIGINT and SIGTERM set the stop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)


async def supervise(loops: Mapping[str, Awaitable[Any]], stop: asyncio.Event) -> bool:
    """Runs the loops until `stop` is set, or until one ends before that, which stops the others. Answers whether all was
    well; what a loop raised is logged under its name.

    A loop must end by itself soon after `stop` is set; after STOP_SECONDS it is cancelled.
    """
    tasks = {asyncio.ensure_future(work): name for name, work in loops.items()}
    stopped = asyncio.ensure_future(stop.wait())
    try:
        done, _ = await asyncio.wait({*tasks, stopped}, return_when=asyncio.FIRST_COMPLETED)
        told = stop.is_set()
        stop.set()
        _, late = await asyncio.wait({*tasks, stopped}, timeout=STOP_SECONDS)
    finally:
        for task in tasks:
            task.cancel()
        stopped.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    well = told
    for task, result in zip(tasks, results):
        if isinstance(result, Exception):
            well = False
            log.error("loop failed", loop=tasks[task], exc_info=result)
        elif task in late:
            log.warning("loop did not stop in time", loop=tasks[task])
        elif task in done and not told:
            log.error("loop ended", loop=tasks[task])
    return well


def run(main: Callable[[], Awaitable[bool]]) -> int:
    """Runs a service's main on uvloop and answers with the exit code: 0 when it was well until it was told to stop, else 1.

    Where it raises Invalid, a setting is wrong, and the code is 2; where it raises Unavailable, something it cannot begin
    without is not to be had, such as its port, and the code is 1. Both print their one sentence to standard error.
    """
    import uvloop  # not for the workers on Ray, which bring a loop of their own

    uvloop.install()
    try:
        return 0 if asyncio.run(_awaited(main)) else 1
    except Invalid as error:
        print(f"bad setting: {error}", file=sys.stderr)
        return 2
    except Unavailable as error:
        print(error, file=sys.stderr)
        return 1


async def _awaited(main: Callable[[], Awaitable[bool]]) -> bool:
    return await main()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises Unavailable where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]  # the rest repeats the address
        raise Unavailable(f"cannot listen on {host}:{port}: {reason}") from error


async def until_closed(closed: asyncio.Event, stop: asyncio.Event) -> None:
    """A loop that ends, and with it the service, when the connection to NATS has ended for good."""
    waits = [asyncio.ensure_future(closed.wait()), asyncio.ensure_future(stop.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


async def every(seconds: float, step: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
    """Calls `step` now and then every `seconds` until `stop`. A step that raises ends the loop: catch what is expected."""
    while not stop.is_set():
        await step()
        try:
            await asyncio.wait_for(stop.wait(), seconds)
        except asyncio.TimeoutError:
            continue


async def or_stop(work: Awaitable[R], stop: asyncio.Event) -> Optional[R]:
    """What the work gives; None where the stop comes first, which cancels the work."""
    task = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        stopped.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
