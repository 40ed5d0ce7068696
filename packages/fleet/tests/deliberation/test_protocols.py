"""How each protocol places the proposals, by the evidence alone."""

import random

import msgspec
import pytest
from delibkit import CODE_TASK, TASK, Council, checked, fresh, prepared, ran, result, verdict
from hypothesis import given
from hypothesis import strategies as st

from fleet.deliberation import text
from fleet.deliberation.evidence import Evidence, evidence, fares_worse
from fleet.deliberation.protocols import PROTOCOLS, Ranking, check_numbers, check_protocol
from fleet.deliberation.protocols.vote import clusters, meaning, normal_json, normal_tree
from fleet.deliberation.requests import JobRequest
from fleet.deliberation.state import Deliberation
from fleet_wire.errors import Invalid
from fleet_wire.events import AgentResult, Check, PlanTask

SEATS = [f"agent-DEV-{number:03d}" for number in range(1, 6)]
A, B, C, D, E = SEATS


def vote(
    *contents: str, task: PlanTask = TASK, similarity: float = 0.5, checks: dict[str, list[Check]] | None = None
) -> Ranking:
    state = prepared(fresh(len(contents), quorum=1, task=task), "vote", similarity=similarity)
    council = Council(state)
    for request, content in zip(council.open(), contents, strict=True):
        council.end(result(request, content, checks=(checks or {}).get(request.agent_id, [])))
    return PROTOCOLS["vote"].rank(council.state, evidence(council.state, council.results))


def order(ranking: Ranking) -> list[str]:
    return [placed.author for placed in ranking.places]


# vote

ADDS = (
    "def add(a, b):\n    return a + b",
    'def add(a: int, b: int) -> int:\n    """The sum."""\n    return (a  +  b)  # sum',
)


def test_the_largest_cluster_wins_and_its_size_is_the_score() -> None:
    found = vote("42", "7", "42", "the answer is something else entirely", "42")
    assert set(order(found)[:3]) == {A, C, E}
    assert [placed.score for placed in found.places] == [3, 3, 3, 1, 1]
    assert found.margin == 2
    assert found.dissent in (B, D)


def test_the_best_checked_member_speaks_for_the_cluster() -> None:
    good, bad = checked("passed", "passed"), checked("passed", "failed")
    found = vote("42", "42", "42", "7", checks={A: bad, B: good, C: bad, D: good})
    assert order(found)[0] == B
    assert found.dissent == D


def test_when_all_agree_nobody_dissents() -> None:
    found = vote("42", "42.0")
    assert (found.dissent, found.margin) == ("", 2)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (ADDS[0], ADDS[1], True),
        ("x = 1", "x = 1.0", False),
        ("def f():\n    '''a'''", "def f():\n    pass", True),
        ("def f(): return 1", "def g(): return 1", False),
        ("class A:\n    x: int", "class A:\n    x: str", False),
    ],
)
def test_code_is_equal_by_its_normalised_syntax_tree(one: str, other: str, same: bool) -> None:
    assert (normal_tree(one) == normal_tree(other)) is same
    for code in (one, other):
        assert normal_tree(code)


def test_code_is_found_in_its_block_and_layout_does_not_matter() -> None:
    found = vote(*(f"Text {n}\n```python\n{code}\n```" for n, code in enumerate(ADDS)), task=CODE_TASK)
    assert [placed.score for placed in found.places] == [2, 2]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"a": 1, "b": [2]}', '{"b":[2.0],"a":1}', True),
        ('{"a": 1}', '{"a": "1"}', False),
        ("[1, 2]", "[2, 1]", False),
        ("true", "1", False),
        ("1e400", "1e401", True),
        ("0.5", "5e-1", True),
    ],
)
def test_json_is_equal_by_value(one: str, other: str, same: bool) -> None:
    assert (normal_json(one) == normal_json(other)) is same


def test_json_in_a_block_equals_the_same_without() -> None:
    assert meaning('So:\n```json\n{"a": 1}\n```', TASK) == meaning('{"a":1.0}', TASK)


def test_prose_is_equal_above_the_threshold_only() -> None:
    long = "we read the file line by line and count what we find in it"
    near = long + " today"
    found = vote(long, near, "we do something else that has nothing in common with this")
    assert order(found)[2] == C
    assert [placed.score for placed in found.places] == [2, 2, 1]
    assert [placed.score for placed in vote(long, near, "x", similarity=1.0).places] == [1, 1, 1]


def test_a_chain_of_likenesses_is_no_agreement() -> None:
    words = [f"w{n}" for n in range(40)]
    texts = [" ".join(words[at : at + 20]) for at in (0, 5, 10)]
    meanings = {str(n): meaning(one, TASK) for n, one in enumerate(texts)}
    likeness = text.jaccard(text.shingles(texts[0]), text.shingles(texts[1]))
    assert likeness > 0.5 > text.jaccard(text.shingles(texts[0]), text.shingles(texts[2]))
    assert sorted(len(one) for one in clusters(meanings, 0.5)) == [1, 2]


@given(st.lists(st.text(alphabet="ab ", max_size=30), min_size=1, max_size=7), st.floats(0, 1), st.randoms())
def test_every_two_of_a_cluster_are_alike_and_everybody_is_in_one(
    texts: list[str], similarity: float, chance: random.Random
) -> None:
    meanings = {str(n): meaning(one, TASK) for n, one in enumerate(texts)}
    found = clusters(meanings, similarity)
    assert sorted(author for members in found for author in members) == sorted(meanings)
    for members in found:
        for one in members:
            for other in members:
                shingles = [text.shingles(meanings[author].value) for author in (one, other)]
                assert meanings[one] == meanings[other] or text.jaccard(*shingles) >= similarity


# best_of_n


def best_of(
    passed: dict[str, str], checks: dict[str, list[Check]] | None = None, contents: dict[str, str] | None = None
) -> Ranking:
    """`passed` names of the tests 1 to 4 those that each seat's proposal passes."""
    state = prepared(fresh(len(passed), quorum=1, testers=2, task=CODE_TASK), "best_of_n")
    council = Council(state)

    def answer(request: JobRequest) -> AgentResult:
        if request.phase == "tests":
            return result(request, "assert add(1, 2) == 3\nassert add(0, 0) == 0")
        if request.dry_run:
            ids = [test for test, _ in request.dry_run.tests]
            return ran(request, *(ids[int(number) - 1] for number in passed[request.agent_id]))
        content = (contents or {}).get(request.agent_id, f"    return {int(request.agent_id[-1])}")
        return result(request, content, checks=(checks or {}).get(request.agent_id, []))

    council.run(answer)
    return PROTOCOLS["best_of_n"].rank(council.state, evidence(council.state, council.results))


def test_a_group_weighs_its_size_times_the_tests_it_passes() -> None:
    found = best_of({A: "12", B: "12", C: "123", D: "4", E: ""})
    assert set(order(found)[:2]) == {A, B}
    assert [placed.score for placed in found.places] == [4, 4, 3, 1, 0]
    assert (found.dissent, found.margin) == (C, 1)


def test_a_proposal_that_fails_a_hard_check_goes_behind_all_others() -> None:
    found = best_of({A: "1234", B: "1", C: "2"}, checks={A: checked("failed")})
    assert order(found)[2] == A
    assert found.places[2].score == -1


def test_lint_is_no_hard_check_and_breaks_ties() -> None:
    found = best_of({A: "12", B: "12"}, checks={A: checked("passed", "failed"), B: checked("passed", "passed")})
    assert order(found) == [B, A]
    assert [placed.score for placed in found.places] == [4, 4]


def test_then_brevity_and_then_the_lesser_hash_decide_and_not_the_seat() -> None:
    assert order(best_of({A: "1", B: "1"}, contents={A: "    return 10", B: "    return 1"})) == [B, A]
    winners = set()
    for number in range(10, 40):
        contents = {A: f"    return {number}", B: f"    return {number + 40}"}
        found = order(best_of({A: "1", B: "1"}, contents=contents))
        assert found == sorted(contents, key=lambda author: text.tie_break("delib-1", contents[author]))
        winners.add(found[0])
    assert winners == {A, B}


def test_an_answer_without_a_program_passes_nothing_and_says_so() -> None:
    found = best_of({A: "1", B: "1"}, contents={A: "I would rather not", B: "    return a + b + 1 + 1 + 1 + 1 + 1 + 1"})
    assert order(found) == [B, A]


# tournament


def tournament(
    verdicts: dict[str, str], seats: int = 3, contents: dict[str, str] | None = None, **numbers: float
) -> tuple[Deliberation, Evidence, Ranking]:
    """`verdicts` by item; a judgement that is not named fails."""
    state = prepared(fresh(seats, quorum=1), "tournament", **numbers)
    council = Council(state)

    def answer(request: JobRequest) -> AgentResult:
        if request.phase == "judge":
            if request.item not in verdicts:
                return result(request, error={"kind": "timeout", "message": "", "retryable": True})
            return result(request, verdict(verdicts[request.item], f"reason of {request.item}"))
        return result(request, (contents or {}).get(request.agent_id, f"proposal {request.agent_id}"))

    council.run(answer)
    said = evidence(council.state, council.results)
    return council.state, said, PROTOCOLS["tournament"].rank(council.state, said)


ALL_FOR_2 = {"1v2": "second", "2v1": "first", "2v3": "first", "3v2": "second"}


def test_who_is_preferred_in_both_orders_wins_the_pair() -> None:
    _, _, found = tournament({**ALL_FOR_2, "1v3": "first", "3v1": "second"})
    assert order(found) == [B, A, C]
    assert [placed.score for placed in found.places] == [2, 1, 0]
    assert (found.flips, found.margin, found.dissent) == (0, 1, A)


def test_a_judge_that_always_takes_the_first_decides_nothing_and_is_counted() -> None:
    contents = {A: "the longest of them", B: "longer one", C: "short"}
    items = ("1v2", "2v1", "1v3", "3v1", "2v3", "3v2")
    _, _, found = tournament(dict.fromkeys(items, "first"), contents=contents)
    assert found.flips == 3
    assert [placed.score for placed in found.places] == [1, 1, 1]
    assert order(found) == [C, B, A]  # by brevity
    assert found.margin == 0
    assert "brevity" in found.words


def test_a_tie_in_one_order_only_is_a_flip_too_and_in_both_is_none() -> None:
    _, _, found = tournament({**ALL_FOR_2, "1v3": "tie", "3v1": "first"})
    assert found.flips == 1
    _, _, found = tournament({**ALL_FOR_2, "1v3": "tie", "3v1": "tie"})
    assert found.flips == 0


def test_a_missing_judgement_is_a_tie_and_no_flip() -> None:
    _, said, found = tournament({**ALL_FOR_2, "1v3": "first"})
    assert found.flips == 0
    assert {placed.author: placed.score for placed in found.places} == {B: 2, A: 0.5, C: 0.5}
    assert len(said.verdicts) == 5


def test_only_the_finalists_are_judged_and_the_others_follow() -> None:
    contents = {A: "longest of all", B: "b", C: "cc", D: "longer than"}
    state, _, found = tournament({"2v3": "second", "3v2": "first"}, seats=4, contents=contents, finalists=2)
    assert {job.item for job in state.jobs if job.phase == "judge"} == {"2v3", "3v2"}
    assert order(found) == [C, B, D, A]


def test_a_verdict_that_cannot_be_read_is_missing() -> None:
    state = prepared(fresh(), "tournament")
    council = Council(state)
    council.run(lambda request: result(request, '{"winner": "third"}'))
    said = evidence(council.state, council.results)
    assert (len(said.verdicts), len(said.unread)) == (0, 6)


# peer_review


@pytest.mark.parametrize(
    ("before", "now", "worse"),
    [
        (("passed", "failed"), ("passed", "passed"), False),
        (("passed", "failed"), ("passed", "failed"), False),
        (("passed", "passed"), ("passed", "failed"), True),
        (("failed", "passed"), ("passed", "failed"), True),
        (("passed", "passed"), ("passed", "not_run"), True),
        (("not_run", "passed"), ("passed", "passed"), False),
        (("not_run", "passed"), ("failed", "passed"), True),
        (("passed",), ("passed", "failed"), True),
        (("passed", "passed"), ("passed",), True),
        ((), (), False),
    ],
)
def test_a_revision_is_kept_only_if_nothing_gets_worse(before: list[str], now: list[str], worse: bool) -> None:
    assert fares_worse(checked(*now), checked(*before)) is worse


def test_a_lower_score_is_worse() -> None:
    before, now = (Check(name="requirements", status="passed", score=score) for score in (0.9, 0.8))
    assert fares_worse([now], [before])
    assert not fares_worse([before], [now])


def test_a_revision_takes_its_originals_place_unless_it_fares_worse() -> None:
    council = Council(prepared(fresh(task=CODE_TASK, testers=1), "peer_review"))

    def answer(request: JobRequest) -> AgentResult:
        match request.phase:
            case "propose":
                return result(request, "    return a + b", checks=checked("passed"))
            case "tests":
                return result(request, "assert add(1, 2) == 3\nassert add(0, 0) == 0")
            case "dry_run":
                return ran(request, "t1-1")
            case "critique":
                return result(request, "hm")
            case "revise":
                return result(request, f"    return b + a + {request.agent_id[-1]}", checks=checked("passed"))
            case "rerun":
                return ran(request, *{A: ("t1-1", "t1-2"), B: (), C: ("t1-1",)}[request.agent_id])
            case _:
                return result(request, verdict("tie"))

    council.run(answer)
    said = evidence(council.state, council.results)
    assert {author: one.revised for author, one in said.proposals.items()} == {A: True, B: False, C: True}
    assert said.dropped == (B,)
    assert [check.detail for check in said.proposals[A].checks] == ["", "2 of 2 tests pass"]


# the table


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    assert check_protocol("protocol", "auto") == "auto"
    with pytest.raises(
        Invalid, match=r"tasks\[0\].protocol must be one of auto, single, vote, best_of_n, tournament, peer_review"
    ):
        check_protocol("tasks[0].protocol", "consensus")
    with pytest.raises(Invalid, match="numbers of vote must be of agents, similarity, not 'finalists'"):
        check_numbers("numbers", "vote", {"finalists": 4})


@pytest.mark.parametrize(
    ("name", "value"), [("finalists", 1), ("finalists", 2.5), ("testers", 0), ("agents", 16), ("agents", float("nan"))]
)
def test_numbers_outside_their_limits_are_refused(name: str, value: float) -> None:
    with pytest.raises(Invalid, match=f"numbers.{name} must be"):
        check_numbers("numbers", "tournament", {name: value})


def test_auto_takes_the_numbers_of_all_that_it_may_choose() -> None:
    assert check_numbers("numbers", "auto", {"finalists": 3, "testers": 1}) == {"finalists": 3, "testers": 1}


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=list(PROTOCOLS))
def test_the_defaults_of_every_number_are_allowed(protocol: object) -> None:
    found = msgspec.structs.asdict(protocol)  # type: ignore[arg-type]
    defaults = {name: one.default for name, one in found["numbers"].items()}
    assert check_numbers("numbers", found["name"], defaults) == defaults
    assert PROTOCOLS[found["name"]] is protocol


@given(st.permutations(SEATS[:4]), st.sampled_from(list(PROTOCOLS)))
def test_the_order_in_which_answers_came_does_not_matter(arrival: list[str], protocol: str) -> None:
    def run(authors: list[str]) -> Ranking:
        state = prepared(fresh(4), protocol)
        council = Council(state)
        asked = {request.agent_id: request for request in council.open()}
        for author in authors:
            if author in asked:
                council.end(result(asked[author], f"the text of {author[-1]}"))
        council.run(lambda request: result(request, verdict("first")))
        return PROTOCOLS[protocol].rank(council.state, evidence(council.state, council.results))

    assert run(arrival) == run(SEATS[:4])
