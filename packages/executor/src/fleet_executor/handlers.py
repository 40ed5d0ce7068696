"""The use cases. A request is checked here field by field; what is wrong is named as the caller wrote it."""

import asyncio
import datetime as dt
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog

from fleet_executor.jobs import EndedJob, JobSpec, Message, OpenJob
from fleet_executor.reconcile import Placement, give
from fleet_executor.registry import Registry
from fleet_wire import ids, tracing
from fleet_wire.errors import Invalid, NotFound
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2 as pb

log = structlog.get_logger(__name__)

MAX_JOBS = 256
MAX_TOKENS = 16384
MAX_JOB_BYTES = 400 * 1024
"""A job's record, prompt included; the store takes messages up to a megabyte, the house up to half of one."""
LONGEST = dt.timedelta(days=7)
MESSAGE_ROLES = ("system", "user", "assistant")


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
        spec = _spec(at, given)
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
            raise Invalid(f"{at}.messages make a job of {size} bytes, above the limit of {MAX_JOB_BYTES}")
        jobs[spec.job_id] = job
    return list(jobs.values())


async def execute(jobs: Sequence[OpenJob], registry: Registry, placement: Placement) -> list[str]:
    """Records the jobs of a request, gives the new ones to one actor, and answers with the ids of all. Raises AlreadyExists
    and Unavailable. Once recorded, a job is accepted: what keeps it from its actor now is mended later."""
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


async def active_jobs(registry: Registry) -> list[pb.JobStatus]:
    """Jobs that have not ended, the oldest first."""
    jobs = sorted((entry.value for entry in await registry.open_jobs()), key=lambda job: (job.accepted_at, job.key))
    ends = await asyncio.gather(*(registry.ended(job.key) for job in jobs))
    return [open_status(job) for job, end in zip(jobs, ends) if end is None]


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


def _spec(at: str, job: pb.Job) -> JobSpec:
    if not 1 <= job.max_tokens <= MAX_TOKENS:
        raise Invalid(f"{at}.max_tokens must be 1 to {MAX_TOKENS}, not {job.max_tokens}")
    if not 0 <= job.temperature <= 2:
        raise Invalid(f"{at}.temperature must be 0 to 2, not {job.temperature}")
    if not job.messages:
        raise Invalid(f"{at}.messages must hold at least one message")
    return JobSpec(
        job_id=ids.check_id(f"{at}.job_id", job.job_id),
        agent_id=ids.check_id(f"{at}.agent_id", job.agent_id),
        role=_role(f"{at}.role", job.role),
        phase=ids.check_id(f"{at}.phase", job.phase),
        item=ids.check_id(f"{at}.item", job.item) if job.item else "",
        messages=[_message(f"{at}.messages[{number}]", message) for number, message in enumerate(job.messages)],
        max_tokens=job.max_tokens,
        temperature=job.temperature,
        seed=job.seed,
    )


def _role(field: str, value: str) -> Any:
    return ids.check_role(field, value)


def _message(at: str, message: pb.Message) -> Message:
    if message.role not in MESSAGE_ROLES:
        raise Invalid(f"{at}.role must be one of {', '.join(MESSAGE_ROLES)}, not {message.role[:80]!r}")
    if not message.content:
        raise Invalid(f"{at}.content is empty")
    role: Any = message.role
    return Message(role=role, content=message.content)
