"""The registry of jobs, in the JetStream bucket `jobs`. It outlives the executor and every actor.

Keys: `claim.{job_id}` · `open.{deliberation_id}.{job_id}` · `ended.{deliberation_id}.{job_id}` · `pool.current`
"""

import asyncio
import datetime as dt
from collections.abc import Sequence
from typing import Optional

import msgspec

from fleet_executor.jobs import EndedJob, JobClaim, OpenJob, PoolClaim, content
from fleet_wire import topology
from fleet_wire.bus import Bus
from fleet_wire.errors import AlreadyExists, Conflict
from fleet_wire.fingerprint import fingerprint, is_of
from fleet_wire.kv import Bucket, Entry, JetStreamBucket, change

POOL_KEY = "pool.current"


class Registry:
    """Every call raises Unavailable while the store is away."""

    def __init__(
        self, claims: Bucket[JobClaim], open_jobs: Bucket[OpenJob], ended: Bucket[EndedJob], pools: Bucket[PoolClaim]
    ) -> None:
        self._claims = claims
        self._open = open_jobs
        self._ended = ended
        self._pools = pools

    @classmethod
    def on(cls, bus: Bus) -> "Registry":
        """The registry as the bus's server holds it."""
        return cls(
            JetStreamBucket(bus, "jobs", JobClaim),
            JetStreamBucket(bus, "jobs", OpenJob),
            JetStreamBucket(bus, "jobs", EndedJob),
            JetStreamBucket(bus, "jobs", PoolClaim),
        )

    async def accept(self, jobs: Sequence[OpenJob]) -> list[OpenJob]:
        """Records the jobs and answers with those that were not known. All or none: where an id belongs to another
        content it raises AlreadyExists and records nothing. The ids it claimed till then stay claimed for their content: a
        claim that is never taken back says for certain that a job is new."""
        claimed = await asyncio.gather(*(self._claim(job) for job in jobs), return_exceptions=True)
        for outcome in claimed:
            if isinstance(outcome, BaseException):
                raise outcome
        recorded = await asyncio.gather(*(self._record(job, is_free is True) for job, is_free in zip(jobs, claimed)))
        return [job for job, is_new in zip(jobs, recorded) if is_new]

    async def hand_on(self, entry: Entry[OpenJob], job: OpenJob) -> None:
        """Writes who has the job now; raises Conflict where somebody else has written, or the job is closed."""
        await self._open.update(f"open.{entry.value.key}", job, entry.revision)

    async def cancel(self, key: str) -> Optional[OpenJob]:
        """Marks an open job as cancelled, so that it ends so whatever happens to the caller; None where it is closed."""

        def step(job: Optional[OpenJob]) -> Optional[OpenJob]:
            return msgspec.structs.replace(job, cancelled=True) if job else None

        return await change(self._open, f"open.{key}", step)

    async def end(self, ended: EndedJob) -> EndedJob:
        """Records the end of a job and answers with the end that stands, which is the first one."""
        key = f"ended.{ended.key}"
        while True:
            try:
                await self._ended.create(key, ended, topology.RESULT_TTL)
                return ended
            except Conflict:
                standing = await self._ended.get(key)
                if standing is not None:
                    return standing.value

    async def ended(self, key: str) -> Optional[EndedJob]:
        """How the job `{deliberation_id}.{job_id}` ended, if it did."""
        entry = await self._ended.get(f"ended.{key}")
        return entry.value if entry else None

    async def knows(self, key: str) -> bool:
        """Whether the job was accepted, be it open or ended."""
        return await self._open.get(f"open.{key}") is not None or await self._ended.get(f"ended.{key}") is not None

    async def is_open(self, key: str) -> bool:
        """Whether the end of the job still has to be published."""
        return await self._open.get(f"open.{key}") is not None

    async def close(self, key: str) -> None:
        """The end of the job is published. Nothing is waited for: where the server does not get it, a later round finds the job
        open and its end recorded, and closes it."""
        await self._open.discard(f"open.{key}")

    async def open_jobs(self, deliberation_id: str = "") -> list[Entry[OpenJob]]:
        """Those of one deliberation, or all."""
        prefix = f"open.{deliberation_id}." if deliberation_id else "open."
        return [entry async for entry in self._open.entries(prefix)]

    async def ended_jobs(self, deliberation_id: str) -> list[EndedJob]:
        return [entry.value async for entry in self._ended.entries(f"ended.{deliberation_id}.")]

    async def claim_pool(self, pool: str, started_at: dt.datetime) -> None:
        """Makes this pool the one that takes new jobs, unless an executor that was started later has claimed that."""

        def step(current: Optional[PoolClaim]) -> Optional[PoolClaim]:
            later = current is not None and current.claimed_at > started_at
            return None if later else PoolClaim(pool=pool, claimed_at=started_at)

        await change(self._pools, POOL_KEY, step)

    async def current_pool(self) -> Optional[PoolClaim]:
        entry = await self._pools.get(POOL_KEY)
        return entry.value if entry else None

    async def _claim(self, job: OpenJob) -> bool:
        """Whether the id was free. A claim outlives what is kept of the job, so that there is no gap between the two."""
        key = f"claim.{job.spec.job_id}"
        asked = content(job.deliberation_id, job.task_id, job.spec)
        claim = JobClaim(deliberation_id=job.deliberation_id, content_hash=fingerprint(asked))
        ttl = max(job.deadline - job.accepted_at, dt.timedelta()) + topology.RESULT_TTL + dt.timedelta(hours=1)
        while True:
            try:
                await self._claims.create(key, claim, ttl)
                return True
            except Conflict:
                entry = await self._claims.get(key)
                if entry is None:
                    continue
                if not is_of(entry.value.content_hash, asked):
                    raise AlreadyExists(f"job {job.spec.job_id} exists with another content") from None
                return False

    async def _record(self, job: OpenJob, is_free: bool) -> bool:
        """Whether it was not known. Where the id was claimed before, the job may have ended, or whoever claimed it did not
        come to record it."""
        try:
            await self._open.create(f"open.{job.key}", job)
        except Conflict:
            return False
        if is_free or await self.ended(job.key) is None:
            return True
        await self.close(job.key)  # where a crash leaves it open, the next round finds its end and closes it
        return False
