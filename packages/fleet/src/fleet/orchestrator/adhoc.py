"""Deliberations that belong to no plan: what may be asked, and the start of one."""

import dataclasses
import datetime as dt
import uuid

import msgspec
import structlog

from fleet.deliberation.auto import choose
from fleet.deliberation.protocols import check_numbers, check_protocol
from fleet.deliberation.state import Deliberation
from fleet.orchestrator.clocks import Clock
from fleet.orchestrator.driver import Driver
from fleet.orchestrator.live import DeliberationRecords, Markers
from fleet.orchestrator.preparing import Limits, Sandbox
from fleet.orchestrator.replay import Replays
from fleet.orchestrator.starting import Bench, Times, asked_for, bench_of, new_deliberation
from fleet.orchestrator.store import Store
from fleet.planmessages import check_budget, check_entry_point
from fleet_wire import ids
from fleet_wire.errors import AlreadyExists, Invalid, Precondition, Unavailable
from fleet_wire.events import Budget, PlanTask
from fleet_wire.fingerprint import fingerprint, is_of

log = structlog.get_logger(__name__)

MAX_TITLE = 200
MAX_TEXT_BYTES = 64 * 1024
MAX_SCHEMA_CHARS = 32 * 1024
MAX_TOKENS = 16384
"""Both as the executor takes them."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request. With `replay_of`, role and texts are that deliberation's. `timeout_seconds` 0 means the service's setting."""

    request_id: str
    role: str = ""
    title: str = ""
    description: str = ""
    requirements: tuple[str, ...] = ()
    acceptance: tuple[str, ...] = ()
    timeout_seconds: float = 0
    protocol: str = ""
    numbers: dict[str, float] = {}
    budget: Budget = Budget()
    replay_of: str = ""
    entry_point: str = ""
    response_schema: str = ""
    max_tokens: int = 0


@dataclasses.dataclass(frozen=True)
class Adhoc:
    """The ports of a request."""

    store: Store
    records: DeliberationRecords
    live: Markers
    replays: Replays
    sandbox: Sandbox
    limits: Limits
    driver: Driver
    clock: Clock
    times: Times

    async def deliberate(self, asked: Asked) -> Deliberation:
        """Starts a deliberation, once per request id. Raises AlreadyExists for that id with another content, Invalid naming the
        field that is wrong, Precondition where what is asked for cannot be had here, and NotFound for an unknown `replay_of`."""
        ids.check_id("request_id", asked.request_id)
        name = ids.deliberation_id(asked.request_id, asked.request_id, 1)
        # A repetition is answered though what it needed may be gone since.
        state = await self.records.read(name) or await self._start(name, asked)
        if not is_of(state.request_hash, asked):
            raise AlreadyExists(f"request_id {asked.request_id} belongs to another request")
        self.driver.wake(state.deliberation_id)
        return state

    async def _start(self, name: str, asked: Asked) -> Deliberation:
        task, response_schema = await self._task(asked)
        bench = await bench_of(self.store, task)
        await self._check_possible(task, response_schema, bench, asked)
        now = self.clock()
        state = new_deliberation(
            name,
            task,
            bench,
            now=now,
            times=_times(self.times, asked),
            budget=asked.budget,
            request_hash=fingerprint(asked),
            replay_of=asked.replay_of,
            response_schema=response_schema,
            max_tokens=asked.max_tokens,
        )
        return (await self.live.create(self.records, name, state, now))[0]

    async def _task(self, asked: Asked) -> tuple[PlanTask, str]:
        """The task, and the form of its answers."""
        _check_limits(asked)
        if not asked.replay_of:
            return _own_task(asked), asked.response_schema
        for name in (
            "role",
            "title",
            "description",
            "requirements",
            "acceptance",
            "entry_point",
            "response_schema",
            "max_tokens",
        ):
            if getattr(asked, name):
                raise Invalid(f"{name} must be empty with replay_of: it is that deliberation's")
        old = await self.replays.stored(asked.replay_of)
        task = msgspec.structs.replace(
            old.state.task,
            task_id=asked.request_id,
            protocol=asked.protocol or None,
            numbers=asked.numbers,
            budget=asked.budget,
            depends_on=[],
        )
        return task, old.prompt.proposal_schema

    async def _check_possible(self, task: PlanTask, response_schema: str, bench: Bench, asked: Asked) -> None:
        """Raises Invalid for an unknown protocol or number, Precondition where it needs a sandbox and there is none. What the
        executor does not say now shows when the deliberation is prepared."""
        if bench.council is None:
            return
        protocol, numbers = asked_for(task, bench.council)
        check_protocol("protocol", protocol)
        check_numbers("numbers", protocol, numbers)
        try:
            why = await self.sandbox.word(task, response_schema)
        except Unavailable as error:
            log.info("request taken without a word on the sandbox", reason=str(error))
            return
        for sandbox in ("", why) if why else ("",):
            try:
                choose(
                    asked=protocol,
                    numbers=numbers,
                    task=task,
                    seats=bench.council.agents,
                    testers=bench.testers.agents if bench.testers else (),
                    sandbox=sandbox,
                    budget=asked.budget,
                    prompt_bytes=0,  # what the budget allows is chosen when it is known
                    max_tokens=asked.max_tokens or self.limits.max_tokens,
                    response_schema=response_schema,
                )
            except Invalid as error:
                if sandbox:
                    raise Precondition(str(error)) from error
                raise


def _times(times: Times, asked: Asked) -> Times:
    if not asked.timeout_seconds:
        return times
    return dataclasses.replace(times, timeout=dt.timedelta(seconds=asked.timeout_seconds))


def new_request_id() -> str:
    """For a request that brings none: every call is another one."""
    return f"req-{uuid.uuid4().hex}"


def _check_limits(asked: Asked) -> None:
    if asked.protocol:
        check_protocol("protocol", asked.protocol)
        check_numbers("numbers", asked.protocol, asked.numbers)
    check_budget("budget", asked.budget)
    check_entry_point("entry_point", asked.entry_point)
    if asked.max_tokens > MAX_TOKENS:
        raise Invalid(f"max_tokens must be 1 to {MAX_TOKENS}, or 0 for the default, not {asked.max_tokens}")
    if asked.response_schema:
        _check_schema(asked)
    seconds = asked.timeout_seconds
    if seconds != 0 and not 1 <= seconds <= 86400:
        raise Invalid(f"timeout_seconds must be 1 to 86400, or 0 for the default, not {seconds:g}")


def _check_schema(asked: Asked) -> None:
    """What can be told here of the form of an answer; that it is a JSON Schema the executor checks."""
    if asked.entry_point:
        raise Invalid("response_schema asks for JSON, and entry_point for a Python function: give one of them")
    if len(asked.response_schema) > MAX_SCHEMA_CHARS:
        raise Invalid(f"response_schema has {len(asked.response_schema)} characters, above {MAX_SCHEMA_CHARS}")
    try:
        schema = msgspec.json.decode(asked.response_schema)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise Invalid(f"response_schema is no JSON: {error}") from error
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise Invalid('response_schema must be a JSON Schema with "type": "object" at its top')


def _own_task(asked: Asked) -> PlanTask:
    ids.check_role("role", asked.role)
    body = {
        "task_id": asked.request_id,
        "title": asked.title or asked.description.strip().split("\n")[0][:MAX_TITLE],
        "description": asked.description,
        "role": asked.role,
        "requirements": list(asked.requirements),
        "acceptance": list(asked.acceptance),
        "protocol": asked.protocol or None,
        "numbers": asked.numbers,
        "budget": msgspec.to_builtins(asked.budget),
        "entry_point": asked.entry_point,
    }
    task = msgspec.convert(body, PlanTask)
    if not task.title.strip():
        raise Invalid("title or description must say what is to be decided")
    if len(task.title) > MAX_TITLE:
        raise Invalid(f"title must have at most {MAX_TITLE} characters, not {len(task.title)}")
    size = len(msgspec.json.encode(task))
    if size > MAX_TEXT_BYTES:
        raise Invalid(f"description, requirements and acceptance take {size} bytes, above {MAX_TEXT_BYTES}")
    return task
