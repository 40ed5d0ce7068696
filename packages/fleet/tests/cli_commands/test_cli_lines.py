"""Event lines, the tails of what agents write, and which events belong to what is watched."""

import clievents
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.cli.lines import TAIL_CHARACTERS, Tails, event_line
from fleet.cli.target import Target
from fleet_wire import events


@pytest.mark.parametrize(
    ("event", "parts"),
    [
        (clievents.started("delib-1"), ["delib-1 started on task one", "DEV council of 2, by tournament"]),
        (clievents.completed("delib-1"), ["agent-DEV-001 wins", "dec-delib-1", "The way"]),
        (clievents.failed("delib-1"), ["delib-1 failed: quorum_missed; 0 of 2 answered"]),
        (clievents.updated("delib-1"), ["delib-1 is in the graph", "version 1"]),
        (clievents.plan_completed("plan-1"), ["plan-1", "1 decided, 0 failed, 0 skipped"]),
        (clievents.chunk("delib-1", 0, "a\x1b[0mb\nc"), ["a␛[0mb c"]),
        (events.StoryCreated(story_id="s-1", title="T\x07", brief="b"), ["s-1", "T␇"]),
        (events.DeadlineReached(deliberation_id="delib-1"), ["delib-1"]),
    ],
)
def test_a_line_says_what_happened(event: events.Event, parts: list[str]) -> None:
    line = event_line(event)
    assert all(part in line for part in parts), line
    assert len(line.splitlines()) == 1 and "\x1b" not in line


def test_a_failed_answer_says_why() -> None:
    error = events.JobError(kind="unreachable", message="no model", retryable=True)
    result = events.AgentResult(
        job_id="j",
        deliberation_id="delib-1",
        task_id="t",
        agent_id="agent-DEV-001",
        role="DEV",
        phase="propose",
        attempt=1,
        status="failed",
        error=error,
    )
    assert "agent-DEV-001 failed (propose): unreachable: no model" in event_line(result)


def test_tails_keep_order_and_begin_anew_with_a_new_attempt() -> None:
    tails = Tails()
    for seq, text in ((0, "one\ntw"), (2, "o"), (1, "lost"), (2, "twice")):
        tails.add(clievents.chunk("d", seq, text))
    assert tails.last_line("d", clievents.AGENTS[0], 80) == "two"
    tails.add(
        events.TokenChunk(deliberation_id="d", agent_id=clievents.AGENTS[0], job_id="j", attempt=2, seq=0, text="anew")
    )
    assert tails.last_line("d", clievents.AGENTS[0], 80) == "anew"
    assert tails.last_line("other", clievents.AGENTS[0], 80) == ""


@given(st.lists(st.text(max_size=300), max_size=10), st.integers(20, 100))
def test_tails_are_bounded_and_safe(texts: list[str], width: int) -> None:
    tails = Tails()
    for seq, text in enumerate(texts):
        tails.add(clievents.chunk("d", seq, text))
    line = tails.last_line("d", clievents.AGENTS[0], width)
    assert len(line) <= width and "\x1b" not in line and "\n" not in line
    assert all(len(tail) <= TAIL_CHARACTERS for _, tail in tails._tails.values())


def test_a_plan_takes_its_events_and_those_of_its_deliberations() -> None:
    target = Target("plan", "plan-1", ["delib-known"])
    assert target.takes(clievents.chunk("delib-known", 0, ""))
    assert not target.takes(clievents.chunk("delib-1", 0, ""))
    assert target.takes(clievents.started("delib-1", "plan-1"))
    assert target.takes(clievents.chunk("delib-1", 0, ""))
    assert not target.takes(clievents.started("delib-2", "plan-2"))
    assert not target.takes(clievents.plan_completed("plan-2")) and not target.ended


def test_a_plan_is_finished_when_it_is_completed_and_its_decisions_are_in_the_graph() -> None:
    target = Target("plan", "plan-1")
    target.takes(clievents.completed("delib-1", "plan-1"))
    target.takes(clievents.plan_completed("plan-1"))
    assert target.ended and not target.finished
    target.takes(clievents.updated("delib-1", "plan-1"))
    assert target.finished


def test_a_story_takes_the_events_of_its_plans() -> None:
    target = Target("story", "s")
    assert not target.takes(clievents.started("delib-1", "plan-1"))
    assert target.takes(clievents.plan_completed("plan-1"))
    assert target.takes(clievents.started("delib-1", "plan-1"))
    assert target.takes(clievents.chunk("delib-1", 0, "")) and not target.ended


def test_a_deliberation_ends_with_either_outcome_and_takes_nothing_else_of_its_plan() -> None:
    for outcome in (clievents.completed("delib-1", "plan-1"), clievents.failed("delib-1", "plan-1")):
        target = Target("deliberation", "delib-1")
        assert not target.takes(clievents.completed("delib-2", "plan-1"))
        assert not target.takes(clievents.plan_completed("plan-1"))
        assert target.takes(outcome) and target.ended


def test_everything_takes_everything_and_never_ends() -> None:
    target = Target("everything")
    assert target.takes(clievents.plan_completed("plan-1")) and target.takes(clievents.chunk("d", 0, ""))
    assert not target.ended
