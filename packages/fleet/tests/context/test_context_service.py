"""The use cases, the consumers and the RPCs, on real servers."""

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import context_samples as samples
import grpc
import pytest
import pytest_asyncio
import realparts
import structlog.testing
from grpc_health.v1 import health_pb2, health_pb2_grpc
from nats.js.api import DeliverPolicy

from fleet.bolt import Graph
from fleet.context import handlers
from fleet.context.cache import ContextCache
from fleet.context.domain import Scopes
from fleet.context.main import serve
from fleet.context.migrations import MIGRATIONS
from fleet.context.settings import ContextSettings
from fleet.migrations import migrate
from fleet.settings import GraphSettings
from fleet_wire import bus as wire_bus
from fleet_wire import events, startup
from fleet_wire.bus import Bus
from fleet_wire.errors import Unavailable
from fleet_wire.gen.context.v1 import context_pb2, context_pb2_grpc
from fleet_wire.rpc import channel


@pytest_asyncio.fixture
async def store(bolt: Graph) -> AsyncIterator[Graph]:
    await migrate(bolt, "context", MIGRATIONS)
    yield bolt


@pytest_asyncio.fixture
async def cache(valkey_url: str) -> AsyncIterator[ContextCache]:
    held = ContextCache(valkey_url)
    yield held
    await held.close()


class Service:
    """The service in this process, and a client of it."""

    def __init__(self, port: int) -> None:
        self.channel = channel(f"127.0.0.1:{port}")
        self.stub: context_pb2_grpc.ContextServiceAsyncStub = context_pb2_grpc.ContextServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    async def status(self) -> int:
        request = health_pb2.HealthCheckRequest(service="context.v1.ContextService")
        return int((await self.health.Check(request, wait_for_ready=True, timeout=10)).status)

    async def until_ready(self) -> None:
        await self.until(health_pb2.HealthCheckResponse.SERVING)

    async def until(self, status: int) -> None:
        async with asyncio.timeout(30):
            while await self.status() != status:  # noqa: ASYNC110 (the service is asked over gRPC)
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def running(
    settings: GraphSettings, nats_url: str, valkey_url: str, scopes: Scopes = samples.SCOPES
) -> AsyncIterator[Service]:
    port = realparts.free_port()
    told = ContextSettings.model_validate(
        {**settings.model_dump(), "nats_url": nats_url, "valkey_url": valkey_url, "grpc_port": port}
    )
    stop = asyncio.Event()
    task = asyncio.create_task(serve(told, scopes, stop))
    service = Service(port)
    try:
        yield service
    finally:
        stop.set()
        await service.channel.close()
        assert await asyncio.wait_for(task, 20)


@pytest_asyncio.fixture
async def service(graph_settings: GraphSettings, nats_url: str, valkey_url: str, bus: Bus) -> AsyncIterator[Service]:
    async with running(graph_settings, nats_url, valkey_url) as started:
        await started.until_ready()
        yield started


async def eventually(what: Callable[[], Awaitable[object]], seconds: float = 20) -> None:
    """Waits until the call is no longer UNAVAILABLE or NOT_FOUND."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                await what()
                return
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND):
                    raise
            await asyncio.sleep(0.05)


async def read_all(bus: Bus, subject: str, wanted: Callable[[dict[str, object]], bool], count: int) -> list[bytes]:
    """The first `count` messages on a subject whose JSON is wanted, within 20 s."""
    subscription = await bus.js.subscribe(subject, ordered_consumer=True, deliver_policy=DeliverPolicy.ALL)
    found: list[bytes] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            message = await subscription.next_msg(timeout=20)
            if wanted(json.loads(message.data)):
                found.append(message.data)
    await subscription.unsubscribe()
    return found


def context_of(story: str, plan: str, **changes: object) -> context_pb2.GetContextRequest:
    fields = {"story_id": story, "plan_id": plan, "task_id": "test", "role": "QA", "phase": "test", **changes}
    return context_pb2.GetContextRequest(**{"token_budget": 4000, **fields})  # type: ignore[arg-type]


async def test_events_become_memory_and_context_updated(
    service: Service, bus: Bus, unique: Callable[[str], str]
) -> None:
    story, plan = unique("story"), unique("plan")
    decided = samples.completed(story, plan, "api")
    request = context_of(story, plan, required_decision_ids=[decided.decision_id])
    with pytest.raises(grpc.aio.AioRpcError, match=f"plan {plan} is not in the graph yet") as refused:
        await service.stub.GetContext(request)
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    with structlog.testing.capture_logs() as lines:
        await bus.publish(samples.story_created(story))
        await bus.publish(samples.transitioned(story, 1, "DRAFT"))
        tasks = [samples.task("api"), samples.task("test", role="QA", depends_on=["api"])]
        await bus.publish(samples.plan_approved(story, plan, tasks))
        await bus.publish(decided)
        await bus.publish(samples.failed(story, plan, "test"))
        await bus.publish(samples.plan_completed(story, plan, ["api"]))
        updates = await read_all(bus, "context.updated", lambda body: body["story_id"] == story, 6)
    bodies = sorted((json.loads(update) for update in updates), key=lambda body: body["version"])
    assert [body["version"] for body in bodies] == [1, 2, 3, 4, 5, 6]
    [of_decision] = [body for body in bodies if body["deliberation_id"]]
    assert (of_decision["deliberation_id"], of_decision["plan_id"]) == (decided.deliberation_id, plan)
    assert {decided.decision_id, decided.deliberation_id, story} <= set(of_decision["changed"])
    assert any("deliberation.completed" in line["event"] for line in lines)

    answer = await service.stub.GetContext(request)
    assert [(block.kind, block.title) for block in answer.blocks] == [
        ("task", "Title of test"),
        ("story", "Login"),
        ("plan", "Plan version 1, approved by ada"),
        ("decision", "Decision on api"),
        *([("milestone", "")] * 5),
        ("summary", ""),
        ("role", "QA, test"),
    ]
    assert "Do api with Argon2." in answer.blocks[3].text
    assert answer.blocks[-2].text == "The story is in DRAFT. 1 of the 2 tasks of its plan are decided."
    assert (answer.tokenizer, len(answer.left_out), len(answer.omitted)) == ("estimate", 0, 0)
    assert answer.tokens == sum(block.tokens for block in answer.blocks) <= 4000
    assert (answer.version, answer.from_cache, len(answer.hash)) == (6, False, 64)
    again = await service.stub.GetContext(request)
    assert again.from_cache
    again.from_cache = False
    assert again == answer

    found = await service.stub.SearchDecisions(context_pb2.SearchDecisionsRequest(query="argon2", story_id=story))
    assert [item.decision_id for item in found.decisions] == [decided.decision_id]
    assert found.next_page_token == ""
    why = await service.stub.ExplainDecision(context_pb2.ExplainDecisionRequest(decision_id=decided.decision_id))
    assert why.decision == found.decisions[0]
    assert why.decision.decided_at.ToDatetime(samples.NOW.tzinfo) == decided.decided_at
    assert [(p.agent_id, p.rank, [c.status for c in p.checks]) for p in why.proposals] == [
        ("agent-DEV-001", 1, ["passed", "not_run"]),
        ("agent-DEV-002", 2, ["passed"]),
    ]
    assert [p.revised for p in why.proposals] == [True, False]
    assert [(d.agent_id, d.content, d.argument) for d in why.dissent] == [
        ("agent-DEV-002", "bcrypt is older", "it is everywhere")
    ]
    assert (dict(why.numbers), why.chosen_because, why.verdicts, why.flips) == ({"finalists": 4}, "an open task", 2, 1)
    assert [(s.phase, s.reason) for s in why.skipped] == [("rerun", "no sandbox")]
    assert (why.calls, why.tokens, why.duration_seconds) == (5, 100, 1.5)
    assert [(m.agent_id, m.reason) for m in why.missing] == [("agent-DEV-003", "timeout")]
    assert (why.story_title, why.task_title) == ("Login", "Title of api")


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("story_id", {"story_id": ""}),
        ("plan_id", {"plan_id": "a/b"}),
        ("task_id", {"task_id": "x" * 65}),
        ("role", {"role": "qa"}),
        ("phase", {"phase": ""}),
        ("token_budget", {"token_budget": 0}),
        ("required_decision_ids", {"required_decision_ids": ["bad id"]}),
    ],
)
async def test_bad_input_is_refused_by_the_name_of_its_field(
    service: Service, field: str, changes: dict[str, object]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await service.stub.GetContext(context_of("s", "p", **changes))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (refused.value.details() or "").startswith(f"{field} ")


async def test_bad_searches_and_ids_are_refused_and_unknown_ones_not_found(
    service: Service, unique: Callable[[str], str]
) -> None:
    bad = [
        service.stub.SearchDecisions(context_pb2.SearchDecisionsRequest(story_id="a b")),
        service.stub.SearchDecisions(context_pb2.SearchDecisionsRequest(plan_id="a b")),
        service.stub.SearchDecisions(context_pb2.SearchDecisionsRequest(role="dev")),
        service.stub.SearchDecisions(context_pb2.SearchDecisionsRequest(page_size=501)),
        service.stub.SearchDecisions(context_pb2.SearchDecisionsRequest(page_token="x")),
        service.stub.ExplainDecision(context_pb2.ExplainDecisionRequest(decision_id="")),
    ]
    fields = ["story_id", "plan_id", "role", "page_size", "page_token", "decision_id"]
    for call, field in zip(bad, fields, strict=True):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert (refused.value.details() or "").startswith(f"{field} ")
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await service.stub.ExplainDecision(context_pb2.ExplainDecisionRequest(decision_id=unique("dec")))
    assert unknown.value.code() == grpc.StatusCode.NOT_FOUND


async def test_an_unknown_task_is_not_found_and_a_hopeless_budget_invalid(
    service: Service, bus: Bus, unique: Callable[[str], str]
) -> None:
    story, plan = unique("story"), unique("plan")
    await bus.publish(samples.plan_approved(story, plan, [samples.task("test", title="t" * 600)]))
    await eventually(lambda: service.stub.GetContext(context_of(story, plan)))
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await service.stub.GetContext(context_of(story, plan, task_id="nothing"))
    assert unknown.value.code() == grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.aio.AioRpcError, match="token_budget of 64 does not hold the titles") as refused:
        await service.stub.GetContext(context_of(story, plan, token_budget=64))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_garbage_goes_to_dead_letters_and_the_consumers_go_on(
    service: Service, bus: Bus, unique: Callable[[str], str]
) -> None:
    story, plan, mark = unique("story"), unique("plan"), unique("mark")
    contradiction = samples.completed(story, plan, "api", decision_id=mark)
    await bus.js.publish("planning.foo", mark.encode())
    await bus.js.publish("planning.plan.approved", f'{{"garbage": "{mark}"}}'.encode())
    await bus.js.publish("planning.story.created", b"\xff" + mark.encode())
    await bus.js.publish("orchestration.deliberation.completed", mark.encode())
    await bus.publish(contradiction)
    await bus.publish(samples.plan_approved(story, plan, [samples.task("test")]))
    await eventually(lambda: service.stub.GetContext(context_of(story, plan)))

    async def reasons(consumer: str, stream: str, count: int) -> list[str]:
        def ours(body: dict[str, object]) -> bool:
            payload = f"{body.get('payload')}{body.get('payload_base64')}"
            return mark in payload or body["subject"] == "planning.story.created"

        return [
            str(json.loads(item)["reason"]) for item in await read_all(bus, f"dead.{stream}.{consumer}", ours, count)
        ]

    planning = await reasons("context-planning", "PLANNING_EVENTS", 3)
    assert any("no event type belongs on subject 'planning.foo'" in reason for reason in planning)
    assert any("not a valid planning.plan.approved" in reason for reason in planning)
    assert any("not a valid planning.story.created" in reason for reason in planning)
    decisions = await reasons("context-decisions", "ORCHESTRATOR_EVENTS", 2)
    assert any("not a valid orchestration.deliberation.completed" in reason for reason in decisions)
    assert any("decision_id must be" in reason for reason in decisions)
    assert await service.status() == health_pb2.HealthCheckResponse.SERVING


async def test_what_a_crash_left_unpublished_is_published_by_the_redelivery_under_the_same_id(
    store: Graph, cache: ContextCache, unique: Callable[[str], str]
) -> None:
    event = samples.completed(unique("story"), unique("plan"), "api")
    tried: list[events.Event] = []

    async def publish(update: events.Event) -> None:
        tried.append(update)
        if len(tried) == 1:
            raise Unavailable("the process died here")

    with pytest.raises(Unavailable, match="died here"):
        await handlers.remember(event, handlers.recorder(store), cache, publish)
    await handlers.remember(samples.story_created(event.story_id), handlers.recorder(store), cache, publish)
    await handlers.remember(event, handlers.recorder(store), cache, publish)
    await handlers.remember(event, handlers.recorder(store), cache, publish)
    lost, other, *made_good = tried
    assert made_good == [lost, lost]
    assert lost.message_id() == made_good[0].message_id() != other.message_id()


async def test_twenty_events_of_one_story_at_once_all_go_through_at_the_first_try(
    store: Graph, cache: ContextCache, unique: Callable[[str], str]
) -> None:
    story, plan = unique("story"), unique("plan")
    published: list[events.ContextUpdated] = []

    async def publish(update: events.Event) -> None:
        assert isinstance(update, events.ContextUpdated)
        published.append(update)

    record = handlers.recorder(store)
    arriving = [samples.completed(story, plan, f"t{number}") for number in range(20)]
    await asyncio.gather(*(handlers.remember(event, record, cache, publish) for event in arriving))
    assert [update.version for update in published] == list(range(1, 21))


async def test_another_content_under_a_known_id_is_kept_out_with_a_warning(
    store: Graph, cache: ContextCache, unique: Callable[[str], str]
) -> None:
    story, plan = unique("story"), unique("plan")
    published: list[events.Event] = []

    async def publish(update: events.Event) -> None:
        published.append(update)

    await handlers.remember(samples.completed(story, plan, "api"), handlers.recorder(store), cache, publish)
    with structlog.testing.capture_logs() as lines:
        await handlers.remember(
            samples.completed(story, plan, "api", margin=0.1), handlers.recorder(store), cache, publish
        )
    assert [line["log_level"] for line in lines] == ["warning"]
    assert "kept out" in lines[0]["event"]
    assert len(published) == 1


async def test_it_waits_for_its_streams_and_says_so(
    graph_settings: GraphSettings, own_nats: realparts.Nats, valkey_url: str
) -> None:
    async with running(graph_settings, own_nats.url, valkey_url) as service:
        assert await service.status() == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async with asyncio.timeout(10):
                while True:
                    try:
                        await service.stub.GetContext(context_of("s", "p"))
                    except grpc.aio.AioRpcError as error:
                        if "fleet streams apply" in (error.details() or ""):
                            raise
                    await asyncio.sleep(0.05)
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "PLANNING_EVENTS does not exist" in (refused.value.details() or "")
        with pytest.raises(grpc.aio.AioRpcError) as wrong:
            await service.stub.UpdateContext(context_pb2.UpdateContextRequest(request_id="r", actor="ada"))
        assert wrong.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_it_is_not_ready_while_the_graph_is_away_and_recovers(
    own_graph: realparts.GraphServer, nats_url: str, valkey_url: str, bus: Bus
) -> None:
    assert own_graph.process is not None
    async with running(own_graph.settings(), nats_url, valkey_url) as service:
        await service.until_ready()
        own_graph.process.kill()
        await service.until(health_pb2.HealthCheckResponse.NOT_SERVING)
        with pytest.raises(grpc.aio.AioRpcError, match="graph: the graph database at bolt://"):
            await service.stub.GetContext(context_of("s", "p"))
        await asyncio.to_thread(own_graph.process.start)
        await service.until_ready()


async def test_without_its_cache_it_is_ready_and_answers(
    graph_settings: GraphSettings, nats_url: str, bus: Bus, unique: Callable[[str], str]
) -> None:
    story, plan = unique("story"), unique("plan")
    async with running(graph_settings, nats_url, f"valkey://127.0.0.1:{realparts.free_port()}") as service:
        await service.until_ready()
        await bus.publish(samples.plan_approved(story, plan, [samples.task("test")]))
        await eventually(lambda: service.stub.GetContext(context_of(story, plan)))
        assert not (await service.stub.GetContext(context_of(story, plan))).from_cache


async def test_it_ends_when_its_connection_to_nats_has_ended_for_good(
    graph_settings: GraphSettings, nats_url: str, valkey_url: str, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Bus] = []

    async def connect(url: str, service: str, creds: str | None = None) -> Bus:
        opened.append(await wire_bus.connect(url, service, creds))
        return opened[0]

    monkeypatch.setattr(startup, "connect", connect)
    port = realparts.free_port()
    told = ContextSettings.model_validate(
        {**graph_settings.model_dump(), "nats_url": nats_url, "valkey_url": valkey_url, "grpc_port": port}
    )
    task = asyncio.create_task(serve(told, samples.SCOPES, asyncio.Event()))
    service = Service(port)
    await service.until_ready()
    await opened[0].client.close()
    assert await asyncio.wait_for(task, 20) is False
    await service.channel.close()


async def test_a_persons_override_takes_the_place_of_a_decision_and_says_what_relied_on_it(
    service: Service, bus: Bus, unique: Callable[[str], str]
) -> None:
    story, plan = unique("story"), unique("plan")
    api = samples.completed(story, plan, "api")
    test = samples.completed(story, plan, "test", role="QA", based_on=[api.decision_id])
    for event in (api, test):
        await bus.publish(event)
        explain = context_pb2.ExplainDecisionRequest(decision_id=event.decision_id)
        await eventually(functools.partial(service.stub.ExplainDecision, explain))
    told = context_pb2.OverrideDecision(decision_id=api.decision_id, title="bcrypt", content="It.", reason="audit")
    request = context_pb2.UpdateContextRequest(
        request_id=unique("r"), actor="ada", changes=[{"override": told}, context_pb2.Change()]
    )
    made, refused = (await service.stub.UpdateContext(request)).results
    assert (made.applied, made.superseded, made.flagged) == (True, [api.decision_id], [test.decision_id])
    assert [(one.story_id, one.version) for one in made.stories] == [(story, 3)]
    assert (refused.applied, refused.code) == (False, "invalid")
    assert (await service.stub.UpdateContext(request)).results == [made, refused]
    [body] = await read_all(bus, "context.updated", lambda body: body["story_id"] == story and body["version"] == 3, 1)
    update = events.decode("context.updated", body)
    assert isinstance(update, events.ContextUpdated)
    assert (update.superseded, update.flagged) == ([api.decision_id], [test.decision_id])
    request.actor = "bob"
    with pytest.raises(grpc.aio.AioRpcError) as other:
        await service.stub.UpdateContext(request)
    assert other.value.code() == grpc.StatusCode.ALREADY_EXISTS
