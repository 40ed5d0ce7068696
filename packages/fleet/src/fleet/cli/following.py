"""One deliberation as the orchestrator streams it: read until it ends, over a restart of the orchestrator too."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import msgspec

from fleet.cli.client import RPC_SECONDS, Clients
from fleet_wire import events
from fleet_wire.errors import FleetError, Invalid, Unavailable
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2
from fleet_wire.rpc import ERROR_OF, call

PAUSE_SECONDS = 1.0
"""Before a stream that broke is asked for again."""


class Dropped(Unavailable):
    """The deliberation ended so long ago that its outcome is no longer kept; asking again does not help."""


Ended = events.DeliberationCompleted | events.DeliberationFailed


@dataclasses.dataclass(frozen=True)
class Text:
    """What an agent writes, live."""

    agent_id: str
    job_id: str
    attempt: int
    seq: int
    text: str


Happened = orchestrator_pb2.Deliberation | events.AgentResult | Text | Ended


async def follow(to: Clients, deliberation_id: str, complain: Callable[[str], None]) -> AsyncIterator[Happened]:
    """What happens, each thing once, the outcome last. A stream that breaks is asked for again, and `complain` told why.
    Raises NotFound for an unknown deliberation, Dropped."""
    seen: set[str] = set()
    last: Any = None
    while True:
        stream = to.orchestrator.StreamDeliberation(
            orchestrator_pb2.StreamDeliberationRequest(deliberation_id=deliberation_id)
        )
        try:
            async for message in stream:
                found = _happened(message)
                if isinstance(found, events.AgentResult):
                    if found.job_id in seen:
                        continue
                    seen.add(found.job_id)
                elif isinstance(found, orchestrator_pb2.Deliberation):
                    if found == last:
                        continue
                    last = found
                yield found
                if isinstance(found, (events.DeliberationCompleted, events.DeliberationFailed)):
                    return
            ended = await outcome(to, deliberation_id)
            if ended is not None:
                yield ended
                return
        except grpc.aio.AioRpcError as error:
            kind = ERROR_OF.get(error.code(), FleetError)
            detail = error.details() or error.code().name
            if kind is not Unavailable:
                raise kind(detail) from error
            complain(f"the orchestrator does not answer, asking again: {detail}")
        except Dropped:
            raise
        except Unavailable as error:
            complain(f"asking again: {error}")
        finally:
            stream.cancel()
        await asyncio.sleep(PAUSE_SECONDS)


async def outcome(to: Clients, deliberation_id: str) -> Ended | None:
    """How a deliberation has ended, or None while it runs. Raises Dropped."""
    asked = orchestrator_pb2.GetDeliberationResultRequest(deliberation_id=deliberation_id)
    answer = await call(to.orchestrator.GetDeliberationResult(asked, timeout=RPC_SECONDS), "the orchestrator")
    state = answer.deliberation.state
    if state not in ("completed", "failed"):
        return None
    if not answer.outcome:
        raise Dropped(f"{deliberation_id} is {state}, but its outcome is no longer kept")
    return decoded(answer.outcome)


def decoded(body: bytes) -> Ended:
    """The event that ended a deliberation; raises Invalid for anything else."""
    for kind in (events.DeliberationCompleted, events.DeliberationFailed):
        try:
            event = events.decode(kind.TYPE, body)
        except Invalid as error:
            problem = error
        else:
            assert isinstance(event, (events.DeliberationCompleted, events.DeliberationFailed))
            return event
    raise Invalid(f"the orchestrator's outcome cannot be read: {problem}")


def _happened(message: orchestrator_pb2.StreamDeliberationResponse) -> Happened:
    match message.WhichOneof("happened"):
        case "changed":
            return message.changed
        case "text":
            text = message.text
            return Text(text.agent_id, text.job_id, text.attempt, text.seq, text.text)
        case "outcome":
            return decoded(message.outcome)
        case "result":
            try:
                return msgspec.json.decode(message.result, type=events.AgentResult)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise Invalid(f"a result that the orchestrator streams cannot be read: {error}") from error
        case other:
            raise Invalid(f"the orchestrator streams {other}, which this command does not know: update it")
