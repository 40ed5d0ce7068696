"""Crashes and outages, each provoked: an approval is either refused, or published, and once."""

import asyncio
from pathlib import Path

import grpc
import pytest
import realparts
from planning_samples import PlanningProcess, approvals, connected, eventually, plan, ports, proposed, some_time, story

from fleet.bolt import Graph, rows
from fleet.migrations import Migration, migrate
from fleet.planning import domain, handlers
from fleet.planning.graph import GraphStore
from fleet.planning.migrations import MIGRATIONS
from fleet.planning.store import outgoing
from fleet.unready import why_not_ready
from fleet_wire import apply
from fleet_wire.bus import Bus, connect
from fleet_wire.gen.planning.v1 import planning_pb2 as pb


def service(directory: Path, nats_url: str, graph: realparts.GraphServer, **env: str) -> PlanningProcess:
    return PlanningProcess(directory, NATS_URL=nats_url, **graph.env(), **env)


async def test_what_was_approved_before_a_crash_is_published_by_the_next_start(
    bus: Bus, bolt: Graph, nats_url: str, graph: realparts.GraphServer, tmp_path: Path
) -> None:
    """Exactly between the two: the change is committed, and the process that made it is gone before it published."""
    store = GraphStore(bolt)
    await store.prepare()
    made = story(now=some_time())
    await store.create_story(made, outgoing(domain.created_event(made), made.created_at))
    approved, waiting = [await store.propose_plan(plan(of=made)) for _ in range(2)]
    await handlers.approve_plan(ports(store), approved.plan_id, "ana")
    assert await approvals(bus, approved.plan_id) == []

    with realparts.running(service(tmp_path, nats_url, graph).process):

        async def published() -> bool:
            return bool(await approvals(bus, approved.plan_id))

        await eventually(published)
        await asyncio.sleep(2.5)
    [event] = await approvals(bus, approved.plan_id)
    assert event.approved_by == "ana"
    assert await approvals(bus, waiting.plan_id) == []
    assert not [item for item in await store.pending(1000) if approved.plan_id in item.message_id]


async def test_a_process_killed_as_it_answers_loses_no_approval(
    bus: Bus, nats_url: str, graph: realparts.GraphServer, tmp_path: Path
) -> None:
    service_process = service(tmp_path, nats_url, graph)
    with realparts.running(service_process.process):
        await service_process.until_serving()
        async with connected(service_process.address) as stub:
            made = await proposed(stub)
            await stub.ApprovePlan(pb.ApprovePlanRequest(plan_id=made.plan_id, approved_by="ana"))
            service_process.process.kill()
    with realparts.running(service(tmp_path, nats_url, graph).process):

        async def published() -> bool:
            return bool(await approvals(bus, made.plan_id))

        await eventually(published)
        await asyncio.sleep(2.5)
    assert len(await approvals(bus, made.plan_id)) == 1


async def test_an_approval_while_nats_is_away_is_published_when_it_is_back(
    own_nats: realparts.Nats, graph: realparts.GraphServer, tmp_path: Path
) -> None:
    connection = await connect(own_nats.url, "tests")
    await apply.apply(connection)
    service_process = service(tmp_path, own_nats.url, graph)
    with realparts.running(service_process.process):
        await service_process.until_serving()
        async with connected(service_process.address) as stub:
            plans = [await proposed(stub) for _ in range(2)]
            requests = [pb.ApprovePlanRequest(plan_id=item.plan_id, approved_by="ana") for item in plans]
            own_nats.process.kill()
            await stub.ApprovePlan(requests[0])  # the outage is not noticed yet: what is accepted is kept

            async def noticed() -> bool:
                return await service_process.health() == "NOT_SERVING"

            await eventually(noticed)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ApprovePlan(requests[1])
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "NATS" in (caught.value.details() or "")

            own_nats.process.start()
            await service_process.until_serving()

            async def published() -> bool:
                return bool(await approvals(connection, plans[0].plan_id))

            await eventually(published)
            assert await approvals(connection, plans[1].plan_id) == []
            await stub.ApprovePlan(requests[1])
        await asyncio.sleep(2.5)
    assert [len(await approvals(connection, item.plan_id)) for item in plans] == [1, 1]
    await connection.close()


async def test_it_serves_from_the_start_and_is_ready_when_streams_and_graph_are(
    own_nats: realparts.Nats, own_graph: realparts.GraphServer, tmp_path: Path
) -> None:
    assert own_graph.process is not None
    own_nats.process.kill()
    own_graph.process.kill()
    service_process = service(tmp_path, own_nats.url, own_graph)
    with realparts.running(service_process.process):
        async with connected(service_process.address) as stub:

            async def refusal() -> str:
                try:
                    await stub.ListStories(pb.ListStoriesRequest())
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.UNAVAILABLE
                    return error.details() or ""
                return "served"

            assert await service_process.health() == "NOT_SERVING"
            assert "nats: no NATS server answers" in await refusal()
            own_nats.process.start()

            async def says(word: str) -> None:
                async def said() -> bool:
                    return word in await refusal()

                await eventually(said)

            await says("PLANNING_EVENTS does not exist")
            connection = await connect(own_nats.url, "tests")
            await apply.apply(connection)

            async def only_the_graph_is_missing() -> bool:
                reason = await refusal()
                return reason.startswith("graph: ") and "streams" not in reason

            await eventually(only_the_graph_is_missing)
            assert await service_process.health() == "NOT_SERVING"
            own_graph.process.start()
            await service_process.until_serving()
            made = await proposed(stub)
            await connection.js.delete_stream("PLANNING_EVENTS")
            await stub.ApprovePlan(pb.ApprovePlanRequest(plan_id=made.plan_id, approved_by="ana"))
            await says("outbox: ")
            await apply.apply(connection)
            await service_process.until_serving()

            async def published() -> bool:
                return bool(await approvals(connection, made.plan_id))

            await eventually(published)
            own_graph.process.kill()
            await says("the graph database at")
            own_graph.process.start()
            await service_process.until_serving()
            assert (await stub.GetPlan(pb.GetPlanRequest(plan_id=made.plan_id))).plan.state == "approved"
            await connection.close()
        assert service_process.process.stop() == 0


async def test_on_the_database_of_a_newer_release_it_says_so_and_publishes_nothing(
    bus: Bus, nats_url: str, empty_graph: realparts.GraphServer, tmp_path: Path
) -> None:
    graph = Graph(empty_graph.settings())
    newer = (*MIGRATIONS, Migration(99, ()))
    await migrate(graph, "planning", newer)
    store = GraphStore(graph)
    made = story(now=some_time())
    await store.create_story(made, outgoing(domain.created_event(made), made.created_at))
    service_process = service(tmp_path, nats_url, empty_graph)
    with realparts.running(service_process.process):
        async with grpc.aio.insecure_channel(service_process.address) as channel:

            async def refused() -> bool:
                return "has migration 99 of planning" in await why_not_ready("planning", channel, 3)

            await eventually(refused)
        # Whoever goes back to the older release on purpose takes the record away.
        forget = "MATCH (m:Migration {service: 'planning', number: 99}) DELETE m"
        await graph.write(lambda tx: rows(tx, forget))
        await service_process.until_serving()

        async def published() -> bool:
            return not await store.pending(1)

        await eventually(published)
    lines = service_process.process.text().splitlines()
    [there] = [n for n, line in enumerate(lines) if '"part": "graph", "missing": null' in line]
    [told] = [n for n, line in enumerate(lines) if made.story_id in line]
    assert there < told
    await graph.close()
