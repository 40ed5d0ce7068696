"""The table of a story's states, and what its rules say."""

import datetime as dt
from pathlib import Path

import pytest
from planning_samples import NOON, story

from fleet.planning import diagram, domain
from fleet.planning.domain import PlanState, PlanSummary, StoryWithPlans
from fleet.planning.transitions import EVENTS, FIRST, STATES, TABLE, Transition, allowed
from fleet_wire import events
from fleet_wire.errors import Invalid, Precondition

DOCS = Path(__file__).resolve().parents[4] / "docs/planning.md"
HUMAN_GATES = ["approve_scope", "approve_design", "qa_passed", "docs_ready"]
FORWARD = ["start_draft", "approve_scope", "approve_design", "build_done", "qa_passed", "docs_ready"]
BACK = ["reject_scope", "reject_design", "reject_build", "qa_failed", "reject_docs"]


def at(state: str, *plans: PlanState) -> StoryWithPlans:
    """A story in a state, whose plans are far enough for every event unless others are given."""
    found = tuple(PlanSummary(f"plan-{n}", n, kind, NOON) for n, kind in enumerate(plans or ("completed",), 1))
    return StoryWithPlans(story(state=state), found)


def move(whole: StoryWithPlans, event: str, actor: str = "ana", reason: str = "so") -> domain.Transitioned:
    return domain.transition(whole, "transition-1", event, actor, reason, NOON)[1]


def test_the_story_goes_from_the_backlog_to_its_end_step_by_step() -> None:
    whole, seen = at(FIRST), [FIRST]
    for event in FORWARD:
        made, record = domain.transition(whole, "transition-1", event, "ana", "", NOON)
        assert (record.from_state, record.to_state) == (seen[-1], made.state)
        assert (record.version, made.version) == (len(seen), len(seen))
        whole = StoryWithPlans(made, whole.plans)
        seen.append(made.state)
    assert tuple(seen) == STATES == ("BACKLOG", "DRAFT", "DESIGN", "BUILD", "TEST", "DOCS", "DONE")


def test_every_rejection_leads_one_state_back_and_says_why() -> None:
    places = {row.event: row for row in TABLE}
    assert set(FORWARD) | set(BACK) == set(places)
    for event in BACK:
        row = places[event]
        assert STATES.index(row.to_state) == STATES.index(row.from_state) - 1
        with pytest.raises(Invalid, match="reason must not be empty"):
            move(at(row.from_state), event, reason=" ")
        assert move(at(row.from_state), event, reason="late").reason == "late"


def test_an_event_leads_on_from_one_state_only_so_that_a_repeated_one_is_seen() -> None:
    assert len(set(EVENTS)) == len(EVENTS) == len(TABLE)
    assert all(row.from_state != row.to_state for row in TABLE)


@pytest.mark.parametrize("event", HUMAN_GATES)
def test_a_human_gate_needs_a_person(event: str) -> None:
    [row] = [row for row in TABLE if row.event == event]
    for nobody in ("", "  "):
        with pytest.raises(Invalid, match="actor must not be empty"):
            move(at(row.from_state), event, actor=nobody)
    for machine in ("agent-QA-001", " agent-QA-001", "unknown"):
        with pytest.raises(Invalid, match="actor must name a person"):
            move(at(row.from_state), event, actor=machine)
    assert move(at(row.from_state), event, actor="Ana").actor == "Ana"


def test_what_is_no_human_gate_an_agent_may_do_but_nobody_may_not() -> None:
    others = [row for row in TABLE if row.event not in HUMAN_GATES]
    for row in others:
        assert move(at(row.from_state), row.event, actor="agent-QA-001").to_state == row.to_state
        with pytest.raises(Invalid, match="actor must not be empty"):
            move(at(row.from_state), row.event, actor="")


@pytest.mark.parametrize("state", STATES)
def test_a_transition_that_is_not_allowed_answers_which_are(state: str) -> None:
    ways = [row for row in TABLE if row.from_state == state]
    for event in EVENTS:
        if event in [row.event for row in ways]:
            continue
        with pytest.raises(Precondition, match=f"is in {state}, where {event} is not allowed") as caught:
            move(at(state), event)
        told = str(caught.value).split("allowed: ")[1]
        assert told == (
            " and ".join(f"{row.event} (to {row.to_state})" for row in ways) or "none, it is the last state"
        )


def test_an_event_that_there_is_not_is_refused_with_those_there_are() -> None:
    with pytest.raises(Invalid, match=r"event must be one of start_draft, approve_scope, .*, not 'finish'"):
        move(at("DRAFT"), "finish")


@pytest.mark.parametrize(
    ("event", "plans", "refusal"),
    [
        ("approve_design", ["approved"], ""),
        ("approve_design", ["superseded", "completed"], ""),
        ("approve_design", ["proposed", "rejected", "superseded"], "no plan of the story is approved"),
        ("build_done", ["completed", "proposed"], ""),
        ("build_done", ["approved"], "the approved plan is not completed"),
        ("build_done", ["completed", "approved"], "the approved plan is not completed"),
        ("build_done", ["superseded", "rejected", "proposed"], "no plan of the story is completed"),
    ],
)
def test_the_design_and_the_build_need_a_plan_that_is_far_enough(
    event: str, plans: list[PlanState], refusal: str
) -> None:
    [row] = [row for row in TABLE if row.event == event]
    if refusal:
        with pytest.raises(Precondition, match=refusal):
            move(at(row.from_state, *plans), event)
    else:
        assert move(at(row.from_state, *plans), event).to_state == row.to_state


def test_a_transition_is_later_than_what_came_before_it_also_where_the_clock_went_back() -> None:
    before = StoryWithPlans(story(now=NOON + dt.timedelta(hours=1)))
    first, record = domain.transition(before, "transition-1", "start_draft", "ana", "", NOON)
    _, second = domain.transition(StoryWithPlans(first), "transition-2", "approve_scope", "ana", "", NOON)
    assert before.story.created_at < record.transitioned_at < second.transitioned_at


def test_the_event_says_what_led_from_where_to_where_who_asked_and_why() -> None:
    record = move(at("TEST"), "qa_failed", actor="agent-QA-001", reason="too slow")
    event = domain.transitioned_event(record)
    assert events.decode(event.subject(), events.encode(event)) == event
    assert (event.from_state, event.to_state, event.version, event.event) == ("TEST", "BUILD", 1, "qa_failed")
    assert (event.actor, event.reason, event.transitioned_at) == ("agent-QA-001", "too slow", record.transitioned_at)


def test_the_docs_are_drawn_from_the_table() -> None:
    page = DOCS.read_text()
    assert diagram.filled(page) == page, "run scripts/generate"
    for row in TABLE:
        assert f"    {row.from_state} --> {row.to_state} : {row.event}\n" in page
        assert f"| `{row.event}` | {row.from_state} | {row.to_state} |" in page


def test_a_drawing_says_what_each_event_needs_and_needs_its_place_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    def charm(asked: object) -> None:
        """a lucky charm"""

    monkeypatch.setattr(diagram, "TABLE", [Transition("jump", "DRAFT", "DONE", (charm,))])
    assert "    DRAFT --> DONE : jump\n" in diagram.drawing()
    assert "| `jump` | DRAFT | DONE | a lucky charm |" in diagram.drawing()
    with pytest.raises(ValueError, match="must hold the lines"):
        diagram.filled("# A page")


def test_a_story_says_which_events_its_state_has() -> None:
    assert [row.event for row in allowed("TEST")] == ["qa_passed", "qa_failed"]
    assert allowed("DONE") == ()
