"""The report card: what it counts, what it says of differences, and what is kept in files."""

import datetime as dt
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fleet.evaluation import card as cards
from fleet.evaluation import kept
from fleet.evaluation.card import About, Attempt
from fleet.evaluation.configurations import Configuration, configurations, equal_budget
from fleet_wire.errors import Invalid, Precondition

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.timezone.utc)
ABOUT = About(
    tasks="tasks-1",
    task_file="t.jsonl",
    model="small|model",
    endpoint="http://x",
    budget_tokens=90_000,
    timeout_seconds=300,
    seed=1,
)


def attempt(task: int, configuration: str, solved: bool, **more: Any) -> Attempt:
    values = {"prompt_tokens": 90, "completion_tokens": 10, "calls": 1, "seconds": 2.0, **more}
    return Attempt(task_id=f"t{task}", configuration=configuration, deliberation_id="d", solved=solved, **values)


def made(single: list[bool], vote: list[bool]) -> cards.Card:
    attempts = [attempt(n, "single", solved) for n, solved in enumerate(single)]
    attempts += [attempt(n, "vote-3", solved, prompt_tokens=290, calls=3) for n, solved in enumerate(vote)]
    return cards.card(ABOUT, ["single", "vote-3"], attempts, NOW)


def test_a_row_counts_what_was_solved_and_really_spent() -> None:
    judged = attempt(0, "tournament-3", True, flips=1, verdicts=6, skipped=("rerun",))
    lost = attempt(1, "tournament-3", False, failure="quorum_missed: 0 of 2")
    [row] = cards.card(ABOUT, ["tournament-3"], [judged, lost], NOW).rows
    assert (row.solved, row.tasks, row.failed, row.share) == (1, 2, 1, 0.5)
    assert row.share_interval[0] < 0.1 and row.share_interval[1] > 0.9
    assert (row.tokens, row.tokens_mean, row.tokens_interval, row.calls) == (200, 100.0, (100.0, 100.0), 2)
    assert (row.flips, row.verdicts, row.skipped) == (1, 6, {"rerun": 1})
    assert cards.cells(row)[-2:] == ("1 of 3 pairs", "1")


def test_it_says_so_where_no_difference_is_shown() -> None:
    found = made([True] * 5 + [False] * 5, [True] * 9 + [False])
    [one] = found.comparisons
    assert (one.more, one.fewer, one.shown) == (4, 0, False)
    assert one.interval[0] <= 0 <= one.interval[1]
    assert "no difference shown" in one.words and "+40%" in one.words and "3.0 times the tokens" in one.words


def test_it_says_so_where_one_is() -> None:
    better, worse = made([False] * 10, [True] * 10), made([True] * 10, [False] * 10)
    assert "vote-3 against single: solves more" in better.comparisons[0].words
    assert "vote-3 against single: solves fewer" in worse.comparisons[0].words


def test_more_comparisons_ask_for_more_evidence() -> None:
    names = ["single", *(f"vote-{n}" for n in range(2, 10))]
    attempts = [attempt(n, name, name != "single") for n in range(6) for name in names]
    assert made([False] * 6, [True] * 6).comparisons[0].shown
    assert not any(one.shown for one in cards.card(ABOUT, names, attempts, NOW).comparisons)


def test_only_tasks_that_all_have_tried_are_compared() -> None:
    attempts = [attempt(0, "single", True), attempt(1, "single", True), attempt(0, "vote-3", False)]
    found = cards.card(ABOUT, ["single", "vote-3"], attempts, NOW)
    assert [row.tasks for row in found.rows] == [1, 1]


def test_the_markdown_holds_the_budget_the_rows_and_the_verdicts() -> None:
    text = cards.markdown(made([True, False], [True, True]))
    for part in ("small\\|model", "up to 90,000 tokens", "| single | 1/2 |", "| vote-3 | 2/2 |", "no difference shown"):
        assert part in text, part
    assert len({line.count(" | ") for line in text.splitlines() if line.startswith("| ")}) == 1


def test_attempts_are_kept_as_they_are_made_and_taken_up_again(tmp_path: Path) -> None:
    place = tmp_path / "out.json"
    first = kept.Attempts.load(place, ABOUT)
    first.add(attempt(0, "single", True))
    again = kept.Attempts.load(place, ABOUT)
    assert again.has("t0", "single") and not again.has("t0", "vote-3")
    again.add(attempt(0, "vote-3", False))
    found = again.of({"t0"}, ["single", "vote-3"])
    again.finish(cards.card(ABOUT, ["single", "vote-3"], found, NOW))
    report = msgspec.json.decode(place.read_bytes(), type=kept.Report)
    assert len(report.attempts) == 2 and report.card is not None and report.card.rows[0].solved == 1
    assert "single" in kept.markdown_path(place).read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.md"]


def test_an_attempt_that_was_cut_off_is_begun_again_as_another(tmp_path: Path) -> None:
    place = tmp_path / "out.json"
    first = kept.Attempts.load(place, ABOUT)
    assert (first.begin("t0", "single"), first.begin("t1", "single")) == (1, 1)
    first.add(attempt(0, "single", True))
    again = kept.Attempts.load(place, ABOUT)
    assert again.has("t0", "single") and again.begin("t1", "single") == 2


def test_a_file_of_something_else_is_not_written_over(tmp_path: Path) -> None:
    place = tmp_path / "out.json"
    kept.Attempts.load(place, ABOUT).add(attempt(0, "single", True))
    with pytest.raises(Precondition, match="holds another evaluation"):
        kept.Attempts.load(place, msgspec.structs.replace(ABOUT, seed=2))
    place.write_text('{"a": 1}')
    with pytest.raises(Invalid, match="is no report of an evaluation"):
        kept.Attempts.load(place, ABOUT)
    with pytest.raises(Invalid, match="is its folder there"):
        kept.Attempts.load(tmp_path / "none" / "out.json", ABOUT)


def test_each_protocol_meets_each_number_of_agents_and_single_stands_once() -> None:
    found = configurations(["single", "vote", "best_of_n"], [3, 5], {"testers": 4})
    assert [one.name for one in found] == ["single", "vote-3", "vote-5", "best_of_n-3", "best_of_n-5"]
    assert found[1].numbers == {"agents": 3} and found[3].numbers == {"testers": 4, "agents": 3}
    assert [one.testers for one in found] == [0, 0, 0, 4, 4]


@pytest.mark.parametrize(
    ("protocols", "agents", "numbers", "sentence"),
    [
        (["votes"], [3], {}, "--protocols must be one of auto, single, vote"),
        (["vote"], [16], {}, "--agents must be from 1 to 15, not 16"),
        (["vote"], [3], {"critics": 2}, "--number critics is a number of none of vote"),
        (["best_of_n"], [3], {"testers": 99}, "--number.testers must be a whole number from 1 to 15"),
        (["vote"], [3], {"agents": 3}, "is what --agents is for"),
        ([], [3], {}, "at least one protocol"),
    ],
)
def test_a_wrong_configuration_is_named(
    protocols: list[str], agents: list[int], numbers: dict[str, float], sentence: str
) -> None:
    with pytest.raises(Invalid, match=sentence):
        configurations(protocols, agents, numbers)


def test_the_budget_is_that_of_the_largest_for_all() -> None:
    small, large = configurations(["single"], [3], {}), configurations(["single", "vote", "peer_review"], [3, 10], {})
    assert equal_budget(small, 1000, 500) == 6000
    most = equal_budget(large, 1000, 500)
    assert most == equal_budget([Configuration(protocol="peer_review", agents=10)], 1000, 500) > 100_000
    assert equal_budget(large, 2000, 500) > most
