"""The orchestrator's RPCs: what they do, and what bad input gets."""

import asyncio
import contextlib
import datetime as dt
import functools
from collections.abc import AsyncIterator
from typing import Any

import grpc
import harness
import msgspec
import pytest
import realparts
from harness import Peers, approved, replica, task, until

from fleet.orchestrator.server import SERVICE, OrchestratorServicer
from fleet_wire import rpc
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2 as pb
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2_grpc

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND


@pytest.fixture
async def served(own_nats: realparts.Nats) -> AsyncIterator[tuple[Any, Peers, harness.Bus]]:
    """A stub on a ready orchestrator, what it talks to, and a bus."""
    bus = await harness.fresh_bus(own_nats.url)
    peers = Peers(bus)
    readiness = rpc.Readiness("councils")
    servicer = OrchestratorServicer(readiness, dt.datetime.now(dt.UTC))
    add = functools.partial(orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server, servicer)
    async with contextlib.AsyncExitStack() as stack:
        port = await stack.enter_async_context(rpc.server("127.0.0.1:0", add, [SERVICE], readiness))
        channel = await stack.enter_async_context(rpc.channel(f"127.0.0.1:{port}"))
        stub = orchestrator_pb2_grpc.OrchestratorServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as early:
            await stub.ListCouncils(pb.ListCouncilsRequest())
        assert early.value.code() == grpc.StatusCode.UNAVAILABLE
        assert not (await stub.GetStatus(pb.GetStatusRequest())).ready
        parts = await stack.enter_async_context(replica(own_nats.url, peers))
        servicer.use_cases = parts.use_cases
        await until(lambda: _five(parts))
        readiness.report("councils", None)
        yield stub, peers, bus
    await bus.close()


async def _five(parts: Any) -> bool:
    return len(await parts.requests.councils()) == 5


async def refused(call: Any, code: grpc.StatusCode, *words: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert error.value.code() == code, error.value.details()
    for word in words:
        assert word in (error.value.details() or "")


async def ended(stub: Any, deliberation_id: str) -> Any:
    async def look() -> Any:
        answer = await stub.GetDeliberationResult(pb.GetDeliberationResultRequest(deliberation_id=deliberation_id))
        return answer if answer.deliberation.state in ("completed", "failed") and answer.outcome else None

    return await until(look)


async def test_five_default_councils_of_three_are_made_once(served: tuple[Any, Peers, harness.Bus]) -> None:
    stub, _, _ = served
    councils = (await stub.ListCouncils(pb.ListCouncilsRequest())).councils
    assert [council.role for council in councils] == ["DEV", "QA", "ARCHITECT", "DEVOPS", "DATA"]
    assert [agent.agent_id for agent in councils[0].agents] == ["agent-DEV-001", "agent-DEV-002", "agent-DEV-003"]
    assert {agent.state for council in councils for agent in council.agents} == {"idle"}
    assert {council.quorum for council in councils} == {2}


async def test_an_ad_hoc_request_is_decided_once_per_request_id(served: tuple[Any, Peers, harness.Bus]) -> None:
    stub, peers, _ = served
    request = pb.DeliberateRequest(request_id="r1", role="QA", description="How to test a parser?", protocol="vote")
    first = await stub.Deliberate(request)
    assert (await stub.Deliberate(request)).deliberation_id == first.deliberation_id
    answer = await ended(stub, first.deliberation_id)
    assert answer.deliberation.decision_id == f"dec-{first.deliberation_id}"
    assert [seat.state for seat in answer.deliberation.jobs] == ["completed"] * 3
    outcome = msgspec.json.decode(answer.outcome)
    assert outcome["winner"] in [seat.agent_id for seat in answer.deliberation.jobs]
    assert len(peers.executor.jobs) == 3
    request.description = "Something else"
    await refused(stub.Deliberate(request), grpc.StatusCode.ALREADY_EXISTS, "r1")


async def test_running_agents_show_as_running(served: tuple[Any, Peers, harness.Bus]) -> None:
    stub, peers, _ = served
    peers.executor.answer = harness.silent
    answer = await stub.Deliberate(pb.DeliberateRequest(role="DEV", description="Wait", timeout_seconds=30))

    async def busy() -> Any:
        councils = (await stub.ListCouncils(pb.ListCouncilsRequest())).councils
        return councils if councils[0].agents[0].state == "running" else None

    councils = await until(busy)
    assert list(councils[0].agents[0].deliberation_ids) == [answer.deliberation_id]
    assert {agent.state for agent in councils[1].agents} == {"idle"}
    status = await stub.GetStatus(pb.GetStatusRequest())
    assert (status.ready, status.running_deliberations, status.councils) == (True, 1, 5)


async def test_plan_progress_tells_each_tasks_state(served: tuple[Any, Peers, harness.Bus]) -> None:
    stub, _, bus = served
    await bus.publish(approved("p1", task("a"), task("b", "a")))

    async def decided() -> Any:
        try:
            progress = await stub.GetPlanProgress(pb.GetPlanProgressRequest(plan_id="p1"))
        except grpc.aio.AioRpcError:
            return None
        return progress if progress.tasks[0].state == "decided" else None

    progress = await until(decided)
    assert progress.state == "running"
    assert progress.tasks[0].decision_id == f"dec-{progress.tasks[0].deliberation_id}"
    assert progress.tasks[1].state == "waiting"
    found = await stub.ListDeliberations(pb.ListDeliberationsRequest(plan_id="p1"))
    assert [one.task_id for one in found.deliberations] == ["a"]


async def test_deliberations_are_listed_newest_first_in_pages(served: tuple[Any, Peers, harness.Bus]) -> None:
    stub, _, _ = served
    started = [
        (await stub.Deliberate(pb.DeliberateRequest(role="DEV", description=f"Number {n}"))).deliberation_id
        for n in range(5)
    ]
    found: list[str] = []
    token = ""
    while True:
        page = await stub.ListDeliberations(pb.ListDeliberationsRequest(page_size=2, page_token=token))
        found += [one.deliberation_id for one in page.deliberations]
        token = page.next_page_token
        if not token:
            break
    assert found == started[::-1]


async def test_councils_are_made_changed_and_deleted(served: tuple[Any, Peers, harness.Bus]) -> None:
    stub, _, _ = served
    await refused(
        stub.CreateCouncil(pb.CreateCouncilRequest(role="DEV", agents=3)), grpc.StatusCode.ALREADY_EXISTS, "DEV"
    )
    await stub.DeleteCouncil(pb.DeleteCouncilRequest(role="DEV"))
    await refused(stub.DeleteCouncil(pb.DeleteCouncilRequest(role="DEV")), NOT_FOUND, "DEV")
    made = (await stub.CreateCouncil(pb.CreateCouncilRequest(role="DEV", agents=2, quorum=2))).council
    assert [agent.agent_id for agent in made.agents] == ["agent-DEV-001", "agent-DEV-002"]
    more = (await stub.RegisterAgent(pb.RegisterAgentRequest(role="DEV"))).council
    assert more.agents[-1].agent_id == "agent-DEV-003"
    again = pb.RegisterAgentRequest(role="DEV", agent_id="agent-DEV-003")
    await refused(stub.RegisterAgent(again), grpc.StatusCode.ALREADY_EXISTS, "agent-DEV-003")
    for agent in ("agent-DEV-001", "agent-DEV-003"):
        fewer = (await stub.UnregisterAgent(pb.UnregisterAgentRequest(role="DEV", agent_id=agent))).council
    assert fewer.quorum == 1
    last = pb.UnregisterAgentRequest(role="DEV", agent_id="agent-DEV-002")
    await refused(stub.UnregisterAgent(last), grpc.StatusCode.FAILED_PRECONDITION, "last agent")


async def test_concurrent_registrations_lose_nobody(served: tuple[Any, Peers, harness.Bus]) -> None:
    stub, _, _ = served
    await asyncio.gather(*(stub.RegisterAgent(pb.RegisterAgentRequest(role="QA")) for _ in range(8)))
    councils = (await stub.ListCouncils(pb.ListCouncilsRequest())).councils
    assert len({agent.agent_id for agent in councils[1].agents}) == 11


@pytest.mark.parametrize(
    ("method", "request_message", "code", "field"),
    [
        ("Deliberate", pb.DeliberateRequest(role="dev", description="x"), INVALID, "role"),
        ("Deliberate", pb.DeliberateRequest(role="DEV"), INVALID, "description"),
        ("Deliberate", pb.DeliberateRequest(role="DEV", description="x", request_id="a b"), INVALID, "request_id"),
        (
            "Deliberate",
            pb.DeliberateRequest(role="DEV", description="x", timeout_seconds=-1),
            INVALID,
            "timeout_seconds",
        ),
        (
            "Deliberate",
            pb.DeliberateRequest(role="DEV", description="x", timeout_seconds=1e9),
            INVALID,
            "timeout_seconds",
        ),
        ("Deliberate", pb.DeliberateRequest(role="DEV", description="x", protocol="dice"), INVALID, "protocol"),
        ("Deliberate", pb.DeliberateRequest(role="DEV", description="x" * 70000), INVALID, "description"),
        ("GetDeliberationResult", pb.GetDeliberationResultRequest(deliberation_id="nope"), NOT_FOUND, "nope"),
        ("GetDeliberationResult", pb.GetDeliberationResultRequest(deliberation_id=""), INVALID, "deliberation_id"),
        ("ListDeliberations", pb.ListDeliberationsRequest(state="done"), INVALID, "state"),
        ("ListDeliberations", pb.ListDeliberationsRequest(page_size=501), INVALID, "page_size"),
        ("ListDeliberations", pb.ListDeliberationsRequest(page_token="%%%"), INVALID, "page_token"),
        ("GetPlanProgress", pb.GetPlanProgressRequest(plan_id="nope"), NOT_FOUND, "nope"),
        ("GetPlanProgress", pb.GetPlanProgressRequest(plan_id="../x"), INVALID, "plan_id"),
        ("CreateCouncil", pb.CreateCouncilRequest(role="SALES", agents=3), INVALID, "role"),
        ("CreateCouncil", pb.CreateCouncilRequest(role="DEV", agents=0), INVALID, "agents"),
        ("CreateCouncil", pb.CreateCouncilRequest(role="DEV", agents=3, quorum=4), INVALID, "quorum"),
        ("DeleteCouncil", pb.DeleteCouncilRequest(role=""), INVALID, "role"),
        ("RegisterAgent", pb.RegisterAgentRequest(role="DEV", agent_id="bob"), INVALID, "agent_id"),
        (
            "UnregisterAgent",
            pb.UnregisterAgentRequest(role="DEV", agent_id="agent-DEV-099"),
            NOT_FOUND,
            "agent-DEV-099",
        ),
    ],
)
async def test_bad_input_is_refused_and_named(
    served: tuple[Any, Peers, harness.Bus], method: str, request_message: Any, code: grpc.StatusCode, field: str
) -> None:
    stub, _, _ = served
    await refused(getattr(stub, method)(request_message), code, field)
