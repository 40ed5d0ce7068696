"""The read model: whatever comes in whatever order and however often, it shows the same, and it stays small."""

import datetime as dt
from typing import Any

import monitoring_kit as kit
import msgspec
from hypothesis import given
from hypothesis import strategies as st

from fleet.monitoring import domain, views
from fleet.monitoring.board import Board, Limits
from fleet.monitoring.domain import Seen
from fleet.steps import JobSeen
from fleet_wire import events

NOW = kit.at(100)


def seen(event: events.Event | None, seconds: float = 0, sequence: int = 1, reason: str = "") -> Seen:
    subject = event.subject() if event is not None else "planning.garbage"
    return Seen("STREAM", sequence, subject, kit.at(seconds), NOW, event, reason)


def board_of(*messages: Seen, limits: Limits | None = None) -> Board:
    board = Board(limits or Limits())
    for message in messages:
        board.apply(message)
    return board


def shown(board: Board, key: str = "d1") -> dict[str, Any]:
    one = board.get(key)
    assert one is not None
    return views.deliberation(one)


def steps(board: Board, key: str = "d1") -> dict[str, str | None]:
    return {step["name"]: step["at"] for step in shown(board, key)["steps"]}


HISTORY = [
    seen(kit.approved(), 1, 1),
    seen(kit.started(), 2, 2),
    seen(kit.result(kit.AGENTS[0]), 4, 3),
    seen(kit.result(kit.AGENTS[1], failed=True), 5, 4),
    seen(kit.result(kit.AGENTS[1], attempt=2), 6, 5),
    seen(kit.completed(), 7, 6),
    seen(kit.remembered(), 8, 7),
    seen(kit.started("d2"), 9, 8),
    seen(kit.failed("d2"), 10, 9),
    seen(None, 11, 10, "not JSON"),
]


def test_a_deliberation_is_shown_with_its_steps_agents_and_outcome() -> None:
    board = board_of(*HISTORY)
    board.note_jobs("d1", [JobSeen(agent, kit.at(3), "actor-1") for agent in kit.AGENTS])
    one = shown(board)
    expected = {
        "state": "completed",
        "plan_id": "p1",
        "task_id": "t1",
        "title": "Retry",
        "decision_id": "dec-d1",
        "winner": kit.AGENTS[0],
        "score": 0.9,
        "reason": None,
    }
    assert {key: one[key] for key in expected} == expected
    assert [step["at"] and step["at"][17:19] for step in one["steps"]] == [
        "06", "07", "08", "08", "09", "12", "13", "45",
    ]  # fmt: skip
    assert [agent["state"] for agent in one["agents"]] == ["completed", "completed", "missing"]
    assert one["agents"][2]["error"] == "deadline"


def test_a_failed_deliberation_says_why_and_what_each_agent_did() -> None:
    board = board_of(*HISTORY)
    one = shown(board, "d2")
    assert (one["state"], one["reason"], one["decision_id"]) == ("failed", "quorum_missed: 1 of 2", None)
    assert one["agents"][0]["error"] == "waiting when the deliberation failed"
    assert steps(board, "d2")["decided"] is None
    assert steps(board, "d2")["shown"] is not None


@given(st.permutations(HISTORY + HISTORY[:6]))
def test_order_and_repetition_change_nothing(history: list[Seen]) -> None:
    straight, mixed = board_of(*HISTORY), board_of(*history)
    assert shown(mixed) == shown(straight)
    assert shown(mixed, "d2") == shown(straight, "d2")


def test_of_two_ends_the_first_counts_whichever_is_read_first() -> None:
    first, second = seen(kit.failed(), 3, 1), seen(kit.completed(), 4, 2)
    for order in ((first, second), (second, first)):
        one = shown(board_of(seen(kit.started(), 1), *order))
        assert (one["state"], one["winner"], one["agents"][1]["rank"]) == ("failed", None, None)


RULED = [
    seen(kit.started(), 1, 1),
    seen(kit.completed(), 2, 2),
    seen(kit.started("d2"), 3, 3),
    seen(kit.completed("d2"), 4, 4),
    seen(kit.overruled("dec-d2", "dec-long-gone", superseded="dec-d1"), 5, 5),
    seen(kit.overruled("dec-d2"), 6, 6),
]


@given(st.permutations(RULED + RULED[1:]))
def test_what_a_person_overruled_and_what_relies_on_it_is_flagged_in_any_order(history: list[Seen]) -> None:
    board = board_of(*history)
    first, second = shown(board), shown(board, "d2")
    assert (first["superseded"], first["relies_on_superseded"]) == (True, [])
    assert (second["superseded"], second["relies_on_superseded"]) == (False, ["dec-d0", "dec-d1"])
    assert len(board.deliberations()) == 2


def test_a_ruling_touches_the_deliberations_it_flags_and_says_so_in_the_feed() -> None:
    board = board_of(*RULED[:4])
    change = board.apply(RULED[4])
    assert set(change.deliberations) == {"d1", "d2"}
    assert change.line is not None
    assert "superseded: dec-d1; relying on that: dec-d2, dec-long-gone" in change.line.summary


def test_a_decision_that_arrives_on_superseded_ground_is_flagged_at_once() -> None:
    board = board_of(*RULED[:2], seen(kit.overruled("dec-d1", deliberation_id="d1"), 3, 3))
    assert shown(board)["relies_on_superseded"] == ["dec-d0"]
    assert steps(board)["remembered"] is not None


def test_the_flags_that_are_kept_are_bounded() -> None:
    told = [seen(kit.overruled(f"dec-d{number}", superseded=f"dec-x{number}"), number) for number in range(5)]
    board = board_of(*told, *RULED[:2], seen(kit.completed("d4"), 9), limits=Limits(flags=2))
    assert (shown(board)["relies_on_superseded"], shown(board, "d4")["relies_on_superseded"]) == ([], ["dec-x4"])


RUNS = [events.TestRun(test_id="a", status="passed"), events.TestRun(test_id="b", status="failed", detail="x")]
TOURNAMENT = [
    seen(kit.started(), 1, 1),
    seen(kit.job("propose", kit.AGENTS[0], checks=kit.CHECKS[:1]), 2, 2),
    seen(kit.job("propose", kit.AGENTS[1]), 2.5, 3),
    seen(kit.job("tests", "agent-QA-001"), 3, 4),
    seen(kit.job("dry_run", kit.AGENTS[0], content="", runs=RUNS), 4, 5),
    seen(kit.job("judge", kit.AGENTS[2], item="1v2", status="failed", content=""), 5, 6),
    seen(kit.judged(), 6, 7),
]


@given(st.permutations(TOURNAMENT + TOURNAMENT[2:]))
def test_the_phases_with_their_jobs_checks_and_tests_are_shown_in_any_order(history: list[Seen]) -> None:
    one = shown(board_of(*history))
    assert one["phases"] == [
        {"phase": "propose", "running": 0, "completed": 2, "failed": 0},
        {"phase": "tests", "running": 0, "completed": 1, "failed": 0},
        {"phase": "dry_run", "running": 0, "completed": 1, "failed": 0},
        {"phase": "judge", "running": 0, "completed": 0, "failed": 1},
    ]
    assert (one["phase"], one["protocol"], one["numbers"]) == ("judge", "tournament", {"finalists": 4.0})
    assert (one["chosen_because"], one["flips"], one["verdicts"]) == ("the task is open", 1, 6)
    assert one["skipped"] == [{"phase": "rerun", "reason": "no sandbox on n1"}]
    assert (one["calls"], one["tokens"], one["cached_tokens"]) == (9, 1000, 300)
    agents = {agent["agent_id"]: agent for agent in one["agents"]}
    winner, tester = agents[kit.AGENTS[0]], agents["agent-QA-001"]
    assert winner["tests"] == {"passed": 1, "failed": 1, "not_run": 0} and winner["revised"]
    assert [check["status"] for check in winner["checks"]] == ["passed", "failed", "not_run"]
    assert winner["tokens_text_tail"] == "text of propose", "a run of the program does not hide what was proposed"
    assert tester["state"] == "completed", "a tester proposes nothing, so that no ranking names it"


def test_jobs_that_run_are_counted_where_the_executor_tells_of_them() -> None:
    one = board_of(*TOURNAMENT[:3]).get("d1")
    assert one is not None
    mine = {"deliberation_id": "d1", "job_id": "job-x", "phase": "critique"}
    known = {"deliberation_id": "d1", "job_id": f"job-d1-{kit.AGENTS[0]}-propose-", "phase": "propose"}
    other = {"deliberation_id": "d2", "job_id": "job-y", "phase": "judge"}
    found = views.deliberation(one, [mine, known, other])
    assert found["phases"][-1] == {"phase": "critique", "running": 1, "completed": 0, "failed": 0}
    assert found["phases"][0]["running"] == 0
    assert (found["phase"], found["flips"], found["tokens"]) == ("critique", None, None)


def test_a_step_not_seen_has_no_time() -> None:
    board = board_of(seen(kit.started(), 2))
    assert [name for name, at in steps(board).items() if at] == ["started"]
    assert shown(board)["decision_id"] is None


def test_it_is_shown_only_once_the_decision_is_there_and_in_the_graph() -> None:
    board = board_of(seen(kit.started(), 2), seen(kit.completed(), 3))
    assert steps(board)["shown"] is None
    board.apply(seen(kit.remembered(), 4))
    assert steps(board)["shown"] == views.iso(NOW)
    later = Seen("S", 9, "context.updated", kit.at(9), kit.at(900), kit.remembered())
    board.apply(later)
    assert steps(board)["shown"] == views.iso(NOW)


def test_a_trace_in_the_graph_alone_is_not_called_running() -> None:
    assert shown(board_of(seen(kit.remembered())))["state"] == "unknown"


def test_streamed_text_is_kept_in_order_and_gaps_are_marked() -> None:
    board = board_of(*(seen(kit.chunk(number, text), 3) for number, text in [(0, "a"), (1, "b"), (1, "b"), (0, "a")]))
    assert shown(board)["agents"][0]["tokens_text_tail"] == "ab"
    assert shown(board)["agents"][0]["state"] == "running"
    board.apply(seen(kit.chunk(4, "e"), 4))
    assert shown(board)["agents"][0]["tokens_text_tail"] == f"ab{domain.GAP}e"


def test_text_that_began_before_the_dashboard_listened_is_marked() -> None:
    assert shown(board_of(seen(kit.chunk(7, "late"), 3)))["agents"][0]["tokens_text_tail"] == f"{domain.GAP}late"


def test_a_new_attempt_begins_its_text_anew() -> None:
    board = board_of(seen(kit.chunk(0, "old"), 3), seen(kit.chunk(0, "new", attempt=2), 4), seen(kit.chunk(1, "!"), 5))
    assert shown(board)["agents"][0]["tokens_text_tail"] == "new"


def test_the_result_replaces_streamed_text_and_late_chunks_do_not_come_back() -> None:
    board = board_of(seen(kit.chunk(0, "half"), 3), seen(kit.result(content="whole"), 4), seen(kit.chunk(1, "x"), 5))
    assert shown(board)["agents"][0]["tokens_text_tail"] == "whole"
    assert shown(board)["agents"][0]["state"] == "completed"


def test_a_failed_agent_keeps_what_it_wrote_and_says_why() -> None:
    board = board_of(seen(kit.chunk(0, "half"), 3), seen(kit.result(failed=True), 4))
    agent = shown(board)["agents"][0]
    assert (agent["state"], agent["tokens_text_tail"]) == ("failed", "half")
    assert agent["error"] == "timeout: the model is slow"
    assert steps(board)["answered"] is None


def test_two_jobs_of_one_agent_at_once_do_not_mix_their_texts() -> None:
    first, other = kit.chunk(0, "one"), msgspec.structs.replace(kit.chunk(0, "another"), job_id="job-2")
    board = board_of(seen(first, 3), seen(other, 4), seen(kit.chunk(1, " more"), 5))
    assert shown(board)["agents"][0]["tokens_text_tail"] == "one more"
    for number in range(20):
        board.apply(seen(msgspec.structs.replace(other, job_id=f"job-{number}"), 6 + number))
    one = board.get("d1")
    assert one is not None and len(one.agents[kit.AGENTS[0]].streams) == domain.MAX_STREAMS


def test_only_seats_that_are_asked_are_waited_for() -> None:
    asked = msgspec.structs.replace(kit.started(), protocol="single", numbers={"agents": 1.0})
    board = board_of(seen(asked, 1))
    assert board.note_jobs("d1", [JobSeen(kit.AGENTS[0], kit.at(2), "actor-1")])
    assert steps(board)["submitted"] == views.iso(kit.at(2))
    assert [agent["agent_id"] for agent in shown(board)["agents"]] == kit.AGENTS[:1]


def test_a_job_without_an_actor_is_submitted_but_does_not_run() -> None:
    board = board_of(seen(kit.started(), 2))
    jobs = [JobSeen(agent, kit.at(3 + number), "") for number, agent in enumerate(kit.AGENTS)]
    assert board.note_jobs("d1", jobs[:2])
    assert steps(board)["submitted"] is None
    assert board.note_jobs("d1", jobs)
    assert steps(board)["submitted"] == views.iso(kit.at(5))
    assert steps(board)["running"] is None
    assert not board.note_jobs("d1", [])
    assert not board.note_jobs("other", [JobSeen("a", kit.at(3), "actor")])


def test_a_malformed_message_stands_in_the_list_with_subject_and_reason() -> None:
    [line] = board_of(seen(None, reason="not JSON\x00 at byte 0")).lines(10)
    assert (line.subject, line.type, line.malformed) == ("planning.garbage", "malformed", "not JSON\x00 at byte 0")


def test_tokens_do_not_fill_the_list() -> None:
    assert board_of(seen(kit.chunk(0, "a"))).lines(10) == []


def test_lines_are_newest_first_whatever_stream_was_read_first() -> None:
    board = board_of(seen(kit.remembered(), 9), seen(kit.approved(), 1), seen(kit.started(), 5))
    assert [line.type for line in board.lines(2)] == ["context.updated", "orchestration.deliberation.started"]


def test_it_stays_within_its_limits() -> None:
    limits = Limits(lines=10, ended=3, running=2, plans=2)
    board = Board(limits)
    for number in range(51):
        key = f"d{number}"
        board.apply(seen(kit.approved(f"p{number}"), number))
        board.apply(seen(kit.started(key), number))
        if number % 2:
            board.apply(seen(kit.completed(key), number + 0.5))
    states = [one.state for one in board.deliberations()]
    assert (states.count("running"), states.count("completed")) == (2, 3)
    assert board.deliberations()[0].deliberation_id == "d50"
    assert len(board.lines(1000)) == 10


def test_one_deliberation_stays_within_its_limits() -> None:
    board = Board()
    for number in range(100):
        agent = f"agent-DEV-{number:03d}"
        board.apply(seen(kit.chunk(0, "x" * 10_000, agent=agent), 1))
        board.apply(seen(kit.result(kit.AGENTS[0], attempt=number + 1, content="y" * 10_000), number))
    one = shown(board)
    assert len(one["agents"]) == domain.MAX_AGENTS
    assert max(len(agent["tokens_text_tail"]) for agent in one["agents"]) <= domain.TEXT_TAIL + len(domain.GAP)
    kept = board.get("d1")
    assert kept is not None
    assert len(kept.agents[kit.AGENTS[0]].results) == domain.MAX_JOBS


@given(st.text(max_size=3000))
def test_every_text_gets_one_bounded_line(text: str) -> None:
    line = domain.shorten(text)
    assert len(line) <= 200
    assert "\n" not in line


def test_every_event_type_has_a_line() -> None:
    late = events.ResultLate(deliberation_id="d1", task_id="t1", job_id="j", agent_id="a", late_seconds=3.2)
    closed = events.PlanCompleted(plan_id="p1", story_id="s1", decided=["d1"])
    created = events.StoryCreated(story_id="s1", title="Title", brief="b")
    moved = events.StoryTransitioned(story_id="s1", from_state="a", to_state="b", actor="ann", version=1)
    lines = board_of(*(seen(event) for event in (late, closed, created, moved))).lines(10)
    assert [line.summary for line in reversed(lines)] == [
        "d1 a answered 3.2 s too late",
        "plan p1 completed: 1 decided, 0 failed, 0 skipped",
        "story s1 created: Title",
        "story s1 goes from a to b, by ann",
    ]


def test_times_are_utc_with_milliseconds() -> None:
    east = dt.timezone(dt.timedelta(hours=2))
    assert views.iso(dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=east)) == "2026-01-02T01:04:05.678Z"
