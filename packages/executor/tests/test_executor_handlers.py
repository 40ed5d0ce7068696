"""What a request is refused for, and what an accepted one leads to."""

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Optional

import msgspec
import pytest
from samples import NOW

from fleet_executor import handlers, jobs
from fleet_executor.calls import ModelCalls
from fleet_executor.jobs import OpenJob
from fleet_executor.registry import Registry
from fleet_wire import events
from fleet_wire.errors import AlreadyExists, Invalid, NotFound, Unavailable
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2 as pb
from fleet_wire.kv import Entry, MemoryBucket


class Actors:
    """Takes jobs as it is told to."""

    def __init__(self, refusal: str = "", error: Optional[Exception] = None) -> None:
        self.taken: list[OpenJob] = []
        self._refusal, self._error = refusal, error

    def pick(self, jobs: int) -> str:
        return "pool-0"

    async def accept(self, actor: str, jobs: Sequence[OpenJob]) -> str:
        if self._error:
            raise self._error
        if not self._refusal:
            self.taken.extend(jobs)
        return self._refusal


async def execute(
    made: pb.ExecuteDeliberationRequest, store: Registry, actors: Actors, calls: Optional[ModelCalls] = None
) -> list[str]:
    return await handlers.execute(handlers.parse(made, NOW), store, actors, calls or ModelCalls(store, 256))


@pytest.fixture
def store() -> Registry:
    return Registry(MemoryBucket(), MemoryBucket(), MemoryBucket(), MemoryBucket())


def request(count: int = 2) -> pb.ExecuteDeliberationRequest:
    made = pb.ExecuteDeliberationRequest(deliberation_id="delib-1", task_id="task-1")
    made.deadline.FromDatetime(NOW + dt.timedelta(minutes=1))
    for number in range(count):
        made.jobs.add(
            job_id=f"job-{number}",
            agent_id=f"agent-DEV-{number:03d}",
            role="DEV",
            phase="propose",
            messages=[pb.Message(role="user", content="go")],
            max_tokens=10,
            temperature=1,
            seed=1,
        )
    return made


def change(path: str, value: object) -> Callable[[pb.ExecuteDeliberationRequest], None]:
    def apply(made: pb.ExecuteDeliberationRequest) -> None:
        target = made.jobs[1] if path.startswith("jobs[1].") else made
        setattr(target, path.rsplit(".", maxsplit=1)[-1], value)

    return apply


BAD = [
    ("deliberation_id", change("deliberation_id", "a.b")),
    ("deliberation_id", change("deliberation_id", "")),
    ("task_id", change("task_id", "x" * 65)),
    ("task_id", change("task_id", "a>")),
    ("deadline is missing", lambda made: made.ClearField("deadline")),
    ("deadline", lambda made: made.deadline.FromDatetime(NOW + dt.timedelta(days=8))),
    ("deadline", lambda made: setattr(made.deadline, "seconds", 2**62)),
    ("jobs must hold", lambda made: made.ClearField("jobs")),
    ("jobs[1].job_id", change("jobs[1].job_id", "ä")),
    ("jobs[1].job_id repeats", change("jobs[1].job_id", "job-0")),
    ("jobs[1].agent_id", change("jobs[1].agent_id", "")),
    ("jobs[1].role", change("jobs[1].role", "dev")),
    ("jobs[1].phase", change("jobs[1].phase", "")),
    ("jobs[1].item", change("jobs[1].item", "a b")),
    ("jobs[1].max_tokens", change("jobs[1].max_tokens", 0)),
    ("jobs[1].max_tokens", change("jobs[1].max_tokens", 16385)),
    ("jobs[1].temperature", change("jobs[1].temperature", 2.1)),
    ("jobs[1].temperature", change("jobs[1].temperature", float("nan"))),
    ("jobs[1].messages must", lambda made: made.jobs[1].ClearField("messages")),
    ("jobs[1].messages[0].role", lambda made: setattr(made.jobs[1].messages[0], "role", "tool")),
    ("jobs[1].messages[0].content", lambda made: setattr(made.jobs[1].messages[0], "content", "")),
    ("jobs[1].messages make", lambda made: setattr(made.jobs[1].messages[0], "content", "x" * 500_000)),
]


@pytest.mark.parametrize(("field", "spoil"), BAD, ids=[f"{number}-{field}" for number, (field, _) in enumerate(BAD)])
async def test_a_bad_request_is_refused_by_the_name_of_its_field(
    field: str, spoil: Callable[[pb.ExecuteDeliberationRequest], None], store: Registry
) -> None:
    made, actors = request(), Actors()
    spoil(made)
    with pytest.raises(Invalid) as caught:
        await execute(made, store, actors)
    assert str(caught.value).startswith(field)
    assert await store.open_jobs() == []
    assert actors.taken == []


async def test_all_jobs_of_a_request_go_to_one_actor_with_everything_they_need(store: Registry) -> None:
    actors = Actors()
    assert await execute(request(3), store, actors) == ["job-0", "job-1", "job-2"]
    assert [job.spec.job_id for job in actors.taken] == ["job-0", "job-1", "job-2"]
    job = actors.taken[1]
    assert (job.actor, job.attempt, job.accepted_at, job.task_id) == ("pool-0", 1, NOW, "task-1")
    assert job.deadline == NOW + dt.timedelta(minutes=1)
    assert job.traceparent.startswith("00-")


async def test_a_repeated_request_is_answered_alike_and_runs_nothing_again(store: Registry) -> None:
    actors = Actors()
    first = await execute(request(), store, actors)
    assert await execute(request(), store, actors) == first
    assert len(actors.taken) == 2


async def test_the_same_id_with_another_content_is_refused(store: Registry) -> None:
    actors = Actors()
    await execute(request(1), store, actors)
    other = request(2)
    other.jobs[0].max_tokens = 11
    with pytest.raises(AlreadyExists, match="job-0"):
        await execute(other, store, actors)
    assert [job.spec.job_id for job in actors.taken] == ["job-0"]


@pytest.mark.parametrize("actors", [Actors(refusal="draining"), Actors(error=Unavailable("gone"))])
async def test_a_recorded_job_is_accepted_even_if_its_actor_is_not_there(actors: Actors, store: Registry) -> None:
    assert await execute(request(), store, actors) == ["job-0", "job-1"]
    assert len(await store.open_jobs()) == 2


async def test_the_status_shows_running_and_ended_jobs_with_their_result(store: Registry) -> None:
    await execute(request(), store, Actors())
    job = (await store.open_jobs())[0].value
    timing = events.Timing(total_seconds=1)
    ended = jobs.completed(job, "answer", "m", events.Usage(prompt=5), timing, NOW + dt.timedelta(seconds=1))
    await store.end(ended)
    first, second = await handlers.deliberation_status("delib-1", store)
    assert (first.status, second.status) == ("completed", "running")
    assert msgspec.json.decode(first.result, type=events.AgentResult) == ended.result
    assert first.ended_at.ToDatetime(tzinfo=dt.timezone.utc) == NOW + dt.timedelta(seconds=1)
    assert not second.result and not second.HasField("ended_at")
    assert [job.spec.job_id for job in await handlers.active_jobs(store)] == ["job-1"]
    await store.close(job.key)
    assert [status.status for status in await handlers.deliberation_status("delib-1", store)] == [
        "completed",
        "running",
    ]


async def test_an_end_that_cannot_be_read_hides_no_other_job() -> None:
    class Spoilt(MemoryBucket[jobs.EndedJob]):
        async def get(self, key: str) -> Optional[Entry[jobs.EndedJob]]:
            if key.endswith("job-0"):
                raise Invalid(f"record {key} cannot be read")
            return await super().get(key)

    ends = Spoilt()
    store = Registry(MemoryBucket(), MemoryBucket(), ends, MemoryBucket())
    spoilt, other = handlers.parse(request(), NOW)
    for job in (spoilt, other):
        await store._open.create(f"open.{job.key}", job)
    assert [job.key for job in await handlers.active_jobs(store)] == [spoilt.key, other.key]


async def test_nothing_is_known_of_a_deliberation_a_day_after_its_end() -> None:
    moment = [NOW]
    store = Registry(*(MemoryBucket(lambda: moment[0]) for _ in range(4)))  # type: ignore[arg-type]
    await execute(request(), store, Actors())
    for entry in await store.open_jobs():
        timing = events.Timing(total_seconds=1)
        await store.end(jobs.completed(entry.value, "answer", "m", events.Usage(), timing, NOW))
        await store.close(entry.value.key)
    moment[0] += dt.timedelta(hours=23, minutes=59)
    assert len(await handlers.deliberation_status("delib-1", store)) == 2
    moment[0] += dt.timedelta(minutes=2)
    with pytest.raises(NotFound):
        await handlers.deliberation_status("delib-1", store)
    assert await handlers.active_jobs(store) == []


async def test_an_unknown_deliberation_is_not_found(store: Registry) -> None:
    with pytest.raises(NotFound, match="delib-9"):
        await handlers.deliberation_status("delib-9", store)
    with pytest.raises(Invalid, match="deliberation_id"):
        await handlers.deliberation_status("a b", store)
