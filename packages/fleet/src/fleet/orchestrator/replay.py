"""A replay: what another deliberation was answered is taken over where the question is the same, byte for byte.

The questions of the old deliberation are made again from its record, its prompt and its results, phase by phase, as they were
made when it ran. The model is asked only for what is left.
"""

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence

import msgspec

from fleet.deliberation.prompt import Prompt
from fleet.deliberation.requests import JobRequest, question, requests
from fleet.deliberation.state import Deliberation, Job, JobEnded
from fleet.orchestrator.clocks import Clock
from fleet.orchestrator.live import DeliberationRecords
from fleet.orchestrator.preparing import Preparing
from fleet.orchestrator.results import Results
from fleet.orchestrator.store import Store, outcome_key
from fleet_wire import ids
from fleet_wire.errors import NotFound, Precondition
from fleet_wire.events import AgentResult, Usage


@dataclasses.dataclass(frozen=True)
class Stored:
    """A deliberation with all that a replay takes over; `state` has the task's texts."""

    state: Deliberation
    prompt: Prompt
    results: Mapping[str, AgentResult]


@dataclasses.dataclass(frozen=True)
class Replays:
    """Where stored deliberations are found."""

    store: Store
    records: DeliberationRecords
    preparing: Preparing
    results: Results
    clock: Clock

    async def stored(self, deliberation_id: str) -> Stored:
        """The deliberation; raises NotFound for an unknown one, Precondition where its answers are kept no longer."""
        ids.check_id("replay_of", deliberation_id)
        state = await self.records.read(deliberation_id)
        if state is None:
            raise NotFound(f"no deliberation {deliberation_id}")
        prompt = await self.preparing.frozen(deliberation_id)
        if state.retired:
            entry = await self.store.outcomes.get(outcome_key(deliberation_id))
            task = entry.value.task if entry else None
            state = msgspec.structs.replace(state, task=task) if task else state
            prompt = prompt if task else None
        if prompt is None:
            raise Precondition(
                f"{deliberation_id} cannot be replayed: prompt and answers are kept from its start until 24 hours after its end"
            )
        return Stored(state, prompt, await self.results.of(state))

    async def take_over(self, state: Deliberation, jobs: Sequence[JobRequest]) -> tuple[JobEnded, ...]:
        """Saves, as results of this deliberation, the answers that the replayed one has to these requests. Where those are kept
        no longer there are none: then all is asked anew."""
        try:
            old = await self.stored(state.replay_of)
        except (NotFound, Precondition):
            return ()
        found = await asyncio.to_thread(answered, old)
        taken = taken_over(jobs, found, state)
        await asyncio.gather(*(self.results.save(result) for result in taken.values()))
        return tuple(JobEnded(job_id, None, self.clock()) for job_id in taken)


def answered(old: Stored) -> dict[str, AgentResult]:
    """The answers of a stored deliberation by the hash of the question they answer."""
    found: dict[str, AgentResult] = {}
    jobs = old.state.jobs
    for at, group in _groups(jobs):
        before = jobs[:at]
        known = {job.job_id: old.results[job.job_id] for job in before if job.job_id in old.results}
        if any(job.status == "completed" and job.job_id not in known for job in before):
            break  # what was asked after a lost answer can no longer be told
        again = tuple(msgspec.structs.replace(job, status="waiting") for job in group)
        then = msgspec.structs.replace(old.state, status="running", phase=group[0].phase, jobs=before + again)
        for request in requests(then, old.prompt, known):
            result = old.results.get(request.job_id)
            if result is not None and result.status == "completed":
                found[question(request)] = result
    return found


def taken_over(
    wanted: Sequence[JobRequest], found: Mapping[str, AgentResult], state: Deliberation
) -> dict[str, AgentResult]:
    """Results for those of the requests that have an answer, by job id. They cost this deliberation nothing."""
    return {
        request.job_id: msgspec.structs.replace(
            answer,
            job_id=request.job_id,
            deliberation_id=state.deliberation_id,
            task_id=state.task.task_id,
            calls=0,
            usage=Usage(),
        )
        for request in wanted
        if (answer := found.get(question(request))) is not None
    }


def _groups(jobs: Sequence[Job]) -> list[tuple[int, tuple[Job, ...]]]:
    """The jobs that were opened together, with the place of the first: `tests` runs beside `propose`, all else alone."""
    groups: list[tuple[int, tuple[Job, ...]]] = []
    for at, job in enumerate(jobs):
        if groups and job.phase in (groups[-1][1][-1].phase, "tests"):
            groups[-1] = (groups[-1][0], (*groups[-1][1], job))
        else:
            groups.append((at, (job,)))
    return groups
