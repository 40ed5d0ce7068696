"""StreamDeliberation: what a client is told, in which order, and what becomes of one that is slow or leaves."""

import asyncio
import json
from typing import Any

import grpc
import harness
import pytest
from harness import Peers, until
from test_server import refused, served

from fleet.deliberation.requests import JobRequest
from fleet.deliberation.state import Deliberation
from fleet.orchestrator.streaming import Backlog
from fleet_wire.events import AgentResult, TokenChunk
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2 as pb

__all__ = ["served"]

Served = tuple[Any, Peers, harness.Bus]


def chunk(deliberation_id: str, seq: int, text: str = "word ") -> TokenChunk:
    return TokenChunk(
        deliberation_id=deliberation_id, agent_id="agent-DEV-001", job_id="job-1", attempt=1, seq=seq, text=text
    )


async def test_a_client_sees_phases_results_text_and_last_the_outcome(served: Served) -> None:
    stub, peers, bus = served
    held = asyncio.Event()
    waiting: list[AgentResult] = []

    def judges_wait(state: Deliberation, job: JobRequest) -> AgentResult | None:
        answer = harness.answers(state, job)
        if job.phase == "judge" and not held.is_set():
            assert answer is not None
            waiting.append(answer)
            return None
        return answer

    peers.executor.answer = judges_wait
    request = pb.DeliberateRequest(role="DEV", description="How to parse?", protocol="tournament")
    name = (await stub.Deliberate(request)).deliberation_id
    await until(lambda: len(waiting) == 6)
    seen: list[Any] = []

    async def follow() -> None:
        async for message in stub.StreamDeliberation(pb.StreamDeliberationRequest(deliberation_id=name)):
            seen.append(message)

    client = asyncio.create_task(follow())
    await until(lambda: len(seen) >= 4)
    await bus.publish_core(chunk(name, 1))
    await bus.publish_core(chunk("delib-another", 1, "nothing of this one"))
    await until(lambda: len(seen) >= 5)
    for result in waiting:
        await bus.publish(result)
    await asyncio.wait_for(client, 10)
    kinds = [message.WhichOneof("happened") for message in seen]
    assert kinds[:5] == ["changed", "result", "result", "result", "text"]
    assert (seen[0].changed.state, seen[0].changed.phase) == ("running", "judge")
    assert seen[4].text.text == "word "
    phases = [json.loads(message.result)["phase"] for message in seen if message.WhichOneof("happened") == "result"]
    assert phases == ["propose"] * 3 + ["judge"] * 6
    assert kinds[-1] == "outcome"
    assert json.loads(seen[-1].outcome)["protocol"] == "tournament"
    last = [message.changed.state for message in seen if message.WhichOneof("happened") == "changed"]
    assert last[-1] == "completed"
    assert len(last) == len(set(last))


async def test_what_has_ended_is_told_whole_and_an_unknown_one_is_not_found(served: Served) -> None:
    stub, _, _ = served
    request = pb.DeliberateRequest(role="DEV", description="How to parse?", protocol="vote")
    name = (await stub.Deliberate(request)).deliberation_id
    for _ in range(2):
        messages = [one async for one in stub.StreamDeliberation(pb.StreamDeliberationRequest(deliberation_id=name))]
        assert [one.WhichOneof("happened") for one in messages].count("result") == 3
        assert messages[-1].WhichOneof("happened") == "outcome"
    for wrong, code in (("delib-nowhere", grpc.StatusCode.NOT_FOUND), ("a b", grpc.StatusCode.INVALID_ARGUMENT)):
        stream = stub.StreamDeliberation(pb.StreamDeliberationRequest(deliberation_id=wrong))
        await refused(stream.read(), code, wrong)


async def test_a_client_that_leaves_leaves_nothing_behind(served: Served) -> None:
    stub, peers, bus = served
    peers.executor.answer = harness.silent
    name = (
        await stub.Deliberate(pb.DeliberateRequest(role="DEV", description="Wait", protocol="vote"))
    ).deliberation_id

    async def watchers() -> int:
        found = await bus.js.consumers_info("KV_deliberations")
        ours = [one for one in found if one.config.filter_subject == f"$KV.deliberations.state.{name}"]
        return sum(bool(one.push_bound) for one in ours)

    streams = [stub.StreamDeliberation(pb.StreamDeliberationRequest(deliberation_id=name)) for _ in range(5)]
    for stream in streams:
        assert (await stream.read()).WhichOneof("happened") == "changed"
    assert await watchers() == 5
    for stream in streams:
        stream.cancel()

    async def gone() -> bool:
        return await watchers() == 0

    await until(gone)
    assert (await stub.GetStatus(pb.GetStatusRequest())).running_deliberations == 1


async def test_a_slow_client_loses_the_oldest_text_and_nothing_else() -> None:
    backlog = Backlog(limit=10)
    state: Any = "a record"
    backlog.put_state(state, 7)
    for seq in range(1000):
        backlog.put_text(chunk("delib-1", seq))
    backlog.put_state("an older one", 6)  # type: ignore[arg-type]
    texts, newest = await backlog.take(1)
    assert [one.seq for one in texts] == list(range(990, 1000))
    assert newest == "a record"
    assert await backlog.take(0.01) == ([], None)


@pytest.mark.parametrize("reason", ["", "not needed any more"])
async def test_cancelling_ends_the_stream_with_its_reason(served: Served, reason: str) -> None:
    stub, peers, _ = served
    peers.executor.answer = harness.silent
    name = (
        await stub.Deliberate(pb.DeliberateRequest(role="DEV", description="Wait", protocol="vote"))
    ).deliberation_id
    stream = stub.StreamDeliberation(pb.StreamDeliberationRequest(deliberation_id=name))
    messages = aiter(stream)
    await anext(messages)
    answer = await stub.CancelDeliberation(pb.CancelDeliberationRequest(deliberation_id=name, reason=reason))
    assert answer.state in ("deciding", "failed")
    outcome = json.loads([one async for one in messages][-1].outcome)
    assert (outcome["reason"], outcome["detail"]) == ("cancelled", reason or "on request")
