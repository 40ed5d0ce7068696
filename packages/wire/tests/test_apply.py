import asyncio
import re

import pytest
from conftest import Connect, NatsServer
from nats.js.api import RetentionPolicy, StorageType, StreamConfig

from fleet_wire import apply, topology
from fleet_wire.bus import Bus
from fleet_wire.errors import Precondition, Unavailable

NAMES = [stream.name for stream in topology.STREAMS] + [f"KV_{bucket.name}" for bucket in topology.BUCKETS]


def wanted(name: str) -> StreamConfig:
    return next(config for config in apply.configs() if config.name == name)


async def config_of(bus: Bus, name: str) -> StreamConfig:
    return (await bus.js.stream_info(name)).config


async def test_everything_is_created_once(bare_bus: Bus) -> None:
    assert {problem.problem for problem in await apply.check(bare_bus)} == {"does not exist"}
    assert await apply.apply(bare_bus) == [f"created {name}" for name in NAMES]
    assert await apply.check(bare_bus) == []
    assert await apply.apply(bare_bus) == []


async def test_streams_are_what_the_contract_says(bus: Bus) -> None:
    days = {"PLANNING_EVENTS": 30, "ORCHESTRATOR_EVENTS": 7, "CONTEXT_EVENTS": 7, "DEAD_LETTERS": 30}
    for name, age in days.items():
        assert (await config_of(bus, name)).max_age == age * 86400
    assert (await config_of(bus, "AGENT_RESULTS")).max_age == 3600
    streaming = await config_of(bus, "VLLM_STREAMING")
    assert (streaming.max_age, streaming.storage, streaming.max_bytes) == (600, StorageType.MEMORY, 64 * 1024 * 1024)
    timers = await config_of(bus, "FLEET_TIMERS")
    assert (timers.max_age, timers.allow_msg_schedules) == (0, True)
    advisories = [subject for subject in (await config_of(bus, "DEAD_LETTERS")).subjects or [] if "ADVISORY" in subject]
    assert len(advisories) == 10
    for bucket in topology.BUCKETS:
        config = await config_of(bus, f"KV_{bucket.name}")
        assert (config.max_msgs_per_subject, config.allow_msg_ttl, config.storage) == (1, True, StorageType.FILE)


async def test_what_an_operator_lowered_is_raised_and_what_he_raised_stays(bus: Bus) -> None:
    lowered = (await config_of(bus, "PLANNING_EVENTS")).evolve(max_age=3600.0, subjects=["planning.story.>", "extra.>"])
    await bus.js.update_stream(lowered)
    raised = (await config_of(bus, "AGENT_RESULTS")).evolve(max_age=7200.0, description="ours", max_msg_size=10**6)
    await bus.js.update_stream(raised)
    assert len(await apply.check(bus)) == 2
    [line] = await apply.apply(bus)
    assert line.startswith("updated PLANNING_EVENTS: it lacks the subjects planning.>")
    mended = await config_of(bus, "PLANNING_EVENTS")
    assert mended.max_age == 30 * 86400
    assert set(mended.subjects or []) >= {"planning.>", "extra.>"}
    kept = await config_of(bus, "AGENT_RESULTS")
    assert (kept.max_age, kept.description, kept.max_msg_size) == (7200, "ours", 10**6)


async def test_mending_keeps_what_the_operator_added_to_the_same_stream(bus: Bus) -> None:
    changed = (await config_of(bus, "CONTEXT_EVENTS")).evolve(max_age=60.0, description="ours", duplicate_window=60.0)
    await bus.js.update_stream(changed)
    await apply.apply(bus)
    mended = await config_of(bus, "CONTEXT_EVENTS")
    assert (mended.max_age, mended.description) == (7 * 86400, "ours")


async def test_messages_survive_the_mending(bus: Bus) -> None:
    await bus.js.publish("planning.story.created", b"kept")
    await bus.js.update_stream((await config_of(bus, "PLANNING_EVENTS")).evolve(max_age=3600.0))
    await apply.apply(bus)
    assert (await bus.js.get_msg("PLANNING_EVENTS", 1)).data == b"kept"


async def test_what_cannot_be_mended_is_said(bare_bus: Bus) -> None:
    await bare_bus.js.add_stream(wanted("CONTEXT_EVENTS").evolve(storage=StorageType.MEMORY))
    with pytest.raises(Precondition, match="CONTEXT_EVENTS cannot be made what it must be"):
        await apply.apply(bare_bus)


async def test_a_stream_that_holds_our_subjects_is_named_as_in_the_way(bare_bus: Bus) -> None:
    await bare_bus.js.add_stream(StreamConfig(name="OTHER", subjects=["agent.>"]))
    with pytest.raises(Precondition, match=r"AGENT_RESULTS.*overlap"):
        await apply.apply(bare_bus)


async def test_two_at_once_both_end_well(connected: Connect) -> None:
    buses = [await connected() for _ in range(3)]
    lines = await asyncio.gather(*(apply.apply(bus) for bus in buses))
    assert {line for done in lines for line in done} == {f"created {name}" for name in NAMES}
    assert await apply.check(buses[0]) == []


async def test_losing_the_race_to_create_a_stream_of_another_shape_is_well(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bus.js.update_stream((await config_of(bus, "PLANNING_EVENTS")).evolve(max_age=90 * 86400.0))
    real, asked = apply._found, []

    async def found(bus: Bus, name: str) -> "StreamConfig | None":
        asked.append(name)
        return None if asked.count(name) == 1 else await real(bus, name)

    monkeypatch.setattr(apply, "_found", found)
    await apply.apply(bus)
    assert (await config_of(bus, "PLANNING_EVENTS")).max_age == 90 * 86400


CHANGES = [
    ("PLANNING_EVENTS", {"subjects": ["planning.plan.>"]}, r"lacks the subjects planning.>"),
    ("PLANNING_EVENTS", {"retention": RetentionPolicy.INTEREST}, "has retention interest, not limits"),
    ("VLLM_STREAMING", {"storage": StorageType.FILE}, "has storage file, not memory"),
    ("PLANNING_EVENTS", {"allow_direct": False}, "does not have allow_direct"),
    ("FLEET_TIMERS", {"allow_msg_schedules": None}, "does not have allow_msg_schedules"),
    ("KV_jobs", {"allow_msg_ttl": None}, "does not have allow_msg_ttl"),
    ("KV_jobs", {"allow_rollup_hdrs": False}, "does not have allow_rollup_hdrs"),
    ("AGENT_RESULTS", {"max_age": 60.0}, r"has max_age 60.0 s, below 3600.0 s"),
    ("AGENT_RESULTS", {"max_bytes": 1000}, r"has max_bytes 1000 bytes, below -1 bytes"),
    ("VLLM_STREAMING", {"max_bytes": 1000}, r"has max_bytes 1000 bytes, below 67108864 bytes"),
    ("KV_plans", {"max_msgs_per_subject": 5}, "has max_msgs_per_subject 5, not 1"),
]


@pytest.mark.parametrize(("name", "change", "sentence"), CHANGES)
def test_each_kind_of_difference_is_found(name: str, change: "dict[str, object]", sentence: str) -> None:
    assert apply.differences(wanted(name), wanted(name)) == []
    [problem] = apply.differences(wanted(name), wanted(name).evolve(**change))
    assert re.search(sentence, problem)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("AGENT_RESULTS", {"max_age": 0}),
        ("AGENT_RESULTS", {"max_age": 7200.0}),
        ("VLLM_STREAMING", {"max_bytes": -1}),
        ("PLANNING_EVENTS", {"num_replicas": 3}),
        ("PLANNING_EVENTS", {"subjects": ["planning.>", "more.>"]}),
    ],
)
def test_more_than_the_minimum_is_no_difference(name: str, change: "dict[str, object]") -> None:
    assert apply.differences(wanted(name), wanted(name).evolve(**change)) == []


def test_more_replicas_asked_for_than_there_are_is_a_difference() -> None:
    stream = topology.EVENT_STREAMS[0]
    assert apply.differences(apply.stream_config(stream, 3), apply.stream_config(stream, 1)) == [
        "has num_replicas 1, below 3"
    ]


@pytest.mark.parametrize(
    ("wide", "subject", "holds"),
    [
        ("a.>", "a.b", True),
        ("a.>", "a.b.>", True),
        ("a.>", "a", False),
        ("a.>", "ab.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a.>", False),
        ("a.b", "a.*", False),
        ("a.b", "a.b.c", False),
        ("a.b", "a.b", True),
        ("a.b.c", "a.b", False),
    ],
)
def test_one_subject_covers_another(wide: str, subject: str, holds: bool) -> None:
    assert apply.covers(wide, subject) is holds


async def test_an_old_server_is_a_difference(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topology, "NEEDED_SERVER", (99, 0))
    [problem] = await apply.check(bus)
    assert problem.stream == "server"
    assert "99.0 or newer is needed" in problem.problem


async def test_waiting_ends_when_the_streams_are_there(bare_bus: Bus) -> None:
    sentences: list[str] = []
    waiting = asyncio.create_task(apply.wait_for(bare_bus, ["PLANNING_EVENTS", "KV_plans"], sentences.append))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    assert "PLANNING_EVENTS does not exist" in sentences[0]
    assert "fleet streams apply" in sentences[0]
    await apply.apply(bare_bus)
    await asyncio.wait_for(waiting, 2)


async def test_waiting_goes_on_while_the_server_is_away(bus: Bus, nats_server: NatsServer) -> None:
    bus.js._timeout = 0.3
    nats_server.kill()
    sentences: list[str] = []
    waiting = asyncio.create_task(apply.wait_for(bus, ["PLANNING_EVENTS"], sentences.append))
    await asyncio.sleep(0.6)
    assert "server does not answer" in sentences[0]
    nats_server.start()
    await asyncio.wait_for(waiting, 5)


async def test_applying_without_a_server_raises_unavailable(bus: Bus, nats_server: NatsServer) -> None:
    bus.js._timeout = 0.3
    nats_server.kill()
    with pytest.raises(Unavailable, match="could not be applied"):
        await apply.apply(bus)
