"""The first decision rule: checks, agreement, ties."""

import hashlib
import itertools
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_state_machine import after, machine, result, running

from fleet.deliberation import checks, consensus
from fleet.deliberation.outcome import MAX_PROPOSALS_BYTES, outcome
from fleet_wire import events
from fleet_wire.events import DeliberationCompleted

PYTHON = "```python\nprint(1)\n```"


@pytest.mark.parametrize(
    ("content", "status", "score"),
    [
        (PYTHON, "passed", 1.0),
        ("```python\nprint(\n```", "failed", 0.0),
        (f"{PYTHON}\ntext\n```python\ndef f(:\n```", "failed", 0.5),
        ('```json\n{"a": 1}\n```', "passed", 1.0),
        ("```json\n{a: 1}\n```", "failed", 0.0),
        ("```toml\na = 1\n```", "passed", 1.0),
        ("```python\nprint(1", "failed", 0.0),
        ("```rust\nfn main() {\n```", "not_run", None),
        ("no code at all", "not_run", None),
        ("```python\n" + "(" * 10000 + "\n```", "failed", 0.0),
        ("```python\nx = '\0'\n```", "failed", 0.0),
    ],
)
def test_code_blocks_are_parsed_and_others_are_not_run(content: str, status: str, score: float | None) -> None:
    check = checks.check_parse(content)
    assert (check.status, check.score) == (status, score)


def test_endless_fences_take_no_time() -> None:
    text = ("```" + "a" * 20_000 + " " * 20_000) * 3
    begun = time.process_time()
    checks.check_parse(text)
    assert time.process_time() - begun < 1


def test_requirements_count_content_words_only() -> None:
    check = checks.check_requirements("We parse every file.", ["the parser must parse the file", "it is to be for all"])
    assert check.score == pytest.approx(2 / 3)  # parser, parse, file; the second requirement has no content word
    assert check.status == "passed"


def test_without_requirements_that_check_is_not_run() -> None:
    assert checks.check_requirements("anything", []).status == "not_run"


def test_what_was_not_run_is_no_part_of_the_score() -> None:
    ran = checks.run_checks("parse the file", ["parse the file"])
    assert [check.status for check in ran] == ["passed", "not_run", "passed"]
    assert checks.check_score(ran) == 1.0


def test_an_empty_answer_scores_nothing() -> None:
    ran = checks.run_checks("  \n ", ["parse the file"])
    assert ran[0].status == "failed"
    assert checks.check_score(ran) == 0.0


def test_agreement_is_the_mean_jaccard_of_three_word_shingles() -> None:
    one, two = consensus.shingles("a b c d"), consensus.shingles("x b c d")
    assert one == {("a", "b", "c"), ("b", "c", "d")}
    assert consensus.jaccard(one, two) == pytest.approx(1 / 3)
    ranked = consensus.rank("d", {"A": "a b c d", "B": "x b c d", "C": "q r s t"}, [])
    by_agent = {one.agent_id: one.agreement for one in ranked}
    assert by_agent == pytest.approx({"A": 1 / 6, "B": 1 / 6, "C": 0})


def test_a_proposal_without_others_agrees_with_nobody() -> None:
    [alone] = consensus.rank("d", {"A": "a b c"}, [])
    assert alone.agreement == 0.0


def test_ties_fall_by_the_lesser_hash_and_not_by_the_agents_number() -> None:
    winners = set()
    for number in range(20):
        deliberation = f"delib-{number}"
        contents = {"agent-DEV-001": "alpha beta gamma", "agent-DEV-002": "delta epsilon zeta"}
        first = consensus.rank(deliberation, contents, [])[0]
        least = min(contents.values(), key=lambda text: hashlib.sha256(f"{deliberation}|{text}".encode()).hexdigest())
        assert first.content == least
        winners.add(first.agent_id)
    assert winners == set(contents)


@given(st.dictionaries(st.sampled_from("ABCDE"), st.text(max_size=60), min_size=1), st.data())
def test_the_order_in_which_answers_came_does_not_matter(proposals: dict[str, str], data: st.DataObject) -> None:
    shuffled = dict(data.draw(st.permutations(list(proposals.items()))))
    assert consensus.rank("d", shuffled, ["some words"]) == consensus.rank("d", proposals, ["some words"])
    for one in consensus.rank("d", proposals, ["some words"]):
        assert 0 <= one.score <= 2


@given(st.text(max_size=300))
def test_no_answer_of_a_model_breaks_the_checks(content: str) -> None:
    for text in (content, f"```python\n{content}\n```", f"```json\n{content}", f"```toml\n{content}\n```"):
        for check in checks.run_checks(text, [content]):
            assert check.score is None or 0 <= check.score <= 1


def test_fifteen_of_the_longest_proposals_fit_into_one_message() -> None:
    state = running(agents=15, quorum=8)
    longest = "\x01" * (events.MAX_CONTENT_BYTES // 6 - 1)
    for seat in state.seats:
        state = machine.advance(state, machine.SeatEnded(seat.job_id, None, after(1)))
    event = outcome(state, {seat.job_id: result(seat, longest + seat.agent_id[-1]) for seat in state.seats})
    assert isinstance(event, DeliberationCompleted)
    assert len(events.encode(event)) <= events.MAX_MESSAGE_BYTES
    assert all(one.content_cut for one in event.ranking)
    assert sum(len(msgspec.json.encode(one.content)) for one in event.ranking) <= MAX_PROPOSALS_BYTES


def test_the_decision_says_what_it_rests_on() -> None:
    state = running()
    for seat in state.seats:
        state = machine.advance(state, machine.SeatEnded(seat.job_id, None, after(2)))
    texts = itertools.cycle(["we parse the file twice", "we parse the file once", "nothing"])
    event = outcome(state, {seat.job_id: result(seat, next(texts)) for seat in state.seats})
    assert isinstance(event, DeliberationCompleted)
    assert event.ranking[0].agent_id == event.winner
    assert event.decision.content == event.ranking[0].content
    assert event.margin == pytest.approx(event.ranking[0].score - event.ranking[1].score)
    assert [one.agent_id for one in event.dissent] == [event.ranking[1].agent_id]
    assert "3 of 3 seats answered" in event.decision.rationale
    assert event.duration_seconds == 2
