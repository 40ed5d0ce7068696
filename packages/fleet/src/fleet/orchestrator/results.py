"""The results of jobs: create-only records, of which a replica remembers those that it has seen."""

import asyncio
from collections.abc import Iterable

import structlog

from fleet.deliberation.state import Deliberation
from fleet.orchestrator.peers import Executor
from fleet.orchestrator.store import Store
from fleet.recent import Recent
from fleet_wire import topology
from fleet_wire.errors import Conflict
from fleet_wire.events import AgentResult
from fleet_wire.kv import Entry

log = structlog.get_logger(__name__)

KEPT_BYTES = 64 * 1024 * 1024
"""What a replica remembers of results, by the size of their texts."""
OVERHEAD_BYTES = 1024


class Results:
    """Saves and loads results. What it remembers is what stands in the store: a result is written once."""

    def __init__(self, store: Store, executor: Executor) -> None:
        self._store = store
        self._executor = executor
        self._known: Recent[Entry[AgentResult]] = Recent(KEPT_BYTES)

    async def save(self, result: AgentResult) -> AgentResult:
        """Copies it into the store; answers with the one that counts, which is the first, whatever a repetition says. It has
        the time to live of a stub until its deliberation has ended."""
        try:
            revision = await self._store.results.create(result.job_id, result, topology.STUB_TTL)
            entry = Entry(result.job_id, result, revision)
        except Conflict:
            kept = await self._store.results.get(result.job_id)
            if kept is None:
                return result
            entry = kept
        self._keep(entry)
        return entry.value

    async def of(self, state: Deliberation, job_ids: Iterable[str] | None = None) -> dict[str, AgentResult]:
        """The results of a record's ended jobs (or of these of them) by job id: remembered, from the store, or from the
        executor where the store has lost them. One that nobody has is not among them."""
        ended = {job.job_id for job in state.jobs if job.status != "waiting"}
        wanted = [
            job.job_id
            for job in state.jobs
            if job.job_id in (ended if job_ids is None else ended.intersection(job_ids))
        ]
        found = {job_id: entry.value for job_id in wanted if (entry := self._known.get(job_id)) is not None}
        missing = [job_id for job_id in wanted if job_id not in found]
        for entry in await asyncio.gather(*(self._store.results.get(job_id) for job_id in missing)):
            if entry is not None:
                found[entry.key] = entry.value
                self._keep(entry)
        if len(found) < len(wanted) and not state.retired:
            log.error("results are gone from the store", deliberation_id=state.deliberation_id)
            kept = await self._executor.results(state.deliberation_id)
            found.update({job_id: one for job_id in wanted if job_id not in found and (one := kept.get(job_id))})
        return {job_id: found[job_id] for job_id in wanted if job_id in found}

    def remembers(self, state: Deliberation) -> bool:
        """Whether the results of all ended jobs are at hand."""
        return all(job.status == "waiting" or self._known.get(job.job_id) is not None for job in state.jobs)

    async def expire(self, job_id: str) -> None:
        """Gives the result of an ended deliberation its time to live; where there is none, nothing."""
        entry = self._known.get(job_id) or await self._store.results.get(job_id)
        if entry is not None:
            await self._store.results.expire(entry, topology.RESULT_TTL)

    def forget(self, state: Deliberation) -> None:
        """Makes room."""
        for job in state.jobs:
            self._known.drop(job.job_id)

    def _keep(self, entry: Entry[AgentResult]) -> None:
        error = len(entry.value.error.message) if entry.value.error else 0
        self._known.put(entry.key, entry, OVERHEAD_BYTES + len(entry.value.content) + error)
