"""What the demo shows while it runs and at its end."""

import io
import time
from typing import Any

import clievents
from rich.console import Console

from fleet.cli import progress, safe
from fleet.cli.lines import Tails
from fleet.cli.progress import Jobs, Progress
from fleet.cli.report import findings
from fleet.cli.screen import REFRESH_SECONDS, LineScreen, LiveScreen, plain
from fleet.steps import JobSeen
from fleet_wire import events, ids

PLAN = "plan-1"
NAME = ids.deliberation_id(PLAN, "one", 1)


def approved() -> events.PlanApproved:
    return events.PlanApproved(
        story_id="s",
        story=events.StoryText(title="t", brief="b"),
        plan_id=PLAN,
        plan_version=1,
        approved_by="x",
        approved_at=clievents.NOW,
        tasks=[events.PlanTask(task_id="one", title="One", description="d", role="DEV")],
    )


def states() -> list[Progress]:
    """A plan from its beginning to the failure of its only task."""
    found = [progress.begin(PLAN, [("one", "One", "DEV", [])])]
    jobs = Jobs(NAME, [JobSeen(agent, clievents.NOW, "actor-1") for agent in clievents.AGENTS])
    for seen in (approved(), clievents.started(NAME, PLAN), jobs, clievents.failed(NAME, PLAN)):
        found.append(progress.observe(found[-1], seen, clievents.NOW))
    return found


def test_lines_say_each_thing_once_and_without_control_codes() -> None:
    lines: list[str] = []
    screen = LineScreen(lambda kind, values: lines.append(plain(kind, values)))
    screen.say("a story\x1b[2J")
    for state in states():
        screen.show(state, Tails())
        screen.show(state, Tails())
    assert lines == [
        "a story␛[2J",
        "  0.00s  one: approved",
        "  0.00s  one: started",
        "  0.00s  one: submitted",
        "  0.00s  one: running",
        "         one: failed: quorum_missed; 0 of 2 answered",
    ]


def test_news_carries_seconds_and_names_for_programs() -> None:
    found: list[tuple[str, dict[str, Any]]] = []
    screen = LineScreen(lambda kind, values: found.append((kind, values)))
    for state in states():
        screen.show(state, Tails())
    assert found[0] == ("step", {"task_id": "one", "step": "approved", "seconds": 0.0})
    assert safe.json_line(found[0][1])


def test_the_live_picture_shows_steps_seats_and_what_agents_write_harmlessly() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, markup=False, emoji=False, highlight=False)
    screen, tails = LiveScreen(console), Tails()
    tails.add(clievents.chunk(NAME, 0, "def [red]way():\x1b[2J"))
    screen.show(states()[3], tails)
    screen.close()
    shown = out.getvalue()
    for part in ("1 approved", "8 shown", "0/2", "agent-DEV-001", "def [red]way():␛[2J"):
        assert part in shown, part
    assert "\x1b[2J" not in shown


def test_a_finding_names_step_service_log_reason_and_last_refusal(tmp_path: Any) -> None:
    state = states()[2]
    refusals: Any = {("one", "submitted"): "there is no deliberation"}
    [finding] = findings(state, refusals, lambda service: tmp_path / f"{service}.log", 5)
    sentence = finding.sentence()
    for part in (
        "step 3, submitted",
        "task one",
        "there is no deliberation",
        f"orchestrator: {tmp_path}",
        "within 5 s",
    ):
        assert part in sentence, part
    [finding] = findings(states()[-1], {}, lambda service: None, 5)
    assert (finding.step, finding.why) == ("answered", "failed: quorum_missed; 0 of 2 answered")


def test_nothing_is_drawn_where_nothing_is_new() -> None:
    out = io.StringIO()
    screen, tails = LiveScreen(Console(file=out, force_terminal=True, width=100)), Tails()
    [first, second, *_] = states()
    screen.show(first, tails)
    drawn = out.getvalue()
    time.sleep(REFRESH_SECONDS)
    screen.show(first, tails)
    assert out.getvalue() == drawn
    screen.show(second, tails)
    assert out.getvalue() != drawn
    screen.close()


def test_a_new_phase_of_the_protocol_is_news() -> None:
    before = states()[2]
    judged = events.AgentResult(
        job_id="j",
        deliberation_id=NAME,
        task_id="one",
        agent_id="agent-DEV-001",
        role="DEV",
        phase="judge",
        item="1v2",
        attempt=1,
        status="completed",
        content="{}",
    )
    lines: list[str] = []
    screen = LineScreen(lambda kind, values: lines.append(plain(kind, values)))
    for state in (before, progress.observe(before, judged, clievents.NOW)):
        screen.show(state, Tails())
    assert lines[-1] == "         one: tournament is at judge"
