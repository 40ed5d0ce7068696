import datetime as dt
import json

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import values

from fleet_wire import events, topology
from fleet_wire.errors import Invalid

NOW = dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.timezone.utc)
STORY = events.StoryCreated(story_id="story-1", title="Login", brief="Let people in")
RESULT = events.AgentResult(
    job_id="job-1",
    deliberation_id="delib-1",
    task_id="task-1",
    agent_id="agent-DEV-001",
    role="DEV",
    phase="propose",
    attempt=1,
    status="completed",
    content="text",
)
ANY_EVENT = st.one_of([values(kind) for kind in events.TYPES])


@settings(max_examples=100, deadline=None)
@given(ANY_EVENT)
def test_every_valid_event_comes_back_as_it_went(event: events.Event) -> None:
    again = events.decode(event.subject(), events.encode(event))
    assert again == event
    assert again.message_id() == event.message_id()


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(events.TYPES), st.binary(max_size=200))
@example(events.StoryCreated, b'{"x":' + b"[" * 100_000)
@example(events.StoryCreated, b"")
@example(events.StoryTransitioned, b'{"version":' + b"9" * 10_000 + b"}")
@example(events.AgentResult, b"\x00\xff\xfe")
def test_garbage_raises_nothing_but_invalid(kind: "type[events.Event]", body: bytes) -> None:
    with pytest.raises(Invalid):
        events.decode(f"{kind.TYPE}", body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None)
@given(ANY_EVENT, st.data())
def test_a_field_of_another_kind_raises_nothing_but_invalid(event: events.Event, data: st.DataObject) -> None:
    body = json.loads(events.encode(event))
    field = data.draw(st.sampled_from(sorted(body)))
    body[field] = data.draw(JSON)
    try:
        events.decode(event.subject(), json.dumps(body).encode())
    except Invalid as error:
        assert event.TYPE in str(error) or "belongs on" in str(error)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=50))
def test_any_subject_has_a_type_or_is_invalid(subject: str) -> None:
    try:
        assert subject.startswith(events.type_of_subject(subject).TYPE)
    except Invalid as error:
        assert "no event type belongs on" in str(error)


@pytest.mark.parametrize("field", ["story_id"])
@pytest.mark.parametrize("value", ["", "a b", "a\n", "x" * 65, "a.b", 7, None])
def test_a_bad_id_is_named(field: str, value: object) -> None:
    body = {**json.loads(events.encode(STORY)), field: value}
    with pytest.raises(Invalid, match=rf"\$\.{field}"):
        events.decode(STORY.subject(), json.dumps(body).encode())


def test_a_missing_field_is_named() -> None:
    with pytest.raises(Invalid, match="story_id"):
        events.decode("planning.story.created", b'{"schema_version":1,"title":"t","brief":"b"}')


def test_a_later_schema_is_refused() -> None:
    body = {**json.loads(events.encode(STORY)), "schema_version": 2}
    with pytest.raises(Invalid, match="schema_version"):
        events.decode(STORY.subject(), json.dumps(body).encode())


def test_fields_of_a_newer_release_are_read_over() -> None:
    body = {**json.loads(events.encode(STORY)), "mood": "good"}
    assert events.decode(STORY.subject(), json.dumps(body).encode()) == STORY


def test_times_without_a_zone_are_refused() -> None:
    failed = events.DeliberationFailed(
        deliberation_id="d",
        task_id="t",
        plan_id="",
        story_id="",
        role="QA",
        reason="budget",
        duration_seconds=1,
        failed_at=NOW,
    )
    body = json.loads(events.encode(failed))
    body["failed_at"] = "2026-01-02T03:04:05"
    with pytest.raises(Invalid, match="failed_at"):
        events.decode(failed.subject(), json.dumps(body).encode())


@pytest.mark.parametrize(
    "subject", ["agent.results.task-2", "agent.results", "agent.results.task-1.more", "planning.story.created"]
)
def test_a_body_on_another_events_subject_is_refused(subject: str) -> None:
    with pytest.raises(Invalid):
        events.decode(subject, events.encode(RESULT))


@pytest.mark.parametrize(
    "subject", ["", "planning", "planning.story", "orchestration.other", "dead.x", "timers.schedule.x"]
)
def test_subjects_without_an_event_are_refused(subject: str) -> None:
    with pytest.raises(Invalid, match="no event type belongs on subject"):
        events.decode(subject, b"{}")


def test_message_ids_are_derived_and_carry_the_type() -> None:
    assert STORY.message_id() == "planning.story.created:story-1"
    assert RESULT.message_id() == "agent.results:job-1"


def test_both_ends_of_a_deliberation_share_one_message_id() -> None:
    common = {"deliberation_id": "d", "task_id": "t", "plan_id": "p", "story_id": "s", "role": "QA"}
    completed = events.DeliberationCompleted(
        **common,  # type: ignore[arg-type]
        decision_id="dec-d",
        protocol="p",
        winner="a",
        decision=events.DecisionText(title="t", content="c", rationale="r"),
        ranking=[],
        margin=0,
        duration_seconds=1,
        decided_at=NOW,
    )
    failed = events.DeliberationFailed(**common, reason="deadline", duration_seconds=1, failed_at=NOW)  # type: ignore[arg-type]
    assert completed.message_id() == failed.message_id()


def test_no_event_above_the_limit_is_encoded() -> None:
    with pytest.raises(Invalid, match="above the limit of 524288"):
        events.encode(msgspec.structs.replace(STORY, brief="x" * events.MAX_MESSAGE_BYTES))


def test_text_that_json_cannot_carry_is_refused_when_it_is_sent() -> None:
    with pytest.raises(Invalid, match="surrogate"):
        events.encode(msgspec.structs.replace(STORY, brief="a\ud800"))


def test_seven_full_proposals_fit_into_one_decision() -> None:
    content, _ = events.cut("\x01" * events.MAX_CONTENT_BYTES)
    ranked = [events.Ranked(agent_id=f"a{i}", rank=i, score=0.5, checks=[], content=content) for i in range(1, 8)]
    assert len(msgspec.json.encode(ranked)) < events.MAX_MESSAGE_BYTES


SURROGATES = st.text(st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF), max_size=20)


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.text(), SURROGATES, st.text('\x00\x1f"\\é😀\u2028')), st.integers(min_value=2, max_value=60))
def test_cut_text_is_valid_json_within_the_bound_and_a_prefix(text: str, limit: int) -> None:
    kept, was_cut = events.cut(text, limit)
    body = msgspec.json.encode(kept)
    assert len(body) <= limit
    assert json.loads(body) == kept
    whole, _ = events.cut(text, 10**9)
    assert whole.startswith(kept)
    assert was_cut == (kept != whole)
    if was_cut:
        assert len(msgspec.json.encode(whole[: len(kept) + 1])) > limit, "as much as fits is kept"


def test_text_within_the_bound_is_kept_as_it_is() -> None:
    text = "plain \u2028 é 😀 \x00 \\"
    assert events.cut(text) == (text, False)


def test_unpaired_surrogates_become_replacement_characters() -> None:
    assert events.cut("a\ud800b\udc00") == ("a\ufffdb\ufffd", False)


def test_usage_adds() -> None:
    total = events.Usage(prompt=1, completion=2, cached=3) + events.Usage(prompt=10, completion=20, cached=30)
    assert total == events.Usage(prompt=11, completion=22, cached=33)


def test_every_type_is_in_the_table_and_on_a_stream() -> None:
    def kinds(kind: type) -> "set[type]":
        return {kind, *(deeper for one in kind.__subclasses__() for deeper in kinds(one))}

    assert kinds(events.Event) - {events.Event} == set(events.TYPES)
    for kind in events.TYPES:
        homes = [
            s.name for s in topology.STREAMS for wild in s.subjects if f"{kind.TYPE}.".startswith(wild.rstrip(">"))
        ]
        assert len(homes) == 1, kind


def test_every_consumer_reads_events_of_its_stream() -> None:
    streams = {stream.name: stream for stream in topology.STREAMS}
    for consumer in topology.CONSUMERS.values():
        assert any(consumer.filter.startswith(wild.rstrip(">")) for wild in streams[consumer.stream].subjects)
        assert any(kind.TYPE.startswith(consumer.filter.rstrip(".>")) for kind in events.TYPES)
