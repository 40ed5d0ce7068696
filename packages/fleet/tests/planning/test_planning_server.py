"""The service as a process, on a real graph database and a real NATS server, asked over gRPC."""

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio
import realparts
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from planning_samples import (
    PlanningProcess,
    approvals,
    connected,
    eventually,
    on_stream,
    proposed,
    proto_task,
    running_planning,
    some_id,
)

from fleet_wire import events
from fleet_wire.bus import Bus
from fleet_wire.gen.planning.v1 import planning_pb2 as pb

if TYPE_CHECKING:
    from fleet_wire.gen.planning.v1.planning_pb2_grpc import PlanningServiceAsyncStub as Stub


@pytest.fixture(scope="module")
def planning(
    tmp_path_factory: pytest.TempPathFactory, nats_url: str, graph: realparts.GraphServer
) -> Iterator[PlanningProcess]:
    with running_planning(tmp_path_factory.mktemp("planning"), nats_url, graph) as process:
        yield process


@pytest_asyncio.fixture
async def stub(planning: PlanningProcess, bus: Bus) -> "AsyncIterator[Stub]":
    await planning.until_serving()
    async with connected(planning.address) as client:
        yield client


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_a_story_can_be_made_and_read(stub: "Stub", bus: Bus) -> None:
    before = dt.datetime.now(dt.UTC)
    made = await stub.CreateStory(
        pb.CreateStoryRequest(title="Search", brief="Find.", acceptance=["fast"], phase="design", actor="ana")
    )
    story = made.story
    assert (story.title, story.brief, list(story.acceptance), story.phase) == ("Search", "Find.", ["fast"], "design")
    assert before <= story.created_at.ToDatetime(dt.UTC) <= dt.datetime.now(dt.UTC)
    assert (await stub.GetStory(pb.GetStoryRequest(story_id=story.story_id))).story == story
    told = events.encode(events.StoryCreated(story_id=story.story_id, title="Search", brief="Find."))

    async def published() -> bool:
        return told in await on_stream(bus, "planning.story.created")

    await eventually(published)


async def test_a_request_can_be_repeated(stub: "Stub") -> None:
    request_id = some_id("req")
    story = pb.CreateStoryRequest(request_id=request_id, title="Search")
    first = await stub.CreateStory(story)
    assert await stub.CreateStory(story) == first
    story.title = "Other"
    code, detail = await refused(stub.CreateStory(story))
    assert code is grpc.StatusCode.ALREADY_EXISTS
    assert request_id in detail
    plan = pb.ProposePlanRequest(request_id=request_id, story_id=first.story.story_id, roles=["DEV"])
    assert await stub.ProposePlan(plan) == await stub.ProposePlan(plan)
    plan.roles[0] = "QA"
    code, _ = await refused(stub.ProposePlan(plan))
    assert code is grpc.StatusCode.ALREADY_EXISTS


async def test_a_story_is_led_on_by_named_events_each_published(stub: "Stub", bus: Bus) -> None:
    story_id = (await stub.CreateStory(pb.CreateStoryRequest(title="Search"))).story.story_id

    def asked(event: str, **more: str) -> pb.TransitionStoryRequest:
        return pb.TransitionStoryRequest(**{"story_id": story_id, "event": event, "actor": "ana", **more})

    request_id = some_id("req")
    first = (await stub.TransitionStory(asked("start_draft", request_id=request_id))).story
    assert (first.state, first.version, list(first.allowed_events)) == ("DRAFT", 1, ["approve_scope", "reject_scope"])
    assert (await stub.TransitionStory(asked("start_draft", request_id=request_id))).story == first
    last = (await stub.TransitionStory(asked("reject_scope", actor="agent-QA-001", reason="too big"))).story
    assert [(item.version, item.event, item.from_state, item.to_state) for item in last.transitions] == [
        (1, "start_draft", "BACKLOG", "DRAFT"),
        (2, "reject_scope", "DRAFT", "BACKLOG"),
    ]
    assert (last.transitions[1].actor, last.transitions[1].reason) == ("agent-QA-001", "too big")
    assert (await stub.GetStory(pb.GetStoryRequest(story_id=story_id))).story == last

    async def published() -> list[events.Event]:
        subject = "planning.story.transitioned"
        bodies = [body for body in await on_stream(bus, subject) if story_id.encode() in body]
        return [events.decode(subject, body) for body in bodies]

    async def both() -> bool:
        return len(await published()) == 2

    await eventually(both)
    assert [event.message_id() for event in await published()] == [
        f"planning.story.transitioned:{story_id}:{version}" for version in (1, 2)
    ]


async def test_a_transition_that_is_not_allowed_answers_which_are_and_a_gate_needs_a_person(stub: "Stub") -> None:
    story_id = (await stub.CreateStory(pb.CreateStoryRequest(title="Search"))).story.story_id

    def asked(event: str, actor: str = "ana", **more: str) -> pb.TransitionStoryRequest:
        return pb.TransitionStoryRequest(story_id=story_id, event=event, actor=actor, **more)

    code, detail = await refused(stub.TransitionStory(asked("approve_scope")))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "is in BACKLOG, where approve_scope is not allowed; allowed: start_draft (to DRAFT)" in detail
    await stub.TransitionStory(asked("start_draft"))
    for request, word in [
        (asked("approve_scope", actor=""), "actor"),
        (asked("approve_scope", actor="agent-QA-001"), "actor must name a person"),
        (asked("reject_scope"), "reason"),
        (asked("finish"), "event must be one of"),
    ]:
        code, detail = await refused(stub.TransitionStory(request))
        assert (code, word in detail) == (grpc.StatusCode.INVALID_ARGUMENT, True), (word, detail)
    await stub.TransitionStory(asked("approve_scope"))
    code, detail = await refused(stub.TransitionStory(asked("approve_design")))
    assert (code, "no plan of the story is approved" in detail) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    listed = (await stub.ListStories(pb.ListStoriesRequest(state="DESIGN", page_size=500))).stories
    assert story_id in [story.story_id for story in listed]
    listed = (await stub.ListStories(pb.ListStoriesRequest(state="DRAFT", page_size=500))).stories
    assert story_id not in [story.story_id for story in listed]


async def test_a_plan_proposed_again_is_the_next_version_and_its_approval_supersedes_the_other(stub: "Stub") -> None:
    first = await proposed(stub)
    await stub.ApprovePlan(pb.ApprovePlanRequest(plan_id=first.plan_id, approved_by="ana"))
    request = pb.ProposePlanRequest(story_id=first.story_id, tasks=[proto_task(title="Otherwise")])
    second = (await stub.ProposePlan(request)).plan
    assert (second.plan_version, second.state) == (2, "proposed")
    await stub.ApprovePlan(pb.ApprovePlanRequest(plan_id=second.plan_id, approved_by="ben"))
    before = (await stub.GetPlan(pb.GetPlanRequest(plan_id=first.plan_id))).plan
    assert (before.state, before.superseded_by, before.decided_by) == ("superseded", second.plan_id, "ana")
    assert before.tasks == first.tasks
    story = (await stub.GetStory(pb.GetStoryRequest(story_id=first.story_id))).story
    assert [(item.plan_version, item.state) for item in story.plans] == [(1, "superseded"), (2, "approved")]
    running = await stub.ListStories(pb.ListStoriesRequest(plan_state="superseded", page_size=500))
    assert first.story_id in [item.story_id for item in running.stories]


async def test_a_plan_comes_back_whole_with_its_story(stub: "Stub") -> None:
    tasks = [
        proto_task(requirements=["tests"], acceptance=["green"]),
        proto_task(
            "t2",
            role="QA",
            depends_on=["t1"],
            protocol="tournament",
            numbers={"finalists": 3},
            budget=pb.Budget(tokens=1000, calls=9, seconds=1.5),
            entry_point="slugify",
        ),
    ]
    plan = await proposed(stub, roles=["DEV", "QA"], tasks=tasks, budget=pb.Budget(tokens=5000))
    assert plan.budget == pb.Budget(tokens=5000)
    assert (plan.state, plan.plan_version, list(plan.tasks), list(plan.roles)) == (
        "proposed",
        1,
        tasks,
        ["DEV", "QA"],
    )
    found = await stub.GetPlan(pb.GetPlanRequest(plan_id=plan.plan_id))
    assert found.plan == plan
    assert (found.story.story_id, found.story.title, list(found.story.acceptance)) == (
        plan.story_id,
        "Search",
        ["fast"],
    )
    story = (await stub.GetStory(pb.GetStoryRequest(story_id=plan.story_id))).story
    assert [(item.plan_id, item.plan_version, item.state) for item in story.plans] == [(plan.plan_id, 1, "proposed")]


async def test_an_approved_plan_is_published_whole_and_once(stub: "Stub", bus: Bus, planning: PlanningProcess) -> None:
    plan = await proposed(stub, tasks=[proto_task(), proto_task("t2", depends_on=["t1"])])
    answer = await stub.ApprovePlan(pb.ApprovePlanRequest(plan_id=plan.plan_id, approved_by="ana"))
    assert (answer.plan.state, answer.plan.decided_by) == ("approved", "ana")

    async def published() -> bool:
        return bool(await approvals(bus, plan.plan_id))

    await eventually(published)
    await asyncio.sleep(2.5)
    [event] = await approvals(bus, plan.plan_id)
    assert event.story == events.StoryText(title="Search", brief="Find things.", acceptance=["fast"])
    assert (event.story_id, event.plan_version, event.approved_by) == (plan.story_id, 1, "ana")
    assert event.approved_at == answer.plan.decided_at.ToDatetime(dt.UTC)
    assert [(item.task_id, item.depends_on, item.protocol) for item in event.tasks] == [
        ("t1", [], None),
        ("t2", ["t1"], None),
    ]
    lines = [json.loads(line) for line in planning.process.text().splitlines() if line.startswith("{")]
    assert [line["id"] for line in lines if line["event"] == "plan.approved"].count(plan.plan_id) == 1


async def test_a_plan_is_approved_once(stub: "Stub", bus: Bus) -> None:
    plan = await proposed(stub)
    request = pb.ApprovePlanRequest(plan_id=plan.plan_id, approved_by="ana")
    await stub.ApprovePlan(request)
    code, detail = await refused(stub.ApprovePlan(request))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "is approved, not proposed" in detail
    code, _ = await refused(stub.RejectPlan(pb.RejectPlanRequest(plan_id=plan.plan_id, rejected_by="b", reason="r")))
    assert code is grpc.StatusCode.FAILED_PRECONDITION


async def test_of_two_approvals_at_once_on_two_replicas_one_wins(
    stub: "Stub",
    bus: Bus,
    nats_url: str,
    graph: realparts.GraphServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with running_planning(tmp_path_factory.mktemp("replica"), nats_url, graph) as replica:
        await replica.until_serving()
        async with connected(replica.address) as other:
            plans = [await proposed(stub) for _ in range(5)]
            for plan in plans:
                request = pb.ApprovePlanRequest(plan_id=plan.plan_id, approved_by="ana")
                calls = [client.ApprovePlan(request) for client in (stub, other, stub, other)]
                answers = await asyncio.gather(*calls, return_exceptions=True)
                codes = sorted(a.code().name if isinstance(a, grpc.aio.AioRpcError) else "OK" for a in answers)
                assert codes == ["FAILED_PRECONDITION"] * 3 + ["OK"]

            async def all_published(plans: list[pb.Plan] = plans) -> bool:
                return all([await approvals(bus, plan.plan_id) for plan in plans])

            await eventually(all_published)
            assert [len(await approvals(bus, plan.plan_id)) for plan in plans] == [1] * 5


async def test_a_rejected_plan_keeps_its_reason_and_is_never_published(stub: "Stub", bus: Bus) -> None:
    plan = await proposed(stub)
    request = pb.RejectPlanRequest(plan_id=plan.plan_id, rejected_by="ana", reason="too big")
    answer = (await stub.RejectPlan(request)).plan
    assert (answer.state, answer.decided_by, answer.reject_reason) == ("rejected", "ana", "too big")
    assert (await refused(stub.RejectPlan(request)))[0] is grpc.StatusCode.FAILED_PRECONDITION
    approval = stub.ApprovePlan(pb.ApprovePlanRequest(plan_id=plan.plan_id, approved_by="ana"))
    assert (await refused(approval))[0] is grpc.StatusCode.FAILED_PRECONDITION
    assert await approvals(bus, plan.plan_id) == []


async def test_stories_are_listed_newest_first_by_pages_and_by_the_state_of_a_plan(stub: "Stub") -> None:
    plans = [await proposed(stub) for _ in range(3)]
    approved = plans[1]
    await stub.ApprovePlan(pb.ApprovePlanRequest(plan_id=approved.plan_id, approved_by="ana"))
    first = await stub.ListStories(pb.ListStoriesRequest(page_size=2, plan_state="proposed"))
    assert [story.story_id for story in first.stories] == [plans[2].story_id, plans[0].story_id]
    everything = await stub.ListStories(pb.ListStoriesRequest(page_size=2))
    rest = await stub.ListStories(pb.ListStoriesRequest(page_size=1, page_token=everything.next_page_token))
    assert [story.story_id for story in (*everything.stories, *rest.stories)] == [p.story_id for p in plans[::-1]]
    running = await stub.ListStories(pb.ListStoriesRequest(plan_state="approved"))
    assert approved.plan_id in [item.plan_id for story in running.stories for item in story.plans]


BAD = [
    ("CreateStory", pb.CreateStoryRequest(title=""), "title"),
    ("CreateStory", pb.CreateStoryRequest(title="a", request_id="a b"), "request_id"),
    ("CreateStory", pb.CreateStoryRequest(title="a", phase="x"), "phase"),
    ("GetStory", pb.GetStoryRequest(), "story_id"),
    ("ListStories", pb.ListStoriesRequest(page_size=501), "page_size"),
    ("ListStories", pb.ListStoriesRequest(page_token="x"), "page_token"),
    ("ListStories", pb.ListStoriesRequest(plan_state="x"), "plan_state"),
    ("ListStories", pb.ListStoriesRequest(state="x"), "state"),
    ("TransitionStory", pb.TransitionStoryRequest(event="start_draft", actor="ana"), "story_id"),
    ("ProposePlan", pb.ProposePlanRequest(roles=["DEV"]), "story_id"),
    ("GetPlan", pb.GetPlanRequest(plan_id="a/b"), "plan_id"),
    ("ApprovePlan", pb.ApprovePlanRequest(approved_by="ana"), "plan_id"),
    ("RejectPlan", pb.RejectPlanRequest(rejected_by="ana", reason="r"), "plan_id"),
]
BAD_OF_A_STORY = [
    ({}, "tasks"),
    ({"roles": ["Developer"]}, "roles[0]"),
    ({"tasks": [proto_task(role="")]}, "tasks[0].role"),
    ({"tasks": [proto_task("index", description="")]}, "tasks[0].description must not be empty (task index)"),
    ({"tasks": [proto_task(), proto_task()]}, "task_id"),
    ({"tasks": [proto_task(depends_on=["t9"])]}, "tasks[0].depends_on"),
    ({"tasks": [proto_task(depends_on=["t2"]), proto_task("t2", depends_on=["t1"])]}, "t1 → t2 → t1"),
    ({"tasks": [proto_task(protocol="X")]}, "tasks[0].protocol"),
    ({"tasks": [proto_task(f"t{n}", description="x" * 9000) for n in range(64)]}, "tasks are too long"),
]
UNKNOWN = [
    ("GetStory", pb.GetStoryRequest(story_id="story-9")),
    ("ProposePlan", pb.ProposePlanRequest(story_id="story-9", roles=["DEV"])),
    ("GetPlan", pb.GetPlanRequest(plan_id="plan-9")),
    ("ApprovePlan", pb.ApprovePlanRequest(plan_id="plan-9", approved_by="ana")),
    ("TransitionStory", pb.TransitionStoryRequest(story_id="story-9", event="start_draft", actor="ana")),
    ("RejectPlan", pb.RejectPlanRequest(plan_id="plan-9", rejected_by="ana", reason="r")),
]


async def test_a_bad_request_is_refused_with_the_name_of_the_field(stub: "Stub") -> None:
    for method, request, field in BAD:
        code, detail = await refused(getattr(stub, method)(request))
        assert (code, field in detail) == (grpc.StatusCode.INVALID_ARGUMENT, True), (method, field, detail)


async def test_a_bad_plan_or_decision_is_refused_with_the_name_of_the_field(stub: "Stub") -> None:
    plan = await proposed(stub)
    for fields, name in BAD_OF_A_STORY:
        code, detail = await refused(stub.ProposePlan(pb.ProposePlanRequest(story_id=plan.story_id, **fields)))
        assert (code, name in detail) == (grpc.StatusCode.INVALID_ARGUMENT, True), (name, detail)
    for call, name in [
        (stub.ApprovePlan(pb.ApprovePlanRequest(plan_id=plan.plan_id)), "approved_by"),
        (stub.RejectPlan(pb.RejectPlanRequest(plan_id=plan.plan_id, reason="r")), "rejected_by"),
        (stub.RejectPlan(pb.RejectPlanRequest(plan_id=plan.plan_id, rejected_by="ana")), "reason"),
    ]:
        code, detail = await refused(call)
        assert (code, name in detail) == (grpc.StatusCode.INVALID_ARGUMENT, True), (name, detail)


async def test_what_is_not_there_is_not_found(stub: "Stub") -> None:
    for method, request in UNKNOWN:
        code, detail = await refused(getattr(stub, method)(request))
        assert (code, "-9" in detail) == (grpc.StatusCode.NOT_FOUND, True), (method, detail)


async def test_a_finished_plan_is_marked_also_when_told_twice(stub: "Stub", bus: Bus) -> None:
    plan = await proposed(stub)
    await stub.ApprovePlan(pb.ApprovePlanRequest(plan_id=plan.plan_id, approved_by="ana"))
    done = events.PlanCompleted(plan_id=plan.plan_id, story_id=plan.story_id, decided=["t1"])
    for message_id in ("one", "two"):
        headers = {**bus.headers(done), "Nats-Msg-Id": some_id(message_id)}
        await bus.js.publish(done.subject(), events.encode(done), headers=headers)

    async def completed() -> bool:
        return (await stub.GetPlan(pb.GetPlanRequest(plan_id=plan.plan_id))).plan.state == "completed"

    await eventually(completed)
    assert (await stub.GetPlan(pb.GetPlanRequest(plan_id=plan.plan_id))).plan.HasField("completed_at")
    running = await stub.ListStories(pb.ListStoriesRequest(plan_state="approved", page_size=500))
    assert plan.plan_id not in [item.plan_id for story in running.stories for item in story.plans]
    code, _ = await refused(stub.ApprovePlan(pb.ApprovePlanRequest(plan_id=plan.plan_id, approved_by="ana")))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    letters = await on_stream(bus, "dead.ORCHESTRATOR_EVENTS.planning-completions")
    assert not [letter for letter in letters if plan.plan_id.encode() in letter]


async def test_garbage_goes_to_the_dead_letters_and_the_consumer_goes_on(stub: "Stub", bus: Bus) -> None:
    subject, word = "orchestration.plan.completed", some_id("garbage")
    plan = await proposed(stub)
    unknown = events.PlanCompleted(plan_id=some_id("plan"), story_id="s", decided=[])
    early = events.PlanCompleted(plan_id=plan.plan_id, story_id=plan.story_id, decided=[])
    for body in (word.encode(), b'\xff\xfe"' + word.encode(), b"{}" + word.encode()):
        await bus.js.publish(subject, body)
    await bus.publish(unknown)
    await bus.publish(early)

    async def buried() -> bool:
        letters = [json.loads(item) for item in await on_stream(bus, "dead.ORCHESTRATOR_EVENTS.planning-completions")]
        reasons = [letter["reason"] for letter in letters]
        texts = [letter for letter in letters if word in letter.get("payload", "")]
        binary = [letter for letter in letters if "payload_base64" in letter]
        return (
            len(texts) == 2
            and len(binary) >= 1
            and any(reason == f"NotFound: there is no plan {unknown.plan_id}" for reason in reasons)
            and any(reason.startswith(f"Precondition: plan {plan.plan_id} is proposed") for reason in reasons)
        )

    await eventually(buried)
    await test_a_finished_plan_is_marked_also_when_told_twice(stub, bus)


async def test_health_and_reflection_answer(stub: "Stub", planning: PlanningProcess) -> None:
    async with grpc.aio.insecure_channel(planning.address) as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        ask = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        async for answer in reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(ask):
            names = {service.name for service in answer.list_services_response.service}
            assert "planning.v1.PlanningService" in names
