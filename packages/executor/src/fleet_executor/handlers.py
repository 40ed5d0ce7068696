"""The use cases. A request is checked here field by field; what is wrong is named as the caller wrote it."""

import asyncio
import datetime as dt
from collections.abc import Sequence
from typing import Optional

import msgspec
import structlog

from fleet_executor.calls import ModelCalls
from fleet_executor.ending import finish
from fleet_executor.jobs import MAX_JOBS, EndedJob, OpenJob, cancelled_error, failed
from fleet_executor.reconcile import Placement, give
from fleet_executor.registry import Registry
from fleet_executor.specs import spec_of
from fleet_wire import clock, ids, tracing
from fleet_wire.bus import Bus
from fleet_wire.errors import Invalid, NotFound
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2 as pb

log = structlog.get_logger(__name__)

MAX_JOB_BYTES = 400 * 1024
"""A job's record, prompt included; the store takes messages up to a megabyte, the house up to half of one."""
LONGEST = dt.timedelta(days=7)


def parse(request: pb.ExecuteDeliberationRequest, now: dt.datetime) -> list[OpenJob]:
    """The jobs of a request. Raises Invalid naming the first field that is wrong."""
    deliberation_id = ids.check_id("deliberation_id", request.deliberation_id)
    task_id = ids.check_id("task_id", request.task_id)
    deadline = _deadline(request, now)
    if not 1 <= len(request.jobs) <= MAX_JOBS:
        raise Invalid(f"jobs must hold 1 to {MAX_JOBS} jobs, not {len(request.jobs)}")
    parent = tracing.traceparent(deliberation_id)
    jobs: dict[str, OpenJob] = {}
    for number, given in enumerate(request.jobs):
        at = f"jobs[{number}]"
        spec = spec_of(at, given)
        if spec.job_id in jobs:
            raise Invalid(f"{at}.job_id repeats {spec.job_id}, which stands before it")
        job = OpenJob(
            deliberation_id=deliberation_id,
            task_id=task_id,
            spec=spec,
            deadline=deadline,
            accepted_at=now,
            handed_at=now,
            traceparent=parent,
        )
        size = len(msgspec.json.encode(job))
        if size > MAX_JOB_BYTES:
            what = "messages" if job.spec.dry_run is None else "dry_run"
            raise Invalid(f"{at}.{what} make a job of {size} bytes, above the limit of {MAX_JOB_BYTES}")
        jobs[spec.job_id] = job
    return list(jobs.values())


async def execute(jobs: Sequence[OpenJob], registry: Registry, placement: Placement, calls: ModelCalls) -> list[str]:
    """Records the jobs of a request, gives the new ones to one actor, and answers with the ids of all. Raises AlreadyExists,
    Unavailable, and Exhausted where they are more than the model's endpoint takes now. Once recorded, a job is accepted: what
    keeps it from its actor now is mended later."""
    async with calls.taken(jobs):
        actor = placement.pick(len(jobs))
        new = await registry.accept([msgspec.structs.replace(job, actor=actor) for job in jobs])
    if new:
        await give(placement, actor, new)
    log.info(
        "Ray Executor accepted a deliberation's jobs",
        deliberation=jobs[0].deliberation_id,
        task_id=jobs[0].task_id,
        jobs=len(jobs),
        new=len(new),
        actor=actor,
    )
    return [job.spec.job_id for job in jobs]


async def deliberation_status(deliberation_id: str, registry: Registry) -> list[pb.JobStatus]:
    """Every known job of the deliberation; raises NotFound where there is none."""
    ids.check_id("deliberation_id", deliberation_id)
    # First the open ones: what ends in between is then found among the ended.
    open_jobs = [entry.value for entry in await registry.open_jobs(deliberation_id)]
    known = {job.key: open_status(job) for job in open_jobs}
    known.update({job.key: ended_status(job) for job in await registry.ended_jobs(deliberation_id)})
    if not known:
        raise NotFound(f"no job of deliberation {deliberation_id} is known")
    return sorted(known.values(), key=lambda status: (status.phase, status.agent_id, status.item, status.job_id))


async def cancel(deliberation_id: str, registry: Registry, bus: Bus) -> list[OpenJob]:
    """Ends the open jobs of the deliberation as cancelled, published as any end, and answers with them. Raises NotFound where
    none is known, and Unavailable, after which it may be called again.

    Each job is marked first: from then on it ends as cancelled also where this process does not come to the end of it.
    """
    ids.check_id("deliberation_id", deliberation_id)
    entries = await registry.open_jobs(deliberation_id)
    if not entries and not await registry.ended_jobs(deliberation_id):
        raise NotFound(f"no job of deliberation {deliberation_id} is known")
    outcomes = await asyncio.gather(
        *(_cancel(entry.value.key, registry, bus) for entry in entries), return_exceptions=True
    )
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    cancelled = [job for job in outcomes if isinstance(job, OpenJob)]
    log.info("Ray Executor cancelled a deliberation", deliberation=deliberation_id, jobs=len(cancelled))
    return cancelled


async def _cancel(key: str, registry: Registry, bus: Bus) -> Optional[OpenJob]:
    """The job, if it ended as cancelled; None where it had ended."""
    job = await registry.cancel(key)
    if job is None:
        return None
    try:
        standing = await finish(registry, bus, failed(job, cancelled_error(), clock.now()))
    except Invalid as error:  # of the end that stands
        log.error("job left as it is", job=key, reason=str(error))
        return None
    reason = standing.result.error
    return job if reason is not None and reason.kind == "cancelled" else None


async def active_jobs(registry: Registry) -> list[OpenJob]:
    """Jobs that have not ended, the oldest first. One whose end cannot be read counts as not ended, and is logged."""
    jobs = sorted((entry.value for entry in await registry.open_jobs()), key=lambda job: (job.accepted_at, job.key))
    ends = await asyncio.gather(*(_has_ended(job.key, registry) for job in jobs))
    return [job for job, has_ended in zip(jobs, ends) if not has_ended]


async def _has_ended(key: str, registry: Registry) -> bool:
    try:
        return await registry.ended(key) is not None
    except Invalid as error:
        log.error("job counted as open", job=key, reason=str(error))
        return False


def open_status(job: OpenJob) -> pb.JobStatus:
    status = pb.JobStatus(
        job_id=job.spec.job_id,
        deliberation_id=job.deliberation_id,
        task_id=job.task_id,
        agent_id=job.spec.agent_id,
        role=job.spec.role,
        phase=job.spec.phase,
        item=job.spec.item,
        attempt=job.attempt,
        status="running",
        actor=job.actor,
    )
    status.accepted_at.FromDatetime(job.accepted_at)
    return status


def ended_status(job: EndedJob) -> pb.JobStatus:
    result = job.result
    status = pb.JobStatus(
        job_id=result.job_id,
        deliberation_id=result.deliberation_id,
        task_id=result.task_id,
        agent_id=result.agent_id,
        role=result.role,
        phase=result.phase,
        item=result.item,
        attempt=result.attempt,
        status=result.status,
        result=msgspec.json.encode(result),
        actor=job.actor,
    )
    status.accepted_at.FromDatetime(job.accepted_at)
    status.ended_at.FromDatetime(job.ended_at)
    return status


def _deadline(request: pb.ExecuteDeliberationRequest, now: dt.datetime) -> dt.datetime:
    if not request.HasField("deadline"):
        raise Invalid("deadline is missing")
    try:
        deadline: dt.datetime = request.deadline.ToDatetime(tzinfo=dt.timezone.utc)
    except (ValueError, OverflowError) as error:
        raise Invalid(f"deadline is no moment: {error}") from error
    if deadline > now + LONGEST:
        raise Invalid(f"deadline must be within {LONGEST.days} days, not {deadline.isoformat()}")
    return deadline
