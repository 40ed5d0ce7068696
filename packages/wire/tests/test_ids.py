import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_wire import ids
from fleet_wire.errors import Invalid


@pytest.mark.parametrize("value", ["a", "A-b_9", "x" * 64])
def test_valid_ids_pass_unchanged(value: str) -> None:
    assert ids.check_id("story_id", value) == value


@pytest.mark.parametrize("value", ["", "x" * 65, "a b", "a.b", "a*", "a>", "é", "a\n", "\na", "a/b"])
def test_other_ids_are_refused_with_the_fields_name(value: str) -> None:
    with pytest.raises(Invalid, match=r"^story_id must match"):
        ids.check_id("story_id", value)


def test_a_long_bad_id_is_not_repeated_whole() -> None:
    with pytest.raises(Invalid) as caught:
        ids.check_id("task_id", "?" * 100_000)
    assert len(str(caught.value)) < 200


def test_roles_have_one_spelling() -> None:
    assert [ids.check_role("role", role) for role in ids.ROLES] == ["DEV", "QA", "ARCHITECT", "DEVOPS", "DATA"]
    for other in ("dev", "Dev", "DEVELOPER", ""):
        with pytest.raises(Invalid, match="role must be one of DEV, QA, ARCHITECT, DEVOPS, DATA"):
            ids.check_role("role", other)


@given(st.text(), st.text(), st.integers())
def test_derived_ids_are_valid_and_repeat(plan: str, task: str, number: int) -> None:
    plan, task = (text.encode("utf-8", "replace").decode() for text in (plan, task))
    made = ids.deliberation_id(plan, task, number)
    assert ids.check_id("deliberation_id", made) == made == ids.deliberation_id(plan, task, number)
    assert ids.check_id("decision_id", ids.decision_id(made)) == f"dec-{made}"


def test_derived_ids_are_pinned() -> None:
    """Another derivation would start what runs a second time after an upgrade."""
    assert ids.deliberation_id("plan-1", "task-1", 1) == "delib-20491093af4124bee4efae24"
    assert ids.job_id("delib-1", "propose", "agent-DEV-001", "", 1) == "job-b69aeea95a52bd18d3179723"


def test_each_part_of_a_job_makes_another_id() -> None:
    base = ("delib-1", "propose", "agent-DEV-001", "pair-1", 1)
    other = ("delib-2", "judge", "agent-DEV-002", "pair-2", 2)
    changed = {ids.job_id(*base[:place], other[place], *base[place + 1 :]) for place in range(5)}  # type: ignore[arg-type]
    assert len(changed | {ids.job_id(*base)}) == 6


def test_parts_do_not_run_into_each_other() -> None:
    assert ids.derived("x", "ab", "c") != ids.derived("x", "a", "bc")


def test_agent_ids_name_role_and_seat() -> None:
    assert ids.agent_id("DEVOPS", 7) == "agent-DEVOPS-007"
    assert re.match(ids.ID_PATTERN, ids.agent_id("ARCHITECT", 1000))


def test_an_agents_id_can_be_told_from_a_persons_name() -> None:
    assert all(ids.is_agent(ids.agent_id(role, 1)) for role in ids.ROLES)
    assert not any(map(ids.is_agent, ("", "ana", "the agent", "agent", ids.decision_id("delib-1"))))
