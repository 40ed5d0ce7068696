import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Optional

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from fleet_wire import errors, rpc, tracing
from fleet_wire.gen.planning.v1 import planning_pb2, planning_pb2_grpc

NAME = "planning.v1.PlanningService"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
Answer = Callable[[planning_pb2.GetStoryRequest], Awaitable[planning_pb2.GetStoryResponse]]


class Planning(planning_pb2_grpc.PlanningServiceServicer):
    def __init__(self, answer: "Optional[Answer]" = None) -> None:
        self.answer = answer

    async def GetStory(self, request: Any, context: Any) -> Any:
        assert self.answer is not None
        return await self.answer(request)


@contextlib.asynccontextmanager
async def serving(
    answer: "Optional[Answer]" = None, readiness: "Optional[rpc.Readiness]" = None
) -> AsyncIterator[grpc.aio.Channel]:
    def add(server: grpc.aio.Server) -> None:
        planning_pb2_grpc.add_PlanningServiceServicer_to_server(Planning(answer), server)

    server = rpc.server("127.0.0.1:0", add, [NAME], readiness or rpc.Readiness())
    async with server as port, rpc.channel(f"127.0.0.1:{port}") as channel:
        yield channel


def get_story(channel: grpc.aio.Channel, timeout: float = 5) -> "Awaitable[planning_pb2.GetStoryResponse]":
    stub = planning_pb2_grpc.PlanningServiceStub(channel)
    return rpc.call(stub.GetStory(planning_pb2.GetStoryRequest(story_id="s"), timeout=timeout), "planning")


def raising(error: Exception) -> Answer:
    async def answer(request: Any) -> Any:
        raise error

    return answer


async def health_of(channel: grpc.aio.Channel, name: str) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return int((await stub.Check(health_pb2.HealthCheckRequest(service=name))).status)


async def test_an_answer_comes_through() -> None:
    async def answer(request: Any) -> Any:
        return planning_pb2.GetStoryResponse(story=planning_pb2.Story(story_id=request.story_id))

    async with serving(answer) as channel:
        assert (await get_story(channel)).story.story_id == "s"


async def test_health_follows_readiness_for_the_server_and_its_service() -> None:
    readiness = rpc.Readiness("nats", "graph")
    async with serving(readiness=readiness) as channel:
        for name in ("", NAME):
            assert await health_of(channel, name) == health_pb2.HealthCheckResponse.NOT_SERVING
        readiness.report("nats", None)
        assert await health_of(channel, NAME) == health_pb2.HealthCheckResponse.NOT_SERVING
        readiness.report("graph", None)
        for name in ("", NAME):
            assert await health_of(channel, name) == health_pb2.HealthCheckResponse.SERVING
        readiness.report("graph", "went away")
        assert await health_of(channel, NAME) == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError):
            await health_of(channel, "another.Service")


async def test_a_server_that_is_not_ready_is_alive() -> None:
    async with serving(readiness=rpc.Readiness("nats")) as channel:
        assert await health_of(channel, rpc.ALIVE) == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_lists_the_services() -> None:
    async def ask() -> AsyncIterator[Any]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    async with serving() as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        async for answer in stub.ServerReflectionInfo(ask()):
            names = {service.name for service in answer.list_services_response.service}
            assert names == {NAME, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


@pytest.mark.parametrize("kind", list(rpc.STATUS_OF))
async def test_each_error_arrives_as_itself_with_its_sentence(kind: "type[errors.FleetError]") -> None:
    async with serving(raising(kind("story_id must be é, not 7"))) as channel:
        with pytest.raises(kind, match="story_id must be é, not 7"):
            await get_story(channel)


async def test_every_error_of_the_tree_has_a_status() -> None:
    def below(kind: type[errors.FleetError]) -> set[type[errors.FleetError]]:
        return set(kind.__subclasses__()).union(*(below(one) for one in kind.__subclasses__()))

    ours = {kind for kind in below(errors.FleetError) if kind.__module__ == errors.__name__}
    assert ours - {errors.Problems} == set(rpc.STATUS_OF)  # which is told as what it is a kind of
    assert len(set(rpc.STATUS_OF.values())) == len(rpc.STATUS_OF)


@pytest.mark.parametrize("text", ["x" * 100_000, "€" * 100_000, "line\nline\r\n\x00"], ids=["long", "wide", "odd"])
async def test_the_text_of_an_error_may_be_anything(text: str) -> None:
    async with serving(raising(errors.Invalid(text))) as channel:
        with pytest.raises(errors.Invalid):
            await get_story(channel)


async def test_what_nobody_foresaw_is_internal_and_not_mistaken_for_our_errors() -> None:
    async with serving(raising(KeyError("lost"))) as channel:
        with pytest.raises(errors.FleetError, match="KeyError: 'lost'") as caught:
            await get_story(channel)
        assert type(caught.value) is errors.FleetError
        assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)
        assert caught.value.__cause__.code() == grpc.StatusCode.INTERNAL


async def test_a_server_that_is_away_is_unavailable_and_named() -> None:
    async with rpc.channel("127.0.0.1:1") as channel:
        with pytest.raises(errors.Unavailable, match="planning does not answer"):
            await get_story(channel, timeout=2)


async def test_a_missed_deadline_is_unavailable() -> None:
    async def slow(request: Any) -> Any:
        await asyncio.sleep(30)

    async with serving(slow) as channel:
        with pytest.raises(errors.Unavailable, match="planning does not answer"):
            await get_story(channel, timeout=0.2)


async def test_the_callers_trace_is_continued() -> None:
    seen = []

    async def answer(request: Any) -> Any:
        seen.append(tracing.trace_id())
        return planning_pb2.GetStoryResponse()

    async with serving(answer) as channel:
        with tracing.continued({"traceparent": TRACE}):
            await get_story(channel)
        await get_story(channel)
    assert seen == [TRACE[3:35], ""]


async def test_a_channel_finds_a_server_that_comes_back() -> None:
    async def answer(request: Any) -> Any:
        return planning_pb2.GetStoryResponse()

    def add(server: grpc.aio.Server) -> None:
        planning_pb2_grpc.add_PlanningServiceServicer_to_server(Planning(answer), server)

    async with rpc.server("127.0.0.1:0", add, [NAME], rpc.Readiness()) as port:
        channel = rpc.channel(f"127.0.0.1:{port}")
        await get_story(channel)
    with pytest.raises(errors.Unavailable):
        await get_story(channel, timeout=1)
    async with rpc.server(f"127.0.0.1:{port}", add, [NAME], rpc.Readiness()):
        deadline = asyncio.get_running_loop().time() + 5
        while True:
            try:
                await get_story(channel, timeout=1)
                break
            except errors.Unavailable:
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.05)
        await channel.close()


async def test_a_taken_port_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(errors.Unavailable, match=f"cannot listen on 127.0.0.1:{port}"):
            async with rpc.server(f"127.0.0.1:{port}", lambda server: None, [NAME], rpc.Readiness()):
                pass


async def test_a_call_in_progress_is_finished_when_the_server_stops() -> None:
    begun = asyncio.Event()

    async def slow(request: Any) -> Any:
        begun.set()
        await asyncio.sleep(0.3)
        return planning_pb2.GetStoryResponse(story=planning_pb2.Story(story_id="done"))

    def add(server: grpc.aio.Server) -> None:
        planning_pb2_grpc.add_PlanningServiceServicer_to_server(Planning(slow), server)

    async with rpc.server("127.0.0.1:0", add, [NAME], rpc.Readiness()) as port:
        channel = rpc.channel(f"127.0.0.1:{port}")
        call = asyncio.ensure_future(get_story(channel))
        await begun.wait()
    assert (await call).story.story_id == "done"
    await channel.close()


def test_readiness_says_everything_that_is_missing() -> None:
    readiness = rpc.Readiness("streams", "graph")
    assert readiness.reason == "graph: not checked yet; streams: not checked yet"
    with pytest.raises(errors.Unavailable, match="graph: not checked yet"):
        readiness.require()
    readiness.reporter("streams")(None)
    readiness.report("graph", "no answer")
    assert readiness.reason == "graph: no answer"
    readiness.report("graph", None)
    assert readiness.ready
    readiness.require()


def test_listeners_hear_changes_only() -> None:
    heard: list[bool] = []
    readiness = rpc.Readiness("a")
    readiness.listen(heard.append)
    readiness.report("a", "still")
    readiness.report("b", "new")
    readiness.report("a", None)
    readiness.report("b", None)
    readiness.report("b", None)
    readiness.report("b", "gone")
    assert heard == [False, True, False]


def test_a_narrower_error_has_the_status_of_the_one_above_it() -> None:
    class Lost(errors.Unavailable):
        pass

    assert rpc.status_of(Lost("gone")) is grpc.StatusCode.UNAVAILABLE
    assert rpc.status_of(errors.FleetError("what")) is grpc.StatusCode.UNKNOWN
