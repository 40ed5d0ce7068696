"""The page's HTML: no text becomes markup, and a missing answer never becomes a number."""

import html.parser
from typing import Any

import monitoring_kit as kit
import msgspec
from hypothesis import given
from hypothesis import strategies as st

from fleet.monitoring import render, views
from fleet.monitoring.board import Board
from fleet.monitoring.domain import Seen
from fleet_wire import events

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'><b>"
ALLOWED = {"div", "span", "b", "i", "table", "tr", "td", "p", "br", "h2"}


class _Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes.update(name for name, _ in attrs)


def harmless(text: str) -> bool:
    tags = _Tags()
    tags.feed(text)
    return tags.names <= ALLOWED and tags.attributes <= {"class", "title", "colspan"}


def everything(evil: str) -> str:
    """Every renderer, fed with one text in every place where text from outside can stand."""
    board = Board()
    feed: list[events.Event] = [
        kit.approved(title=evil),
        kit.started(),
        kit.chunk(0, evil),
        kit.result(kit.AGENTS[1], content=evil),
        kit.job(evil, checks=[events.Check(name=evil, status="failed", detail=evil)]),
        msgspec.structs.replace(
            kit.judged(),
            protocol=evil,
            numbers={evil: 1.0},
            chosen_because=evil,
            decision=events.DecisionText(title=evil, content="c", rationale="r"),
            skipped=[events.SkippedPhase(phase=evil, reason=evil)],
        ),
    ]
    for number, event in enumerate(feed):
        board.apply(Seen(evil, number, evil, kit.at(number), kit.at(9), event))
    board.apply(Seen("S", 9, evil, kit.at(9), kit.at(9), None, evil))
    down = {"state": "unreachable", "error": evil, "age_seconds": 3.0}
    part = {"name": evil, "address": evil, "state": evil, "reason": evil, "age_seconds": None, "version": evil}
    agent = {"agent_id": evil, "state": evil, "deliberation_ids": [evil]}
    job = dict.fromkeys(("agent_id", "phase", "job_id", "actor", "accepted_at"), evil)
    cluster = {
        **dict.fromkeys(("ray_version", "python_version", "pool"), evil),
        "actors": [evil],
        "nodes": [],
        **dict.fromkeys(("cpus", "gpus", "memory_bytes")),
    }
    one = board.get("d1")
    assert one is not None
    return "".join(
        (
            render.parts([part]),
            render.councils(
                {"councils": [{"role": evil, "quorum": 1, "protocol": evil, "agents": [agent]}], "source": down}
            ),
            render.jobs({"jobs": [job], "source": down}),
            render.cluster({"cluster": cluster, "source": down}),
            render.deliberation(views.deliberation(one)),
            render.events([views.line(line) for line in board.lines(10)]),
            render.live(down),
            render.heading(1, 2, down),
        )
    )


def test_hostile_text_stays_text_everywhere() -> None:
    text = everything(EVIL)
    assert harmless(text)
    assert "&lt;script&gt;" in text


@given(st.text(alphabet="<>\"'&=/ \x00abonerror", max_size=40))
def test_no_text_makes_a_tag_or_an_attribute(evil: str) -> None:
    assert harmless(everything(evil))


def source(**change: Any) -> dict[str, Any]:
    return {"state": "unreachable", "error": "refused", "age_seconds": None, **change}


def test_what_was_never_answered_is_said_to_be_unknown_not_empty() -> None:
    for text in (
        render.jobs({"jobs": None, "source": source()}),
        render.councils({"councils": None, "source": source()}),
        render.cluster({"cluster": None, "source": source()}),
    ):
        assert "nothing was ever known" in text
        assert "No " not in text
        assert "0" not in text


def test_an_old_answer_is_shown_with_its_age_and_the_error() -> None:
    text = render.jobs({"jobs": [], "source": source(age_seconds=75.2)})
    assert "shown: 1 min 15 s old" in text
    assert "refused" in text


def test_an_empty_answer_is_called_empty() -> None:
    assert "No job runs." in render.jobs({"jobs": [], "source": {"state": "ok", "error": None, "age_seconds": 0}})


def test_an_amount_that_is_not_said_is_no_zero() -> None:
    cluster = {
        "ray_version": "2",
        "python_version": "3",
        "pool": "p",
        "actors": [],
        "nodes": [],
        "cpus": {"used": 1.0, "total": 2.0},
        "gpus": None,
        "memory_bytes": None,
    }
    text = render.cluster({"cluster": cluster, "source": {"state": "ok", "error": None, "age_seconds": 0}})
    assert "1.0 of 2.0 used" in text
    assert text.count("not said") == 2
    assert "p, 0 actors" in text
    text = render.cluster(
        {"cluster": {**cluster, "actors": ["a"]}, "source": {"state": "ok", "error": None, "age_seconds": 0}}
    )
    assert "p, 1 actor<" in text


def test_steps_show_the_first_moment_and_what_came_after_it() -> None:
    board = Board()
    board.apply(Seen("S", 1, "x", kit.at(0), kit.at(9), kit.approved()))
    board.apply(Seen("S", 2, "x", kit.at(1.5), kit.at(9), kit.started()))
    one = board.get("d1")
    assert one is not None
    text = render.deliberation(views.deliberation(one))
    assert "03:04:05.000" in text
    assert "+1.50 s" in text
    assert text.count('class="step done"') == 2


def test_a_card_shows_phases_why_auto_chose_checks_flips_and_what_was_skipped() -> None:
    board = Board()
    runs = [events.TestRun(test_id="a", status="passed")]
    feed = [kit.started(), kit.job("propose"), kit.job("dry_run", runs=runs, content=""), kit.judged()]
    for number, event in enumerate(feed):
        board.apply(Seen("S", number, "x", kit.at(number), kit.at(9), event))
    one = board.get("d1")
    assert one is not None
    text = render.deliberation(views.deliberation(one))
    for words in (
        "tournament (finalists 4)",
        "chosen by auto: the task is open",
        "propose 1",
        "dry run 1",
        'title="no sandbox on n1">rerun skipped',
        "1 flips in 6 verdicts",
        "9 calls · 1000 tokens (300 cached)",
        "1 of 1 tests passed",
        "revised",
        'class="pill failed" title="F401 unused">lint failed',
        'class="pill " title="no sandbox">dry run not run',
    ):
        assert words in text, words


def test_a_card_says_where_a_decision_stands_no_more_or_on_what_does_not() -> None:
    board = Board()
    for number, event in enumerate(
        [kit.completed("d1"), kit.completed("d2"), kit.overruled("dec-d2", superseded="dec-d1")]
    ):
        board.apply(Seen("S", number, event.subject(), kit.at(number), kit.at(9), event))
    cards = {one.deliberation_id: render.deliberation(views.deliberation(one)) for one in board.deliberations()}
    assert ">superseded</span>" in cards["d1"] and "relies on" not in cards["d1"]
    assert 'title="dec-d1">relies on superseded</span>' in cards["d2"] and ">superseded</span>" not in cards["d2"]


def test_the_filter_wants_every_word() -> None:
    line = {
        "subject": "planning.plan.approved",
        "summary": "Plan p1 of Ann",
        "deliberation_id": None,
        "plan_id": "p1",
        "type": "t",
    }
    assert render.matches(line, "")
    assert render.matches(line, "ANN approved")
    assert not render.matches(line, "ann failed")


def test_ages_are_words() -> None:
    assert [render.age(value) for value in (None, 0.4, 59.9, 61, 3700)] == [
        "never",
        "0 s",
        "59 s",
        "1 min 1 s",
        "1 h 1 min",
    ]
