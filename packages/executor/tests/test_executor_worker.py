"""The actor as a plain object, on a real NATS and a scripted model."""

import asyncio
import contextlib
import datetime as dt
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from integration import drained
from samples import open_job, spec
from scripted_model import TAIL, ScriptedModel, piece

from fleet_executor import handlers, vllm, worker
from fleet_executor.config import WorkerConfig
from fleet_executor.ending import finish
from fleet_executor.jobs import ActorView, OpenJob, completed, failed
from fleet_executor.reconcile import reconcile
from fleet_executor.registry import Registry
from fleet_executor.tokens import Pace, TokenStream
from fleet_executor.worker import VLLMAgentJob
from fleet_wire import events, ids
from fleet_wire.bus import Bus
from fleet_wire.errors import Unavailable


def now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)


def fresh_job(prompt: str = "one two three", **changes: Any) -> OpenJob:
    """A job of a deliberation of its own, since all tests share one server."""
    name = ids.derived("delib", time.monotonic_ns())
    messages = [{"role": "user", "content": prompt}]
    asked = msgspec.convert(
        {**msgspec.to_builtins(spec()), "job_id": f"job-{name}", "messages": messages}, type(spec())
    )
    return open_job(now=now(), spec=asked, deliberation_id=name, task_id=f"task-{name}", **changes)


@pytest.fixture
def registry(bus: Bus) -> Registry:
    return Registry.on(bus)


@pytest.fixture(scope="module")
def nats_url(quiet_nats_url: str) -> str:
    return quiet_nats_url


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    """A model of these tests' own: actors on Ray that still finish jobs of other tests would take lines of its script."""
    server = ScriptedModel()
    yield server
    server.close()


@pytest.fixture
async def actor(bus: Bus, nats_url: str, model: ScriptedModel) -> AsyncIterator[VLLMAgentJob]:
    config = WorkerConfig(nats_url=nats_url, vllm_url=model.url, first_token_seconds=60, idle_seconds=60, attempts=2)
    made = VLLMAgentJob("pool-0", msgspec.json.encode(config))
    yield made
    await made.close()


async def give(actor: VLLMAgentJob, registry: Registry, *jobs: OpenJob) -> str:
    await registry.accept(jobs)
    return await actor.accept(msgspec.json.encode(jobs))


async def held(actor: VLLMAgentJob) -> list[str]:
    found: list[str] = msgspec.json.decode(await actor.survey(None))["held"]
    return found


async def idle(actor: VLLMAgentJob) -> None:
    for _ in range(1200):
        if not await held(actor):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the actor is still at work")


async def results(bus: Bus, job: OpenJob) -> list[events.AgentResult]:
    return await drained(bus, f"agent.results.{job.task_id}", "AGENT_RESULTS", 0, 0.4)  # type: ignore[return-value]


async def test_a_job_ends_in_the_registry_and_on_the_bus(actor: VLLMAgentJob, registry: Registry, bus: Bus) -> None:
    job = fresh_job()
    assert await give(actor, registry, job) == ""
    await idle(actor)
    [result] = await results(bus, job)
    assert (result.status, result.content, result.attempt, result.model) == (
        "completed",
        "one two three",
        1,
        "scripted",
    )
    assert result.usage == events.Usage(prompt=12, completion=3, cached=8)
    assert result.timing.first_token_seconds is not None
    ended = await registry.ended(job.key)
    assert ended is not None and ended.result == result
    assert not await registry.is_open(job.key)


async def test_tokens_come_at_most_every_100_ms_in_order_and_end_with_done(
    actor: VLLMAgentJob, registry: Registry, bus: Bus, model: ScriptedModel
) -> None:
    seen: list[events.TokenChunk] = []
    job = fresh_job()

    async def note(message: Any) -> None:
        seen.append(events.decode(message.subject, message.data))  # type: ignore[arg-type]

    subscription = await bus.client.subscribe(f"vllm.streaming.{job.deliberation_id}.{job.spec.agent_id}", cb=note)
    model.script[:] = [[step for number in range(40) for step in (piece(f"{number} "), 0.01)] + TAIL]
    begun = time.monotonic()
    await give(actor, registry, job)
    await idle(actor)
    elapsed = time.monotonic() - begun
    await asyncio.sleep(0.2)
    await subscription.unsubscribe()
    assert "".join(chunk.text for chunk in seen) == "".join(f"{number} " for number in range(40))
    assert [chunk.seq for chunk in seen] == list(range(len(seen)))
    assert [chunk.done for chunk in seen] == [False] * (len(seen) - 1) + [True]
    assert 3 <= len(seen) <= elapsed / 0.1 + 2


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ([500, 500], "http"),
        ([400], "http"),
        ([[b"data: garbage\n\n", *TAIL]], "malformed"),
        ([[piece("half"), 0.05]], "unreachable"),
        ([TAIL], "empty"),
    ],
)
async def test_a_model_that_fails_makes_a_failed_result_with_its_kind_and_no_text(
    script: list[Any], kind: str, actor: VLLMAgentJob, registry: Registry, bus: Bus, model: ScriptedModel
) -> None:
    model.script[:] = script
    job = fresh_job()
    await give(actor, registry, job)
    await idle(actor)
    [result] = await results(bus, job)
    assert result.status == "failed" and result.content == ""
    assert result.error is not None and result.error.kind == kind and result.error.message


async def test_a_model_that_falls_silent_makes_a_failed_result(
    registry: Registry, bus: Bus, nats_url: str, model: ScriptedModel
) -> None:
    config = WorkerConfig(nats_url=nats_url, vllm_url=model.url, first_token_seconds=0.4, attempts=2)
    made = VLLMAgentJob("pool-0", msgspec.json.encode(config))
    model.script[:] = [[30, *TAIL], [30, *TAIL]]
    job = fresh_job()
    try:
        await give(made, registry, job)
        await idle(made)
    finally:
        await made.close()
    [result] = await results(bus, job)
    assert result.error is not None and result.error.kind == "timeout" and result.error.message


async def test_a_job_past_its_deadline_fails_in_the_middle(
    actor: VLLMAgentJob, registry: Registry, bus: Bus, model: ScriptedModel
) -> None:
    assert await actor.accept(b"[]") == ""  # it is connected, and has all the time until the deadline to ask
    job = fresh_job("a b c d e f g h [slow 60]", deadline=now() + dt.timedelta(seconds=2))
    late = fresh_job(deadline=now() - dt.timedelta(seconds=1))
    await give(actor, registry, job, late)
    await idle(actor)
    for each in (job, late):
        [result] = await results(bus, each)
        assert result.error is not None and result.error.kind == "deadline"
    assert len(model.asked) == 1


async def test_a_job_that_is_given_twice_runs_once(
    actor: VLLMAgentJob, registry: Registry, bus: Bus, model: ScriptedModel
) -> None:
    job = fresh_job("a b [slow 0.4]")
    await give(actor, registry, job)
    await actor.accept(msgspec.json.encode([job]))
    assert await held(actor) == [job.key]
    await idle(actor)
    await actor.accept(msgspec.json.encode([job]))
    await idle(actor)
    assert len(await results(bus, job)) == 1
    assert len(model.asked) == 1


async def test_only_the_first_call_for_a_new_job_is_spared_the_look_at_its_end(
    actor: VLLMAgentJob, registry: Registry, bus: Bus, model: ScriptedModel
) -> None:
    me = msgspec.json.decode(await actor.survey(None))["incarnation"]
    new, handed_on, repeated = jobs = fresh_job(), fresh_job(attempt=2), fresh_job()
    await registry.accept(jobs)
    for job in jobs:
        await registry.end(completed(job, "ended", "m", events.Usage(), events.Timing(), now()))
    for job, incarnation in ((new, me), (handed_on, me), (repeated, "another")):
        await actor.accept(msgspec.json.encode([job]), incarnation)
    await idle(actor)
    assert [asked["messages"][-1]["content"] for asked in model.asked] == [new.spec.messages[-1].content]
    assert [result.content for result in await results(bus, new)] == ["ended"]  # the first end stands


async def test_a_draining_actor_takes_nothing_and_finishes_what_it_has(
    actor: VLLMAgentJob, registry: Registry, bus: Bus
) -> None:
    job, other = fresh_job("a b [slow 0.5]"), fresh_job()
    await give(actor, registry, job)
    assert msgspec.json.decode(await actor.survey(True))["draining"] is True
    assert "draining" in await give(actor, registry, other)
    assert await held(actor) == [job.key]
    await idle(actor)
    assert len(await results(bus, job)) == 1
    await actor.survey(False)
    assert await actor.accept(msgspec.json.encode([other])) == ""
    await idle(actor)


async def test_an_actor_that_cannot_start_refuses_and_tries_again_at_the_next_job(
    nats_url: str, model: ScriptedModel, registry: Registry, tmp_path: Path
) -> None:
    creds = tmp_path / "nats.creds"
    config = WorkerConfig(nats_url=nats_url, vllm_url=model.url, nats_creds=str(creds))
    made = VLLMAgentJob("pool-0", msgspec.json.encode(config))
    try:
        job = fresh_job()
        assert f"pool-0 cannot work: NATS_CREDS names {creds}" in await give(made, registry, job)
        assert await held(made) == []
        made._config = msgspec.structs.replace(config, nats_creds=None)
        assert await made.accept(msgspec.json.encode([job])) == ""
        await idle(made)
    finally:
        await made.close()


async def test_a_secret_leaves_neither_in_the_chunks_nor_in_the_result(
    actor: VLLMAgentJob, registry: Registry, bus: Bus, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are redacted where they come to be, and not once more where they are published."""
    again: list[events.Event] = []
    monkeypatch.setattr(events, "redact_struct", lambda event: again.append(event) or event)
    words = ["Use ", "pass", "word", ' = "', "hun", 0.12, "ter", "2", '"', 0.06, " here", "."]
    model.script.append([piece(word) if isinstance(word, str) else word for word in words] + TAIL)
    job = fresh_job()
    await give(actor, registry, job)
    await idle(actor)
    [result] = await results(bus, job)
    streamed = await drained(bus, f"vllm.streaming.{job.deliberation_id}.>", "VLLM_STREAMING", 1, 2)
    shown = 'Use password = "[redacted:password]" here.'
    assert "".join(chunk.text for chunk in streamed if isinstance(chunk, events.TokenChunk)) == shown
    assert result.content == shown
    standing = await registry.ended(job.key)
    assert standing is not None and standing.result == result
    assert again == []


async def test_chunks_that_cannot_be_sent_are_lost_and_the_stream_goes_on() -> None:
    sent: list[events.TokenChunk] = []

    async def publish(chunk: Any, *, redacted: bool = False) -> None:
        if chunk.seq == 0 or chunk.done:
            raise Unavailable("the buffer is full")
        sent.append(chunk)

    tokens = TokenStream(fresh_job(), publish, Pace())
    for text in ("lost.", "kept."):
        tokens.add(text)
        await asyncio.sleep(0.12)
    await tokens.close()
    assert [(chunk.seq, chunk.text) for chunk in sent] == [(1, "kept.")]


async def test_the_more_jobs_stream_the_less_often_each_sends() -> None:
    sent: list[events.TokenChunk] = []

    async def publish(chunk: Any, *, redacted: bool = False) -> None:
        sent.append(chunk)

    pace = Pace()
    others = [TokenStream(fresh_job(), publish, pace) for _ in range(300)]
    tokens = TokenStream(fresh_job(), publish, pace)
    for text in ("all ", "at ", "once"):
        tokens.add(text)
        await asyncio.sleep(0.12)
    await tokens.close()
    assert [(chunk.seq, chunk.text, chunk.done) for chunk in sent] == [(0, "all at once", True)]
    await asyncio.gather(*(other.close() for other in others))
    assert pace.seconds == 0.1


async def test_a_record_that_cannot_be_read_holds_up_no_other_job(registry: Registry, bus: Bus) -> None:
    spoilt, late = (fresh_job(deadline=now() - dt.timedelta(seconds=10)) for _ in range(2))
    await registry.accept([spoilt, late])
    await bus.js.publish(f"$KV.jobs.ended.{spoilt.key}", b"garbage")
    try:
        await reconcile(registry, bus, VIEWS, Nobody(), now())
        [result] = await results(bus, late)
        assert result.error is not None and result.error.kind == "deadline"
        assert await registry.is_open(spoilt.key) and not await registry.is_open(late.key)
    finally:
        await registry.close(spoilt.key)


async def test_two_attempts_of_one_job_publish_one_result(actor: VLLMAgentJob, registry: Registry, bus: Bus) -> None:
    job = fresh_job()
    await registry.accept([job])
    first = completed(job, "first", "m", events.Usage(), events.Timing(), now())
    second = completed(job, "second", "m", events.Usage(), events.Timing(), now())
    ends = await asyncio.gather(finish(registry, bus, first), finish(registry, bus, second))
    assert ends[0] == ends[1]
    assert await results(bus, job) == [ends[0].result]


async def test_an_end_that_was_not_published_is_published_by_the_next_round(registry: Registry, bus: Bus) -> None:
    job = fresh_job(handed_at=now() - dt.timedelta(minutes=1))
    await registry.accept([job])
    ended = completed(job, "kept", "m", events.Usage(), events.Timing(), now())
    await registry.end(ended)  # and here the actor dies
    await reconcile(registry, bus, VIEWS, Nobody(), now())
    assert await results(bus, job) == [ended.result]
    assert not await registry.is_open(job.key)


async def test_what_the_server_did_not_get_of_a_close_is_made_up_for_by_a_later_round(
    registry: Registry, bus: Bus
) -> None:
    job = fresh_job(handed_at=now() - dt.timedelta(minutes=1))
    await registry.accept([job])
    ended = completed(job, "kept", "m", events.Usage(), events.Timing(), now())

    async def lost(stream: str, subject: str, upto: int = 0) -> None:
        assert (stream, subject) == ("KV_jobs", f"$KV.jobs.open.{job.key}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bus, "discard", lost)
        await finish(registry, bus, ended)
    assert await registry.is_open(job.key)
    await reconcile(registry, bus, VIEWS, Nobody(), now())
    assert not await registry.is_open(job.key)
    assert await results(bus, job) == [ended.result]


async def test_a_lost_job_past_its_deadline_is_ended_by_the_executor(registry: Registry, bus: Bus) -> None:
    job = fresh_job(deadline=now() - dt.timedelta(seconds=10))
    await registry.accept([job])
    await reconcile(registry, bus, VIEWS, Nobody(), now())
    [result] = await results(bus, job)
    assert result.error is not None and result.error.kind == "deadline"
    assert not await registry.is_open(job.key)


async def test_an_end_that_comes_late_is_not_published_again(registry: Registry, bus: Bus) -> None:
    job = fresh_job()
    await registry.accept([job])
    await finish(registry, bus, completed(job, "first", "m", events.Usage(), events.Timing(), now()))
    await bus.js.purge_stream("AGENT_RESULTS", subject=f"agent.results.{job.task_id}")
    error = events.JobError(kind="internal", message="late", retryable=False)
    standing = await finish(registry, bus, failed(job, error, now()))
    assert standing.result.content == "first"
    assert await results(bus, job) == []


async def streaming(model: ScriptedModel, count: int) -> None:
    for _ in range(1000):
        if model.streaming == count:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{model.streaming} calls are open, not {count}")


@pytest.mark.parametrize("stop", ["cancel", "deadline"])
async def test_a_job_that_is_stopped_as_its_model_is_found_late_does_not_ask_again(
    stop: str,
    actor: VLLMAgentJob,
    registry: Registry,
    bus: Bus,
    model: ScriptedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = fresh_job()
    lates: list[worker._Late] = []

    class NotedLate(worker._Late):
        def __init__(self, *of: Any) -> None:
            super().__init__(*of)
            lates.append(self)

    watches: list[vllm._Watch] = []

    class NotedWatch(vllm._Watch):
        def __init__(self, *of: Any) -> None:
            super().__init__(*of)
            watches.append(self)

    monkeypatch.setattr(worker, "_Late", NotedLate)
    monkeypatch.setattr(vllm, "_Watch", NotedWatch)
    model.script[:] = [[30, *TAIL]]
    await give(actor, registry, job)
    await streaming(model, 1)
    watches[0]._until = 0
    watches[0]._look()
    if stop == "deadline":
        lates[0]._pass()
    else:
        with contextlib.suppress(StopIteration):  # at once, and not in the next turn of the loop
            actor.cancel(msgspec.json.encode([job.key])).send(None)
    await idle(actor)
    [result] = await results(bus, job)
    kind = "cancelled" if stop == "cancel" else "deadline"
    assert result.error is not None and result.error.kind == kind and len(model.asked) == 1


async def test_a_cancelled_job_stops_at_the_model_and_ends_once_as_cancelled(
    actor: VLLMAgentJob, registry: Registry, bus: Bus, model: ScriptedModel
) -> None:
    job, other, go_on = fresh_job(), fresh_job(), threading.Event()
    model.script[:] = [[piece("a"), go_on, *TAIL]] * 2
    await give(actor, registry, job, other)
    await streaming(model, 2)
    assert [each.key for each in await handlers.cancel(job.deliberation_id, registry, bus)] == [job.key]
    await actor.cancel(msgspec.json.encode([job.key, "delib.unknown"]))
    await streaming(model, 1)
    go_on.set()
    await idle(actor)
    [result] = await results(bus, job)
    assert result.status == "failed" and result.error is not None and result.error.kind == "cancelled"
    assert not await registry.is_open(job.key)
    assert await handlers.cancel(job.deliberation_id, registry, bus) == []
    assert [result.status for result in await results(bus, other)] == ["completed"]
    assert await actor.accept(msgspec.json.encode([job])) == ""  # a call that Ray repeats
    await idle(actor)
    assert len(await results(bus, job)) == 1 and len(model.asked) == 2


async def test_a_job_that_was_cancelled_before_its_actor_got_it_never_asks_the_model(
    actor: VLLMAgentJob, registry: Registry, bus: Bus, model: ScriptedModel
) -> None:
    me = msgspec.json.decode(await actor.survey(None))["incarnation"]
    job = fresh_job()
    await registry.accept([job])
    await handlers.cancel(job.deliberation_id, registry, bus)
    await actor.cancel(msgspec.json.encode([job.key]))
    await actor.accept(msgspec.json.encode([job]), me)
    await idle(actor)
    assert model.asked == [] and len(await results(bus, job)) == 1


async def test_a_job_that_is_cancelled_as_it_is_taken_never_asks_the_model(
    actor: VLLMAgentJob, registry: Registry, bus: Bus, model: ScriptedModel
) -> None:
    job = fresh_job()
    await give(actor, registry, job)
    await actor.cancel(msgspec.json.encode([job.key]))
    await idle(actor)
    [result] = await results(bus, job)
    assert result.error is not None and result.error.kind == "cancelled" and model.asked == []


async def test_an_answer_that_came_first_is_not_cancelled(registry: Registry, bus: Bus) -> None:
    job = fresh_job()
    await registry.accept([job])
    await registry.end(completed(job, "first", "m", events.Usage(), events.Timing(), now()))
    assert await handlers.cancel(job.deliberation_id, registry, bus) == []
    [result] = await results(bus, job)
    assert result.content == "first"


async def test_a_cancel_that_died_before_the_end_is_brought_to_it_by_the_next_round(
    registry: Registry, bus: Bus
) -> None:
    job = fresh_job()
    await registry.accept([job])
    await registry.cancel(job.key)  # and here the executor dies
    await reconcile(registry, bus, {"pool-0": ActorView(name="pool-0", held=frozenset({job.key}))}, Nobody(), now())
    [result] = await results(bus, job)
    assert result.error is not None and result.error.kind == "cancelled"


async def test_what_ended_is_kept_for_a_day_by_the_server_itself(registry: Registry, bus: Bus) -> None:
    job = fresh_job()
    await registry.accept([job])
    await finish(registry, bus, completed(job, "text", "m", events.Usage(), events.Timing(), now()))
    kept = await bus.js.get_last_msg("KV_jobs", f"$KV.jobs.ended.{job.key}")
    assert kept.headers is not None and kept.headers["Nats-TTL"] == "86400s"


async def test_an_actor_knows_its_model_and_what_waits_there_before_its_first_job(
    actor: VLLMAgentJob, model: ScriptedModel
) -> None:
    model.waiting = 3
    seen: dict[str, Any] = {}
    for _ in range(100):
        said = msgspec.json.decode(await actor.survey(None, True))
        seen.update({name: value for name, value in said.items() if value})  # each measurement is said once
        if {"metrics", "model"} <= seen.keys():
            break
        await asyncio.sleep(0.05)
    assert (seen["metrics"], seen["waiting"], seen["model"]) == (True, 3, "scripted")
    model.waiting = None
    for _ in range(100):
        seen = msgspec.json.decode(await actor.survey(None, True))
        if seen["metrics"] is False:
            break
        await asyncio.sleep(0.05)
    assert seen["metrics"] is False and model.asked == []


VIEWS = {"pool-0": ActorView(name="pool-0")}


class Nobody:
    """Takes no job."""

    def pick(self, jobs: int) -> str:
        raise AssertionError("no job should be handed on")

    async def accept(self, actor: str, jobs: Any) -> str:
        raise AssertionError("no job should be handed on")


def test_only_the_cluster_imports_ray() -> None:
    folder = Path(handlers.__file__).parent
    modules = " ".join(
        path.stem for path in folder.glob("*.py") if path.stem not in ("__init__", "__main__", "cluster")
    )
    names = ", ".join(f"fleet_executor.{name}" for name in modules.split())
    code = f"import sys, {names}; sys.exit(any(name.split('.')[0] == 'ray' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
