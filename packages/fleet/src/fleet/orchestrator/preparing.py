"""Freezes what a deliberation's requests are made from, and with it protocol and numbers.

Whoever saves the prompt first has frozen it for every later try; all that follows is a function of the record and of it.
"""

import asyncio
import dataclasses
import datetime as dt
import hashlib
import time
from collections.abc import Mapping

import msgspec

from fleet.deliberation import auto
from fleet.deliberation import prompt as prompts
from fleet.deliberation.code import is_code_task
from fleet.deliberation.prompt import Prompt
from fleet.deliberation.requests import prompt_bytes
from fleet.deliberation.state import Deliberation, Prepared
from fleet.orchestrator.clocks import Clock
from fleet.orchestrator.contexts import Contexts
from fleet.orchestrator.peers import Executor, Given
from fleet.orchestrator.store import Store, prompt_key
from fleet.recent import Recent
from fleet_wire import topology
from fleet_wire.errors import Conflict, Precondition, Unavailable
from fleet_wire.events import PlanTask

SANDBOX_SECONDS = 10.0
"""How long the executor's word on its sandbox is believed."""
FRESH = dt.timedelta(seconds=1)
KEPT = 1024
"""Prompts that a replica remembers."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """What an agent may write, in tokens, and how it samples."""

    max_tokens: int
    temperature: float


class Sandbox:
    """The executor's word on its sandbox, asked for anew when it has become old."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._word = ""
        self._until = float("-inf")
        self._lock = asyncio.Lock()

    async def word(self, task: PlanTask, response_schema: str = "") -> str:
        """Why there is none; empty where there is one, and for a task that asks for no code. Raises Unavailable where the
        executor does not say."""
        if not is_code_task(task, response_schema):
            return ""
        async with self._lock:
            if time.monotonic() >= self._until:
                self._word = await self._executor.sandbox()
                self._until = time.monotonic() + SANDBOX_SECONDS
            return self._word


class Preparing:
    """The ports that a prompt is frozen with. `policies` are the rules by role, as JSON."""

    def __init__(
        self,
        store: Store,
        contexts: Contexts,
        sandbox: Sandbox,
        policies: Mapping[str, str],
        limits: Limits,
        clock: Clock,
    ) -> None:
        self._store = store
        self._contexts = contexts
        self._sandbox = sandbox
        self._policies = policies
        self._limits = limits
        self._clock = clock
        self._known: Recent[Prompt] = Recent(KEPT)

    async def prepare(self, state: Deliberation) -> Prepared:
        """Freezes the prompt, and chooses the protocol by it. Raises Invalid where what was asked for cannot be had."""
        # One that was started just now is not prepared yet, most likely; where it is, saving the prompt says so.
        fresh = self._clock() - state.created_at < FRESH
        prompt = None if fresh else await self.frozen(state.deliberation_id)
        prompt = prompt or self._known.get(state.deliberation_id) or await self._freeze(state)
        chosen = choose(state, prompt)
        return Prepared(
            prompt_hash=prompt.hash,
            protocol=chosen.protocol,
            numbers=chosen.numbers,
            chosen_because=chosen.because,
            superseded_by=prompt.superseded_by,
        )

    async def prompt(self, state: Deliberation) -> Prompt:
        """The prompt of a prepared deliberation; raises Unavailable where it cannot be read."""
        found = await self.frozen(state.deliberation_id)
        if found is None or found.hash != state.prompt_hash:
            raise Unavailable(f"the frozen prompt of {state.deliberation_id} cannot be read")
        return found

    def forget(self, deliberation_id: str) -> None:
        """Makes room."""
        self._known.drop(deliberation_id)

    async def frozen(self, deliberation_id: str) -> Prompt | None:
        """The prompt, for as long as it is kept."""
        known = self._known.get(deliberation_id)
        if known is not None:
            return known
        entry = await self._store.prompts.get(prompt_key(deliberation_id))
        if entry is None:
            return None
        self._known.put(deliberation_id, entry.value)
        return entry.value

    async def _freeze(self, state: Deliberation) -> Prompt:
        sandbox = await self._sandbox.word(state.task, state.response_schema)
        if state.replay_of:
            old = await self.frozen(state.replay_of)
            if old is None:
                raise Precondition(f"the prompt of {state.replay_of} is kept no longer: it cannot be replayed")
            prompt = rehashed(msgspec.structs.replace(old, sandbox=sandbox))
        else:
            given = await self._contexts.of(state) if state.plan_id else Given()
            prompt = prompts.render(
                state.task,
                given.blocks,
                max_tokens=state.max_tokens or self._limits.max_tokens,
                temperature=self._limits.temperature,
                phase=state.story_phase if state.plan_id else None,
                sandbox=sandbox,
                policy=self._policies.get(state.task.role, ""),
                response_schema=state.response_schema,
            )
            if given.superseded_by:
                prompt = rehashed(msgspec.structs.replace(prompt, superseded_by=dict(given.superseded_by)))
        choose(state, prompt)  # what cannot be had is refused before anything is frozen
        ttl = state.deadline - self._clock() + topology.RESULT_TTL
        try:
            await self._store.prompts.create(prompt_key(state.deliberation_id), prompt, ttl)
        except Conflict:
            found = await self.frozen(state.deliberation_id)
            if found is None:
                raise
            return found
        self._known.put(state.deliberation_id, prompt)
        return prompt


def choose(state: Deliberation, prompt: Prompt) -> auto.Chosen:
    """The protocol and numbers for a record by its frozen prompt: the same for the same two."""
    return auto.choose(
        asked=state.protocol,
        numbers=state.numbers,
        task=state.task,
        seats=state.seats,
        testers=state.testers,
        sandbox=prompt.sandbox,
        budget=state.budget,
        prompt_bytes=prompt_bytes(prompt),
        max_tokens=prompt.max_tokens,
        response_schema=prompt.proposal_schema,
    )


def rehashed(prompt: Prompt) -> Prompt:
    """The prompt with the hash over what it holds now."""
    bare = msgspec.structs.replace(prompt, hash="")
    return msgspec.structs.replace(bare, hash=hashlib.sha256(msgspec.json.encode(bare)).hexdigest())
