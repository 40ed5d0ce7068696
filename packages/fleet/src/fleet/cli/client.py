"""How commands reach the services: addresses, stubs, errors as one sentence and an exit code.

Exit codes: 0 done; 1 refused or failed; 2 used wrongly, or a service cannot be reached.
"""

import asyncio
import contextlib
import dataclasses
import getpass
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import typer

from fleet.cli import safe
from fleet.cli.addresses import Addresses
from fleet_wire import logs, rpc
from fleet_wire.errors import FleetError, Invalid, Problems, Unavailable
from fleet_wire.gen.context.v1 import context_pb2_grpc
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2_grpc
from fleet_wire.gen.planning.v1 import planning_pb2_grpc
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2_grpc

if TYPE_CHECKING:
    from fleet_wire.gen.context.v1.context_pb2_grpc import ContextServiceAsyncStub
    from fleet_wire.gen.orchestrator.v1.orchestrator_pb2_grpc import OrchestratorServiceAsyncStub
    from fleet_wire.gen.planning.v1.planning_pb2_grpc import PlanningServiceAsyncStub
    from fleet_wire.gen.ray_executor.v1.ray_executor_pb2_grpc import RayExecutorServiceAsyncStub

RPC_SECONDS = 10.0
"""How long a service may take for one call."""

DONE, REFUSED, UNUSABLE = 0, 1, 2
INTERRUPTED = 130


@dataclasses.dataclass(frozen=True)
class Clients:
    """A stub for each service; each connects when it is first used."""

    planning: "PlanningServiceAsyncStub"
    orchestrator: "OrchestratorServiceAsyncStub"
    context: "ContextServiceAsyncStub"
    executor: "RayExecutorServiceAsyncStub"


@contextlib.asynccontextmanager
async def clients(addresses: Addresses) -> AsyncIterator[Clients]:
    """The stubs, closed when the block ends."""
    async with contextlib.AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(rpc.channel(address))
            for address in (
                addresses.planning_address,
                addresses.orchestrator_address,
                addresses.context_address,
                addresses.ray_executor_address,
            )
        ]
        planning, orchestrator, context, executor = channels
        yield Clients(
            planning_pb2_grpc.PlanningServiceStub(planning),
            orchestrator_pb2_grpc.OrchestratorServiceStub(orchestrator),
            context_pb2_grpc.ContextServiceStub(context),
            ray_executor_pb2_grpc.RayExecutorServiceStub(executor),
        )


UP = "is the fleet up? `fleet status` tells, `fleet up` starts it here"

Hints = Mapping[type[FleetError], str]
NO_HINTS: Hints = MappingProxyType({})


def run(main: Callable[[], Coroutine[Any, Any, int]], hints: Hints = NO_HINTS, on_interrupt: int = INTERRUPTED) -> None:
    """Runs a command and ends the process with its exit code; an error becomes one sentence on standard error, with the
    hint for its kind of what to do."""
    level = os.environ.get("LOG_LEVEL", "ERROR")
    logs.configure("cli", level if level in ("DEBUG", "INFO", "WARNING", "ERROR") else "ERROR")
    try:
        code = asyncio.run(main())
    except FleetError as error:
        print(sentence(error, hints), file=sys.stderr)
        code = exit_code(error)
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = on_interrupt
    except BrokenPipeError:  # who read our output has gone, as in `fleet watch | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (so that the interpreter's last flush does not fail)
        code = DONE
    raise typer.Exit(code)


def exit_code(error: FleetError) -> int:
    """2 for what was used wrongly or cannot be reached, 1 for what was refused."""
    return UNUSABLE if isinstance(error, (Invalid, Unavailable)) else REFUSED


def sentence(error: FleetError, hints: Hints = NO_HINTS) -> str:
    """The error in one safe line, with what to do about it; several problems in a line each."""
    if isinstance(error, Problems):
        return "\n".join(safe.line(one, 600) for one in error.lines)
    hint = hints.get(type(error)) or (UP if isinstance(error, Unavailable) else "")
    what = safe.line(str(error), 600)
    return f"{what} ({hint})" if hint else what


def user_name() -> str:
    """Who runs the command, as the operating system knows it; `unknown` where it knows nobody."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no entry and no variable
        return "unknown"
