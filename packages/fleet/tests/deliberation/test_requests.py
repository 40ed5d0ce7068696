"""What is asked, of whom, and that it is asked the same again."""

import re

import msgspec
from delibkit import (
    ADD,
    CODE_TASK,
    TASK,
    TESTS,
    Council,
    answers,
    checked,
    fresh,
    prepared,
    prompt_for,
    ran,
    result,
    verdict,
)
from hypothesis import given
from hypothesis import strategies as st

from fleet.deliberation import state as machine
from fleet.deliberation.requests import JobRequest, question, requests, reserve
from fleet.deliberation.state import advance
from fleet_wire.events import AgentResult, PlanTask


def reviewed(seats: int = 3, testers: int = 1, task: PlanTask = CODE_TASK, policy: str = "") -> Council:
    """A whole peer review, every job answered."""
    state = prepared(fresh(seats, testers=testers, task=task), "peer_review")
    council = Council(state, prompt_for(state, policy=policy))

    def propose(request: JobRequest) -> AgentResult:
        return result(request, f"{ADD}\nof {request.agent_id[-1]}", checks=checked("passed", "failed"))

    council.run(
        answers(
            {
                "propose": propose,
                "tests": lambda request: result(request, TESTS),
                "dry_run": lambda request: ran(request, "t1-1"),
                "critique": lambda request: result(
                    request, f"critique by {request.agent_id[-1]} of {request.item[-1]}"
                ),
                "revise": lambda request: result(
                    request, f"{ADD}\nrevised {request.agent_id[-1]}", checks=checked("passed", "passed")
                ),
                "rerun": lambda request: ran(request, "t1-1", "t1-2"),
                "judge": lambda request: result(request, verdict("first")),
            }
        )
    )
    return council


def texts(request: JobRequest) -> str:
    return "\0".join(content for _, content in request.messages)


def test_all_jobs_of_all_phases_begin_with_the_same_bytes() -> None:
    council = reviewed()
    asked = [request for request in council.asked if request.messages]
    assert {request.phase for request in asked} == {"propose", "tests", "critique", "revise", "judge"}
    shared = f"{council.prompt.system}\0{council.prompt.shared}\n\n".encode()
    assert all(texts(request).encode().startswith(shared) for request in asked)
    assert len({texts(request) for request in asked if request.phase == "propose"}) == 3


def test_a_proposal_is_asked_for_alone() -> None:
    for request in reviewed().asked:
        if request.phase in ("propose", "tests"):
            assert "return a + b" not in texts(request)


def test_nobody_is_told_who_wrote_what() -> None:
    for request in reviewed().asked:
        assert not re.search("agent-(DEV|QA)", texts(request))


def test_an_author_sees_its_own_proposal_what_was_said_of_it_and_what_failed_and_no_other() -> None:
    [first, *_] = [request for request in reviewed().asked if request.phase == "revise"]
    text = texts(first)
    assert first.agent_id.endswith("1")
    assert "of 1" in text
    assert "of 2\n" not in text and "of 3\n" not in text
    assert "critique by 2 of 1" in text and "critique by 3 of 1" in text
    assert text.count("critique by") == 2
    assert "lint: failed" in text
    assert "AssertionError" in text and "assert add(0, 0) == 0" in text
    assert "assert add(1, 2) == 3" not in text  # passed


def test_critics_are_two_other_seats() -> None:
    asked = [(one.agent_id[-1], one.item[-1]) for one in reviewed(seats=4).asked if one.phase == "critique"]
    assert sorted(asked) == [
        ("1", "3"),
        ("1", "4"),
        ("2", "1"),
        ("2", "4"),
        ("3", "1"),
        ("3", "2"),
        ("4", "2"),
        ("4", "3"),
    ]


def test_judges_wrote_neither_and_see_the_pair_in_both_orders() -> None:
    council = reviewed()
    judged = {request.item: request for request in council.asked if request.phase == "judge"}
    assert set(judged) == {"1v2", "2v1", "1v3", "3v1", "2v3", "3v2"}
    for item, request in judged.items():
        first, second = item.split("v")
        assert request.agent_id[-1] not in (first, second)
        text = texts(request)
        assert text.index(f"revised {first}") < text.index(f"revised {second}")
        assert request.response_schema == council.prompt.verdict_schema
        assert request.temperature == 0
        assert request.agent_id == judged[f"{second}v{first}"].agent_id


def test_with_two_seats_a_tester_judges() -> None:
    judges = {request.agent_id for request in reviewed(seats=2).asked if request.phase == "judge"}
    assert judges == {"agent-QA-001"}


def test_a_dry_run_holds_the_program_and_all_tests() -> None:
    asked = reviewed(testers=2).asked
    runs = [request for request in asked if request.phase in ("dry_run", "rerun")]
    assert len(runs) == 6
    for request in runs:
        assert request.dry_run is not None
        assert not request.messages
        assert "def add(a, b)" in request.dry_run.program
        assert [test for test, _ in request.dry_run.tests] == ["t1-1", "t1-2", "t2-1", "t2-2"]
        assert reserve(request) == msgspec.structs.replace(reserve(request), tokens=0, calls=0)


def test_proposals_and_revisions_are_checked_and_nothing_else() -> None:
    task = msgspec.structs.replace(CODE_TASK, requirements=["adds two numbers"])
    for request in reviewed(task=task, policy='{"max_bytes": 9}').asked:
        if request.phase in ("propose", "revise"):
            assert request.checks is not None
            assert request.checks.names == ("parse", "lint", "policy", "requirements")
            assert request.checks.policy == '{"max_bytes": 9}'
        else:
            assert request.checks is None


def test_a_check_that_has_nothing_to_go_by_is_not_asked_for() -> None:
    checks = reviewed().asked[0].checks
    assert checks is not None
    assert checks.names == ("parse", "lint")


def test_only_those_that_wait_are_asked_again_and_the_same() -> None:
    state = prepared(fresh(), "vote")
    council = Council(state)
    first = council.open()
    council.end(result(first[1], "an answer"))
    assert requests(council.state, council.prompt, council.results) == (first[0], first[2])
    lost = advance(council.state, machine.SubmissionLost())
    assert requests(lost, council.prompt, council.results) == (first[0], first[2])


def test_a_replay_under_another_protocol_asks_the_same_questions_with_seeds_of_its_own() -> None:
    vote = Council(prepared(fresh(), "vote")).open()
    other = msgspec.structs.replace(prepared(fresh(), "tournament", agents=2), deliberation_id="delib-2")
    again = Council(other).open()
    assert [question(request) for request in again] == [question(request) for request in vote[:2]]
    assert len({question(request) for request in vote}) == 3
    assert {request.seed for request in vote}.isdisjoint(request.seed for request in again)


def test_the_bytes_of_the_messages_bound_what_is_reserved() -> None:
    request = Council(prepared(fresh(), "vote")).open()[0]
    size = sum(len(content.encode()) for _, content in request.messages)
    assert (reserve(request).tokens, reserve(request).calls) == (size + 128 + 100, 1)


def test_a_verdict_may_be_asked_for_twice() -> None:
    judge = next(request for request in reviewed().asked if request.phase == "judge")
    assert reserve(judge).calls == 2


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("<|>/[]-\n\x00 endINST_judge")), max_size=200))
def test_no_proposal_gets_out_of_its_fence(text: str) -> None:
    state = prepared(fresh(2, testers=1, task=TASK), "tournament")
    council = Council(state)
    for request in council.open():
        council.end(result(request, text))
    judge = council.open()[0]
    ending = texts(judge).split(council.prompt.shared, 1)[1]
    markers = re.findall(r"^--- ([0-9a-f]{12}) (?:first|second) proposal$", ending, re.MULTILINE)
    assert len(set(markers)) == 2
    assert all(ending.count(marker) == 2 for marker in markers)
    assert ending.endswith(council.prompt.instructions["judge"])
    assert "<|" not in ending and "[INST]" not in ending
