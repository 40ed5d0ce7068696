"""Replays, and what is refused at the door, over gRPC."""

import json
from typing import Any

import grpc
import harness
import msgspec
import pytest
from harness import Peers, until
from test_server import ended, refused, served

from fleet.orchestrator.store import prompt_key
from fleet_wire import ids
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2 as pb

__all__ = ["served"]

Served = tuple[Any, Peers, harness.Bus]
INVALID = grpc.StatusCode.INVALID_ARGUMENT
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


async def decided(stub: Any, **request: Any) -> tuple[str, Any]:
    name = (await stub.Deliberate(pb.DeliberateRequest(**request))).deliberation_id
    answer = await ended(stub, name)
    return name, json.loads(answer.outcome)


async def retired(stub: Any) -> None:
    async def idle() -> bool:
        return (await stub.GetStatus(pb.GetStatusRequest())).running_deliberations == 0

    await until(idle)


async def test_another_protocol_decides_on_the_same_answers_without_a_call_where_none_is_needed(
    served: Served,
) -> None:
    stub, peers, _ = served
    old, first = await decided(stub, role="DEV", description=harness.CODE, protocol="tournament")
    assert first["calls"] == 3 + 2 + 6
    asked = set(peers.executor.jobs)
    new, second = await decided(stub, replay_of=old, protocol="vote")
    assert set(peers.executor.jobs) == asked
    assert (second["protocol"], second["calls"], second["usage"]["prompt"]) == ("vote", 0, 0)
    assert {one["content"] for one in second["ranking"]} == {one["content"] for one in first["ranking"]}
    again, third = await decided(stub, replay_of=new, protocol="best_of_n")
    phases = [job.phase for job_id, job in peers.executor.jobs.items() if job_id not in asked]
    assert sorted(phases) == ["dry_run"] * 3 + ["tests"] * 2
    assert third["calls"] == 2
    assert len({old, new, again}) == 3


async def test_a_repeated_replay_is_the_same_and_asks_for_nothing(served: Served) -> None:
    stub, peers, _ = served
    old, _ = await decided(stub, role="DEV", description=harness.CODE, protocol="best_of_n")
    asked = set(peers.executor.jobs)
    request = {"request_id": "again", "replay_of": old, "protocol": "best_of_n"}
    one, first = await decided(stub, **request)
    two, second = await decided(stub, **request)
    assert (one, first) == (two, second)
    assert set(peers.executor.jobs) == asked


async def test_a_replay_brings_no_texts_and_needs_what_is_kept(served: Served) -> None:
    stub, _, bus = served
    old, _ = await decided(stub, role="DEV", description="How?", protocol="vote")
    await refused(
        stub.Deliberate(pb.DeliberateRequest(replay_of=old, description="Another")), INVALID, "description", "replay_of"
    )
    await refused(
        stub.Deliberate(pb.DeliberateRequest(replay_of="delib-nowhere")), grpc.StatusCode.NOT_FOUND, "delib-nowhere"
    )
    await bus.js.purge_stream("KV_deliberations", subject=f"$KV.deliberations.{prompt_key(old)}")
    await retired(stub)
    other, _ = await decided(stub, role="DEV", description="How else?", protocol="vote")
    await bus.js.purge_stream("KV_deliberations", subject=f"$KV.deliberations.outcome.{other}")
    for gone in (old, other):
        request = pb.DeliberateRequest(replay_of=gone, protocol="single")

        async def refusal(request: Any = request) -> bool:
            try:
                await stub.Deliberate(request)
            except grpc.aio.AioRpcError as error:
                return error.code() == PRECONDITION and "24 hours" in (error.details() or "")
            return False

        await until(refusal)


FORM = '{"type": "object", "properties": {"steps": {"type": "array"}}, "required": ["steps"]}'
STEPS = '{"steps": ["one"]}'


def in_form(state: Any, job: Any) -> Any:
    """Every agent answers in the form asked for; else as usual."""
    answer = harness.answers(state, job)
    assert answer is not None
    return msgspec.structs.replace(answer, content=STEPS) if job.phase in ("propose", "revise") else answer


async def test_a_form_is_asked_of_every_proposal_and_revision_and_of_nothing_else(served: Served) -> None:
    stub, peers, _ = served
    peers.executor.answer = in_form
    _, outcome = await decided(
        stub,
        role="ARCHITECT",
        description=harness.CODE,
        protocol="peer_review",
        response_schema=FORM,
        max_tokens=2000,
    )
    assert {job.max_tokens for job in peers.executor.jobs.values()} == {2000}
    assert outcome["decision"]["content"] == STEPS
    jobs = peers.executor.jobs.values()
    assert {job.phase for job in jobs} == {"propose", "critique", "revise", "judge"}, (
        "a task with a form asks for no code"
    )
    asked = {
        phase: {job.response_schema for job in jobs if job.phase == phase}
        for phase in ("propose", "revise", "critique")
    }
    assert asked == {"propose": {FORM}, "revise": {FORM}, "critique": {""}}
    assert all('"winner"' in job.response_schema for job in peers.executor.of_phase("judge"))
    for job in peers.executor.of_phase("propose"):
        assert FORM in job.messages[-1][1] and "as JSON of the form" in job.messages[-1][1]


async def test_a_replay_keeps_the_form(served: Served) -> None:
    stub, peers, _ = served
    peers.executor.answer = in_form
    old, _ = await decided(stub, role="ARCHITECT", description=harness.CODE, protocol="single", response_schema=FORM)
    await retired(stub)
    await decided(stub, replay_of=old, protocol="vote")
    assert {(job.phase, job.response_schema) for job in peers.executor.jobs.values()} == {("propose", FORM)}
    code = pb.DeliberateRequest(replay_of=old, protocol="best_of_n")
    await refused(stub.Deliberate(code), INVALID, "asks for no Python code")
    both = pb.DeliberateRequest(replay_of=old, protocol="vote", response_schema=FORM)
    await refused(stub.Deliberate(both), INVALID, "response_schema", "replay_of")


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("{", "response_schema is no JSON"),
        ("[]", 'response_schema must be a JSON Schema with "type": "object"'),
        ('{"type": "string"}', '"type": "object"'),
        ('{"type": "object", "description": "' + "x" * 32 * 1024 + '"}', "response_schema has"),
    ],
)
async def test_a_form_that_is_none_is_refused_at_the_door(served: Served, form: str, words: str) -> None:
    stub, _, _ = served
    request = pb.DeliberateRequest(role="ARCHITECT", description="x", response_schema=form)
    await refused(stub.Deliberate(request), INVALID, words)
    code = pb.DeliberateRequest(role="ARCHITECT", description="x", response_schema=FORM, entry_point="f")
    await refused(stub.Deliberate(code), INVALID, "response_schema", "entry_point")
    long = pb.DeliberateRequest(role="ARCHITECT", description="x", max_tokens=16385)
    await refused(stub.Deliberate(long), INVALID, "max_tokens must be 1 to 16384")


async def test_a_protocol_without_its_sandbox_is_refused_at_the_door(served: Served) -> None:
    stub, peers, _ = served
    peers.executor.no_sandbox = "no user namespaces"
    request = pb.DeliberateRequest(role="DEV", description=harness.CODE, protocol="best_of_n")
    await refused(stub.Deliberate(request), PRECONDITION, "no user namespaces", "tournament")
    request.description = "Prose"
    await refused(stub.Deliberate(request), INVALID, "best_of_n")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"protocol": "dice"}, ("protocol", "tournament")),
        ({"protocol": "vote", "numbers": {"critics": 2}}, ("numbers", "critics", "agents")),
        ({"protocol": "tournament", "numbers": {"finalists": 99}}, ("numbers.finalists", "2 to 8")),
        ({"budget": pb.Budget(seconds=-1)}, ("budget.seconds",)),
        ({"entry_point": "not a name"}, ("entry_point",)),
    ],
)
async def test_unknown_names_and_numbers_are_refused_and_the_known_named(
    served: Served, more: dict[str, Any], words: tuple[str, ...]
) -> None:
    stub, _, _ = served
    await refused(stub.Deliberate(pb.DeliberateRequest(role="DEV", description="x", **more)), INVALID, *words)


async def test_a_councils_protocol_and_numbers_are_used_and_checked(served: Served) -> None:
    stub, peers, _ = served
    await stub.DeleteCouncil(pb.DeleteCouncilRequest(role="DATA"))
    wrong = pb.CreateCouncilRequest(role="DATA", agents=5, protocol="vote", numbers={"testers": 2})
    await refused(stub.CreateCouncil(wrong), INVALID, "numbers", "testers")
    made = pb.CreateCouncilRequest(role="DATA", agents=5, protocol="vote", numbers={"agents": 2})
    assert dict((await stub.CreateCouncil(made)).council.numbers) == {"agents": 2}
    _, outcome = await decided(stub, role="DATA", description="Which store?")
    assert (outcome["protocol"], len(outcome["ranking"])) == ("vote", 2)
    assert len(peers.executor.jobs) == 2
    auto = {council.role: council.protocol for council in (await stub.ListCouncils(pb.ListCouncilsRequest())).councils}
    assert auto["DEV"] == "auto"


async def test_the_seconds_of_a_budget_are_its_deadline(served: Served) -> None:
    stub, peers, _ = served
    peers.executor.answer = harness.silent
    budget = pb.Budget(seconds=1)
    request = pb.DeliberateRequest(request_id="r9", role="DEV", description="Wait", protocol="vote", budget=budget)
    name = (await stub.Deliberate(request)).deliberation_id
    assert name == ids.deliberation_id("r9", "r9", 1)
    answer = await ended(stub, name)
    assert answer.deliberation.reason in ("deadline", "quorum_missed")
    assert 0.9 <= json.loads(answer.outcome)["duration_seconds"] < 10
