"""The rules of jobs, and the registry on the in-memory bucket."""

import asyncio
import datetime as dt
from typing import Any

import msgspec
import pytest
from samples import NOW, open_job, spec

from fleet_executor import jobs as rules
from fleet_executor.jobs import ActorView, EndedJob, OpenJob, due
from fleet_executor.registry import Registry
from fleet_wire import events, topology
from fleet_wire.errors import AlreadyExists, Conflict
from fleet_wire.fingerprint import fingerprint
from fleet_wire.kv import MemoryBucket

LATER = NOW + rules.GRACE + dt.timedelta(seconds=1)


def registry(now: Any = lambda: NOW) -> Registry:
    return Registry(MemoryBucket(now), MemoryBucket(now), MemoryBucket(now), MemoryBucket(now))


def ended(job: OpenJob, text: str = "done") -> EndedJob:
    return rules.completed(job, text, "m", events.Usage(), events.Timing(), NOW)


def views(*actors: ActorView) -> dict[str, ActorView]:
    return {actor.name: actor for actor in actors}


def test_a_job_that_its_actor_holds_is_left_alone() -> None:
    job = open_job()
    assert due([job], views(ActorView(name="pool-0", held=frozenset({job.key}))), LATER) == rules.Due()


def test_a_job_that_nobody_holds_is_handed_on_after_the_grace() -> None:
    job = open_job()
    actors = views(ActorView(name="pool-0"))
    assert due([job], actors, NOW + dt.timedelta(seconds=1)) == rules.Due()
    assert due([job], actors, LATER) == rules.Due(hand_on=[job.key])


def test_a_job_held_by_another_actor_than_recorded_is_left_alone() -> None:
    job = open_job()
    actors = views(ActorView(name="pool-0"), ActorView(name="pool-1", held=frozenset({job.key})))
    assert due([job], actors, LATER) == rules.Due()


def test_a_job_of_an_actor_that_is_gone_is_handed_on_at_once() -> None:
    assert due([open_job()], {}, NOW + dt.timedelta(seconds=1)).hand_on == ["delib-1.job-1"]
    assert due([open_job()], {}, NOW) == rules.Due()  # handed over after the actors were asked


def test_what_an_actor_is_known_to_have_lost_is_handed_on_at_once() -> None:
    moment = NOW + dt.timedelta(seconds=1)
    actors = views(ActorView(name="pool-0", lost_before=moment))
    assert due([open_job()], actors, moment).hand_on == ["delib-1.job-1"]
    assert due([open_job(handed_at=moment)], actors, moment) == rules.Due()


def test_a_silent_actor_keeps_its_jobs_for_a_while_and_then_loses_them() -> None:
    job = open_job()
    silent = ActorView(name="pool-0", silent_seconds=3)
    assert due([job], views(silent), LATER) == rules.Due()
    silent = ActorView(name="pool-0", silent_seconds=rules.SILENCE.total_seconds())
    assert due([job], views(silent), LATER).hand_on == [job.key]


def test_a_cancelled_job_ends_as_such_whoever_holds_it_and_is_not_handed_on() -> None:
    held, lost = open_job(1, cancelled=True), open_job(2, cancelled=True)
    holding = views(ActorView(name="pool-0", held=frozenset({held.key})))
    assert due([held, lost], holding, LATER) == rules.Due(cancel=[held.key, lost.key])


def test_a_job_past_its_deadline_expires_whoever_holds_it() -> None:
    job = open_job()
    holding = views(ActorView(name="pool-0", held=frozenset({job.key})))
    assert due([job], holding, job.deadline) == rules.Due()
    assert due([job], holding, job.deadline + rules.DEADLINE_GRACE) == rules.Due(expire=[job.key])


def test_a_long_answer_is_cut_and_says_so() -> None:
    result = ended(open_job(), "x" * 100_000).result
    assert result.content_cut
    assert len(msgspec.json.encode(result.content)) <= events.MAX_CONTENT_BYTES
    assert not ended(open_job(), "short").result.content_cut


def test_an_end_holds_no_secret_also_where_it_is_cut() -> None:
    found = events.Check(name="lint", status="failed", detail='password = "hunter2"')
    result = rules.completed(
        open_job(), "pwd=hunter2;" * 10_000, "model", events.Usage(), events.Timing(), LATER, checks=[found]
    ).result
    assert "hunter" not in result.content
    assert result.content_cut
    assert result.checks[0].detail == 'password = "[redacted:password]"'
    halved = "x" * (events.MAX_CONTENT_BYTES - 14) + " AKI" + "AQ3EGRJ7XW2LZ9KFP"
    assert "AKI" not in ended(open_job(), halved).result.content
    error = events.JobError(kind="http", message="http://me:hunter2@model refused", retryable=False)
    assert "hunter" not in str(rules.failed(open_job(), error, LATER, content="pwd=hunter2").result)


def test_the_content_of_a_job_is_its_deliberation_task_and_spec() -> None:
    first = fingerprint(rules.content("d", "t", spec()))
    assert first == fingerprint(rules.content("d", "t", spec()))
    others = {
        fingerprint(rules.content("e", "t", spec())),
        fingerprint(rules.content("d", "u", spec())),
        fingerprint(rules.content("d", "t", spec(seed=8))),
        fingerprint(rules.content("d", "t", spec(messages=[rules.Message(role="user", content="other")]))),
    }
    assert len(others | {first}) == 5


async def test_a_repeated_job_is_known_and_not_new() -> None:
    store, job = registry(), open_job()
    assert await store.accept([job]) == [job]
    assert await store.accept([job]) == []
    assert [entry.value for entry in await store.open_jobs("delib-1")] == [job]


async def test_a_job_that_ended_is_known_and_not_opened_again() -> None:
    store, job = registry(), open_job()
    await store.accept([job])
    await store.end(ended(job))
    await store.close(job.key)
    assert await store.accept([job]) == []
    assert await store.open_jobs() == []


async def test_an_id_with_another_content_refuses_the_whole_request() -> None:
    store = registry()
    await store.accept([open_job(1)])
    with pytest.raises(AlreadyExists, match="job-1"):
        await store.accept([open_job(2), open_job(1, spec=spec(1, max_tokens=65)), open_job(3)])
    assert [entry.value.spec.job_id for entry in await store.open_jobs()] == ["job-1"]
    assert len(await store.accept([open_job(2), open_job(3)])) == 2  # they were claimed, and not accepted


async def test_an_id_of_another_deliberation_is_refused() -> None:
    store = registry()
    await store.accept([open_job(1)])
    with pytest.raises(AlreadyExists):
        await store.accept([open_job(1, deliberation_id="delib-2")])


async def test_only_the_first_end_of_a_job_stands() -> None:
    store, job = registry(), open_job()
    await store.accept([job])
    ends = await asyncio.gather(*(store.end(ended(job, str(number))) for number in range(5)))
    assert len({end.result.content for end in ends}) == 1
    assert await store.ended(job.key) == ends[0]


async def test_a_job_that_was_closed_cannot_be_handed_on() -> None:
    store, job = registry(), open_job()
    await store.accept([job])
    [entry] = await store.open_jobs()
    await store.close(job.key)
    with pytest.raises(Conflict):
        await store.hand_on(entry, rules.handed_on(job, "pool-1", NOW))


async def test_a_job_is_handed_on_once() -> None:
    store, job = registry(), open_job()
    await store.accept([job])
    [entry] = await store.open_jobs()
    moved = rules.handed_on(job, "pool-1", LATER)
    await store.hand_on(entry, moved)
    with pytest.raises(Conflict):
        await store.hand_on(entry, rules.handed_on(job, "pool-0", LATER))
    [entry] = await store.open_jobs()
    assert (entry.value.attempt, entry.value.actor, entry.value.handed_at) == (2, "pool-1", LATER)


async def test_results_are_kept_for_24_hours_and_the_id_longer() -> None:
    moment = [NOW]
    store, job = registry(lambda: moment[0]), open_job()
    await store.accept([job])
    await store.end(ended(job))
    await store.close(job.key)
    moment[0] += topology.RESULT_TTL - dt.timedelta(seconds=1)
    assert len(await store.ended_jobs("delib-1")) == 1
    moment[0] += dt.timedelta(seconds=2)
    assert await store.ended_jobs("delib-1") == []
    with pytest.raises(AlreadyExists):
        await store.accept([open_job(1, spec=spec(1, seed=9))])


async def test_a_job_that_was_claimed_and_not_recorded_is_accepted_by_the_next_request() -> None:
    store, job = registry(), open_job()
    assert await store._claim(job)  # and here the executor dies
    assert await store.accept([job]) == [job]
    assert await store.accept([job]) == []


async def test_an_executor_that_was_started_earlier_does_not_claim_the_pool_back() -> None:
    store = registry()
    await store.claim_pool("pool-b", LATER)
    await store.claim_pool("pool-a", NOW)
    current = await store.current_pool()
    assert current is not None and current.pool == "pool-b"


async def test_the_pool_that_came_last_takes_over() -> None:
    store = registry()
    await store.claim_pool("pool-a", NOW)
    await store.claim_pool("pool-b", LATER)
    current = await store.current_pool()
    assert current is not None
    assert (current.pool, current.claimed_at) == ("pool-b", LATER)
