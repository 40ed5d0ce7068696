"""RehydrateSession over gRPC on real servers: from the graph alone, in scope, within the budget, and what is new to a session."""

from collections.abc import AsyncIterator, Callable

import context_samples as samples
import grpc
import pytest
import pytest_asyncio
import valkey.asyncio
from test_context_service import Service, eventually, running

from fleet.context import reading, rehydrating, scopes
from fleet.context.domain import Milestone
from fleet.context.projection import SUMMARY_CHARS
from fleet.context.rehydrating import Entry
from fleet.settings import GraphSettings
from fleet_wire.bus import Bus
from fleet_wire.gen.context.v1 import context_pb2


@pytest_asyncio.fixture
async def service(graph_settings: GraphSettings, nats_url: str, valkey_url: str, bus: Bus) -> AsyncIterator[Service]:
    async with running(graph_settings, nats_url, valkey_url, scopes.load()) as started:
        await started.until_ready()
        yield started


def asked(session: str, story: str, plan: str, **changes: object) -> context_pb2.RehydrateSessionRequest:
    fields = {"session_id": session, "story_id": story, "plan_id": plan, "role": "ARCHITECT", "phase": "build"}
    return context_pb2.RehydrateSessionRequest(**{"token_budget": 4000, **fields, **changes})  # type: ignore[arg-type]


async def planned(service: Service, bus: Bus, story: str, plan: str) -> str:
    """A plan with a decision of DATA in the graph; its id."""
    made = samples.completed(story, plan, "vault", role="DATA")
    await bus.publish(samples.plan_approved(story, plan, [samples.task("vault", role="DATA"), samples.task("api")]))
    await bus.publish(made)
    explain = context_pb2.ExplainDecisionRequest(decision_id=made.decision_id)
    await eventually(lambda: service.stub.ExplainDecision(explain))
    await eventually(lambda: service.stub.RehydrateSession(asked("warm", story, plan)))
    return made.decision_id


async def change(service: Service, request: str, **told: object) -> context_pb2.ChangeResult:
    change = context_pb2.Change(**told)  # type: ignore[arg-type]
    request_ = context_pb2.UpdateContextRequest(request_id=request, actor="ada", changes=[change])
    [result] = (await service.stub.UpdateContext(request_)).results
    assert result.applied, result.message
    return result


async def test_a_session_gets_the_pack_the_timeline_and_what_is_new_since_its_last_look(
    service: Service, bus: Bus, valkey_url: str, unique: Callable[[str], str]
) -> None:
    story, plan, session = unique("story"), unique("plan"), unique("session")
    decision = await planned(service, bus, story, plan)
    first = await service.stub.RehydrateSession(asked(session, story, plan))
    assert not first.HasField("since")
    kinds = [block.kind for block in first.blocks]
    assert "task" not in kinds and kinds[0] == "story" and kinds[-1] == "role" and "decision" in kinds
    assert [entry.kind for entry in first.timeline] == [
        "planning.plan.approved",
        "orchestration.deliberation.completed",
    ]
    assert first.tokens > sum(block.tokens for block in first.blocks)

    whole = "Half of it is done. " * 20
    await change(service, unique("r"), summary={"story_id": story, "text": whole})
    told = {"decision_id": decision, "title": "No vault", "content": "Files.", "reason": "cost"}
    made = await change(service, unique("r"), override=told)
    second = await service.stub.RehydrateSession(asked(session, story, plan, task_id="api"))
    assert (second.since.version, second.version) == (first.version, first.version + 2)
    new = [entry for entry in second.timeline if entry.event_id in second.since.event_ids]
    assert {entry.kind for entry in new} == {"context.summary", "context.override"}
    assert whole in [entry.summary for entry in new]
    assert second.blocks[0].kind == "task"
    decisions = {block.source_id for block in second.blocks if block.kind == "decision"}
    assert made.id in decisions and decision not in decisions
    third = await service.stub.RehydrateSession(asked(session, story, plan))
    assert (third.since.version, list(third.since.event_ids)) == (second.version, [])

    client = valkey.asyncio.Valkey.from_url(valkey_url)
    await client.flushall()
    await client.aclose()
    lost = await service.stub.RehydrateSession(asked(session, story, plan))
    assert not lost.HasField("since")
    third.ClearField("since")
    assert lost == third


async def test_a_timeline_tells_no_role_of_what_its_scope_keeps_from_it(
    service: Service, bus: Bus, unique: Callable[[str], str]
) -> None:
    story, plan = unique("story"), unique("plan")
    await planned(service, bus, story, plan)
    for role, phase, kinds in (
        ("ARCHITECT", "build", ["planning.plan.approved", "orchestration.deliberation.completed"]),
        ("DEV", "test", ["planning.plan.approved"]),
        ("DEV", "build", []),
    ):
        answer = await service.stub.RehydrateSession(asked("s", story, plan, role=role, phase=phase))
        assert [entry.kind for entry in answer.timeline] == kinds
        assert ("vault" in str(answer.timeline)) == (role == "ARCHITECT")


async def test_what_is_new_is_what_this_role_has_not_been_told(
    service: Service, bus: Bus, unique: Callable[[str], str]
) -> None:
    story, plan, session = unique("story"), unique("plan"), unique("session")
    await planned(service, bus, story, plan)
    await service.stub.RehydrateSession(asked(session, story, plan, role="DEV", phase="build"))
    architect = await service.stub.RehydrateSession(asked(session, story, plan, role="ARCHITECT"))
    assert not architect.HasField("since")
    await change(service, unique("r"), milestone={"story_id": story, "text": "half"})
    # In build the scope hides all of the timeline from DEV; in test it has the plan's approval too.
    for role, phase, kinds in (
        ("ARCHITECT", "build", ["context.milestone"]),
        ("ARCHITECT", "build", []),
        ("DEV", "test", ["planning.plan.approved", "context.milestone"]),
        ("DEV", "test", []),
    ):
        answer = await service.stub.RehydrateSession(asked(session, story, plan, role=role, phase=phase))
        told = {entry.event_id: entry.kind for entry in answer.timeline}
        assert [told[name] for name in answer.since.event_ids] == kinds


async def test_blocks_and_timeline_together_stay_within_the_budget(
    service: Service, bus: Bus, unique: Callable[[str], str]
) -> None:
    story, plan = unique("story"), unique("plan")
    await planned(service, bus, story, plan)
    full = await service.stub.RehydrateSession(asked("s", story, plan))
    tight = await service.stub.RehydrateSession(asked("s", story, plan, token_budget=full.tokens - 1))
    assert tight.tokens <= full.tokens - 1
    assert list(tight.timeline) == list(full.timeline)[1:] or tight.left_out


async def test_what_is_wrong_or_unknown_is_refused_as_for_a_context(
    service: Service, bus: Bus, unique: Callable[[str], str]
) -> None:
    story, plan = unique("story"), unique("plan")
    await planned(service, bus, story, plan)
    for bad, code in (
        ({"session_id": "a b"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"role": "dev"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"task_id": "a/b"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"task_id": "none"}, grpc.StatusCode.NOT_FOUND),
        ({"plan_id": unique("plan")}, grpc.StatusCode.UNAVAILABLE),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await service.stub.RehydrateSession(asked("s", story, plan, **bad))
        assert refused.value.code() == code


async def test_what_is_new_but_does_not_fit_the_budget_is_named(
    service: Service, bus: Bus, unique: Callable[[str], str]
) -> None:
    story, plan, session = unique("story"), unique("plan"), unique("session")
    await planned(service, bus, story, plan)
    await service.stub.RehydrateSession(asked(session, story, plan))
    for number in (1, 2):
        await change(service, unique("r"), milestone={"story_id": story, "text": f"{number} " + "done " * 2000})
    tight = await service.stub.RehydrateSession(asked(session, story, plan, token_budget=1000))
    assert tight.timeline == [] and len(tight.since.event_ids) == 2
    again = await service.stub.RehydrateSession(asked(session, story, plan, token_budget=1000))
    assert list(again.since.event_ids) == []


async def test_a_timeline_reaches_past_what_the_scope_hides(
    service: Service, bus: Bus, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehydrating, "MOST_ENTRIES", 1)
    story, plan = unique("story"), unique("plan")
    await planned(service, bus, story, plan)
    answer = await service.stub.RehydrateSession(asked("s", story, plan, role="DEV", phase="test"))
    assert [entry.kind for entry in answer.timeline] == ["planning.plan.approved"]


def test_a_line_of_an_earlier_release_is_shown_redacted_and_cut() -> None:
    node = {"event_id": "e1", "kind": "k", "summary": f"council decided password: hunter2secret {'x' * 400}"}
    told = reading.milestone_of(node)
    assert "hunter2secret" not in told.summary and len(told.summary) == SUMMARY_CHARS
    assert reading.milestone_of({"event_id": "e1", "kind": "k", "summary": told.summary}) == told


def test_the_newest_entries_that_fit_are_kept_without_a_gap() -> None:
    entries = [Entry(Milestone(f"e{number}", "k", "", "s"), "s", number) for number in (3, 2, 1)]
    assert rehydrating.newest_within(entries, [2, 9, 1], 10) == ((entries[0],), 2)
    assert rehydrating.newest_within(entries, [2, 3, 1], 6) == (tuple(reversed(entries)), 6)
    assert rehydrating.newest_within(entries, [2, 3, 1], 1) == ((), 0)
