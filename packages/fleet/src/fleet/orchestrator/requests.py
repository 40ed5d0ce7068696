"""What the orchestrator does on request: ad-hoc deliberations, councils, and answers about what is going on."""

import base64
import binascii
import dataclasses
import datetime as dt
import hashlib
import uuid
from collections.abc import Callable, Sequence

import msgspec
import structlog

from fleet.deliberation.plan import Plan
from fleet.deliberation.state import LIVE, Deliberation
from fleet.orchestrator import councils
from fleet.orchestrator.councils import Council
from fleet.orchestrator.deliberations import Clock
from fleet.orchestrator.driver import Driver
from fleet.orchestrator.plans import new_deliberation
from fleet.orchestrator.store import DefaultCouncils, Outcome, Store, council_key, outcome_key, state_key
from fleet_wire import ids
from fleet_wire.errors import AlreadyExists, Conflict, FleetError, Invalid, NotFound
from fleet_wire.events import PlanTask
from fleet_wire.kv import change

log = structlog.get_logger(__name__)

DEFAULTS_KEY = "defaults"
MAX_TITLE = 200
MAX_TEXT_BYTES = 64 * 1024


@dataclasses.dataclass(frozen=True)
class Requests:
    """The ports of the requests."""

    store: Store
    driver: Driver
    clock: Clock
    timeout: dt.timedelta

    async def deliberate(self, request_id: str, task: PlanTask, timeout_seconds: float) -> Deliberation:
        """Starts a deliberation of its own, once per request id; raises AlreadyExists for that id with another content."""
        ids.check_id("request_id", request_id)
        _check_task(task)
        if timeout_seconds != 0 and not 1 <= timeout_seconds <= 86400:
            raise Invalid(f"timeout_seconds must be 1 to 86400, or 0 for the default, not {timeout_seconds:g}")
        request_hash = hashlib.sha256(msgspec.json.encode([task, timeout_seconds])).hexdigest()
        entry = await self.store.councils.get(council_key(task.role))
        state = new_deliberation(
            ids.deliberation_id(request_id, task.task_id, 1),
            task,
            entry.value if entry else None,
            now=self.clock(),
            timeout=dt.timedelta(seconds=timeout_seconds) if timeout_seconds else self.timeout,
            request_hash=request_hash,
        )
        try:
            await self.store.deliberations.create(state_key(state.deliberation_id), state)
        except Conflict:
            state = await self.deliberation(state.deliberation_id)
            if state.request_hash != request_hash:
                raise AlreadyExists(f"request_id {request_id} belongs to another request") from None
        self.driver.wake(state.deliberation_id)
        return state

    async def deliberation(self, deliberation_id: str) -> Deliberation:
        """The record; raises NotFound."""
        entry = await self.store.deliberations.get(state_key(ids.check_id("deliberation_id", deliberation_id)))
        if entry is None:
            raise NotFound(f"no deliberation {deliberation_id}")
        return entry.value

    async def outcome(self, deliberation_id: str) -> Outcome | None:
        """What it ended in, for as long as that is kept."""
        entry = await self.store.outcomes.get(outcome_key(deliberation_id))
        return entry.value if entry else None

    async def deliberations(self, wanted: Callable[[Deliberation], bool] = lambda state: True) -> list[Deliberation]:
        """All that are kept and wanted, newest first."""
        found = [entry.value async for entry in self.store.deliberations.entries("state.") if wanted(entry.value)]
        return sorted(found, key=_newest, reverse=True)

    async def running(self) -> list[Deliberation]:
        """Those that have not ended."""
        return await self.deliberations(lambda state: state.status in LIVE)

    async def plan(self, plan_id: str) -> Plan:
        """The plan's progress; raises NotFound for one that was never approved."""
        entry = await self.store.plans.get(ids.check_id("plan_id", plan_id))
        if entry is None:
            raise NotFound(f"no approved plan {plan_id}")
        return entry.value

    async def running_plans(self) -> int:
        """How many plans have not ended."""
        return len([None async for entry in self.store.plans.entries() if entry.value.status == "running"])

    async def create_council(self, council: Council) -> Council:
        """Saves it; raises AlreadyExists where the role has one."""
        try:
            await self.store.councils.create(council_key(council.role), council)
        except Conflict:
            raise AlreadyExists(f"role {council.role} has a council already") from None
        return council

    async def councils(self) -> list[Council]:
        """All councils, by the order of the roles."""
        found = [entry.value async for entry in self.store.councils.entries("council.")]
        return sorted(found, key=lambda council: ids.ROLES.index(council.role))

    async def delete_council(self, role: str) -> None:
        """Removes it; raises NotFound where the role has none."""
        if await self.store.councils.get(council_key(ids.check_role("role", role))) is None:
            raise NotFound(f"role {role} has no council")
        await self.store.councils.delete(council_key(role))

    async def change_council(self, role: str, step: Callable[[Council], Council]) -> Council:
        """Changes it by a rule of `councils`; raises NotFound where the role has none, and what the rule raises."""
        refused: list[FleetError] = []

        def attempt(council: Council | None) -> Council | None:
            refused.clear()
            try:
                if council is None:
                    raise NotFound(f"role {role} has no council")
                return step(council)
            except FleetError as error:
                refused.append(error)
                return None

        changed = await change(self.store.councils, council_key(ids.check_role("role", role)), attempt)
        if refused:
            raise refused[0]
        if changed is None:
            raise NotFound(f"role {role} has no council")
        return changed

    async def default_councils(self) -> int:
        """Makes one council for each role, once and for all replicas; answers how many it made. Where there are councils
        already and no word that the defaults were made, a start before was cut off: what is missing is made."""
        if await self.store.defaults.get(DEFAULTS_KEY) is not None:
            return 0
        made = 0
        for role in ids.ROLES:
            try:
                await self.create_council(councils.make(role))
                made += 1
            except AlreadyExists:
                continue
        try:
            await self.store.defaults.create(DEFAULTS_KEY, DefaultCouncils(made_at=self.clock()))
        except Conflict:
            log.info("another replica made the default councils")
        return made


def page(found: Sequence[Deliberation], page_size: int, page_token: str) -> tuple[Sequence[Deliberation], str]:
    """One page of deliberations sorted newest first, and the token of the next; raises Invalid naming the field."""
    if not 0 <= page_size <= 500:
        raise Invalid(f"page_size must be 1 to 500, or 0 for 50, not {page_size}")
    size = page_size or 50
    if page_token:
        after = _read_token(page_token)
        found = [state for state in found if _newest(state) < after]
    shown = found[:size]
    return shown, _token(shown[-1]) if len(found) > size else ""


def adhoc_task(
    request_id: str,
    role: str,
    title: str,
    description: str,
    requirements: Sequence[str],
    acceptance: Sequence[str],
    protocol: str,
) -> PlanTask:
    """The task of an ad-hoc request; raises Invalid naming the field that is wrong."""
    ids.check_role("role", role)
    councils.check_protocol("protocol", protocol)
    body = {
        "task_id": request_id,
        "title": title or description.strip().split("\n")[0][:MAX_TITLE],
        "description": description,
        "role": role,
        "requirements": list(requirements),
        "acceptance": list(acceptance),
        "protocol": protocol or None,
    }
    return msgspec.convert(body, PlanTask)


def new_request_id() -> str:
    """For a request that brings none: every call is another one."""
    return f"req-{uuid.uuid4().hex}"


def _check_task(task: PlanTask) -> None:
    if not task.title.strip():
        raise Invalid("title or description must say what is to be decided")
    if len(task.title) > MAX_TITLE:
        raise Invalid(f"title must have at most {MAX_TITLE} characters, not {len(task.title)}")
    size = len(msgspec.json.encode(task))
    if size > MAX_TEXT_BYTES:
        raise Invalid(f"description, requirements and acceptance take {size} bytes, above {MAX_TEXT_BYTES}")


def _newest(state: Deliberation) -> tuple[str, str]:
    return state.created_at.isoformat(), state.deliberation_id


def _token(state: Deliberation) -> str:
    return base64.urlsafe_b64encode("|".join(_newest(state)).encode()).decode()


def _read_token(token: str) -> tuple[str, str]:
    try:
        created_at, deliberation_id = base64.urlsafe_b64decode(token.encode()).decode().split("|")
        dt.datetime.fromisoformat(created_at)
    except (binascii.Error, ValueError) as error:
        raise Invalid(f"page_token {token[:80]!r} is not from an answer of this service") from error
    return created_at, deliberation_id
