"""What an agent sees, and how it is packed: pure rules."""

import dataclasses
import datetime as dt

import context_samples as samples
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.context import domain, search
from fleet.deliberation.plan_rules import tasks_of
from fleet_wire.errors import Invalid

REQUEST = domain.checked("story-1", "plan-1", "api", "DEV", "build", 2000, [])
STORY = domain.Story("story-1", "Login", "Users log in.", ("they can",))
TASK = domain.Task("plan-1", "api", "The API", "Write it.", ("hash passwords", "no plain text"), ("tests pass",))
HEAD = domain.StoryHead("story-1", "born", 7)


def decision(name: str, content: str = "Use Argon2.", minute: int = 0, role: str = "DEV") -> domain.Decision:
    return domain.Decision(
        decision_id=name,
        deliberation_id=f"d-{name}",
        story_id="story-1",
        plan_id="plan-1",
        task_id=name,
        role=role,
        protocol="tournament",
        winner="agent-DEV-001",
        title=f"Decision {name}",
        content=content,
        rationale="Best.",
        score=1.0,
        margin=0.1,
        decided_at=samples.NOW + dt.timedelta(minutes=minute),
    )


def facts(**parts: object) -> domain.Facts:
    return dataclasses.replace(domain.Facts(HEAD, STORY, TASK), **parts)


def with_budget(budget: int) -> domain.ContextRequest:
    return dataclasses.replace(REQUEST, token_budget=budget)


def test_blocks_stand_in_their_order_of_importance() -> None:
    found = domain.hydrated(
        REQUEST,
        facts(
            required=(decision("late", minute=2), decision("early", minute=1)),
            depended_on=(decision("dep-old", minute=3), decision("dep-new", minute=4), decision("early", minute=1)),
            visible=(decision("arch", minute=9, role="ARCHITECT"), decision("dep-new", minute=4)),
        ),
    )
    assert [(block.kind, block.source_id) for block in found.blocks] == [
        ("story", "story-1"),
        ("task", "plan-1/api"),
        ("requirement", "plan-1/api"),
        ("requirement", "plan-1/api"),
        ("decision", "early"),
        ("decision", "late"),
        ("decision", "dep-new"),
        ("decision", "dep-old"),
        ("decision", "arch"),
    ]
    assert found.omitted == ()
    assert found.version == 7


def test_blocks_hold_the_texts() -> None:
    found = domain.hydrated(REQUEST, facts(required=(decision("a"),)))
    texts = {block.title: block.text for block in found.blocks}
    assert texts == {
        "Login": "Users log in.\n\nAcceptance:\n- they can",
        "The API": "Write it.\n\nAcceptance:\n- tests pass",
        "Requirement 1": "hash passwords",
        "Requirement 2": "no plain text",
        "Decision a": "Decided by the DEV council.\n\nUse Argon2.\n\nRationale: Best.",
    }


def test_no_block_holds_a_secret() -> None:
    secret = 'password = "hunter2"'
    story = domain.Story("story-1", f"Login {secret}", f"Users log in. {secret}", (secret,))
    task = domain.Task("plan-1", "api", secret, secret, (secret,), (secret,))
    told = dataclasses.replace(decision("d", f"Use {secret}"), title=secret, rationale=secret)
    for budget in (2000, 130):
        found = domain.hydrated(with_budget(budget), facts(story=story, task=task, required=(told,)))
        assert "hunter" not in str(found)
        assert found.tokens <= budget
    assert 'password = "[redacted:password]"' in str(domain.hydrated(REQUEST, facts(story=story)))


def test_tokens_are_a_third_of_the_utf8_bytes_rounded_up() -> None:
    assert [domain.tokens(text) for text in ("", "a", "abc", "abcd", "äöü", "日本")] == [0, 1, 1, 2, 2, 2]


def test_optional_decisions_that_do_not_fit_are_left_out_whole_and_named() -> None:
    base = domain.hydrated(REQUEST, facts()).tokens
    long, short = decision("long", "x" * 3000, minute=5), decision("short", minute=1)
    found = domain.hydrated(with_budget(base + 60), facts(depended_on=(long, short)))
    assert [block.source_id for block in found.blocks][-1] == "short"
    assert found.omitted == ("long",)
    assert not any(block.text.endswith(domain.CUT) for block in found.blocks)


def test_required_decisions_are_cut_in_proportion_and_marked_before_any_optional_one_is_shown() -> None:
    big, small = decision("big", "b" * 6000), decision("small", "s" * 3000)
    found = domain.hydrated(with_budget(1000), facts(required=(big, small), visible=(decision("tiny"),)))
    cut = {block.source_id: block for block in found.blocks if block.kind == "decision"}
    assert set(cut) == {"big", "small"}
    assert all(block.text.endswith(domain.CUT) for block in cut.values())
    assert 1.7 < cut["big"].tokens / cut["small"].tokens < 2.3
    assert found.omitted == ("big", "small", "tiny")
    assert 950 < found.tokens <= 1000
    assert [block.text.endswith(domain.CUT) for block in found.blocks if block.kind != "decision"] == [False] * 4


def test_what_cutting_leaves_over_is_not_given_to_an_optional_decision() -> None:
    required = tuple(decision(f"r{number}", "x" * (100 + number)) for number in range(40))
    tiny = dataclasses.replace(decision("tiny", ""), title="", rationale="")
    whole = domain.hydrated(with_budget(100_000), facts(required=required)).tokens
    for budget in range(whole - 200, whole):
        found = domain.hydrated(with_budget(budget), facts(required=required, visible=(tiny,)))
        assert "tiny" in found.omitted


def test_a_task_is_cut_after_its_story() -> None:
    story = dataclasses.replace(STORY, brief="s" * 3000)
    task = dataclasses.replace(TASK, description="t" * 300)
    found = domain.hydrated(with_budget(300), facts(story=story, task=task))
    assert found.omitted == ("story-1",)
    assert found.blocks[0].text.endswith(domain.CUT)
    found = domain.hydrated(with_budget(80), facts(story=story, task=task))
    assert found.omitted == ("story-1", "plan-1/api")


def test_a_budget_below_the_titles_is_invalid_and_says_what_is_needed() -> None:
    task = dataclasses.replace(TASK, title="t" * 300)
    with pytest.raises(Invalid, match=r"^token_budget of 64 .* at least 1\d\d are needed"):
        domain.hydrated(with_budget(64), facts(task=task))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("story_id", ""),
        ("plan_id", "a b"),
        ("task_id", "x" * 65),
        ("role", "dev"),
        ("phase", "BUILD"),
        ("token_budget", 63),
        ("token_budget", 1_000_001),
        ("required_decision_ids", ["ok", "not ok"]),
    ],
)
def test_a_wrong_field_is_named(field: str, value: object) -> None:
    good = {
        "story_id": "s",
        "plan_id": "p",
        "task_id": "t",
        "role": "QA",
        "phase": "test",
        "token_budget": 100,
        "required_decision_ids": [],
        field: value,
    }
    with pytest.raises(Invalid, match=f"^{field} "):
        domain.checked(*good.values())  # type: ignore[arg-type]


def test_the_order_and_repetition_of_required_ids_does_not_matter() -> None:
    one = domain.checked("s", "p", "t", "QA", "test", 100, ["b", "a", "b"])
    other = domain.checked("s", "p", "t", "QA", "test", 100, ["a", "b"])
    assert one == other
    assert domain.fingerprint(one) == domain.fingerprint(other)


def test_every_field_of_a_request_tells_it_from_others() -> None:
    changes = {
        "story_id": "other",
        "plan_id": "other",
        "task_id": "other",
        "role": "QA",
        "phase": "test",
        "token_budget": 99,
        "required": ("dec-1",),
    }
    assert set(changes) == {field.name for field in dataclasses.fields(domain.ContextRequest)}
    prints = {domain.fingerprint(dataclasses.replace(REQUEST, **{name: value})) for name, value in changes.items()}
    assert len(prints | {domain.fingerprint(REQUEST)}) == len(changes) + 1


texts = st.text(max_size=400)
decisions = st.lists(
    st.builds(
        decision,
        name=st.from_regex(r"\A[a-z]{1,6}\Z"),
        content=texts,
        minute=st.integers(0, 3),
        role=st.sampled_from(["DEV", "ARCHITECT"]),
    ),
    max_size=5,
    unique_by=lambda item: item.decision_id,
)


@given(
    budget=st.integers(64, 1500), story=texts, task=texts, requirements=st.lists(texts, max_size=3), all_of=decisions
)
def test_packing_keeps_the_budget_and_the_order_and_says_what_it_left_out(
    budget: int, story: str, task: str, requirements: list[str], all_of: list[domain.Decision]
) -> None:
    required, depended_on, visible = all_of[:2], all_of[2:3], all_of[3:]
    known = facts(
        story=dataclasses.replace(STORY, brief=story),
        task=dataclasses.replace(TASK, description=task, requirements=tuple(requirements)),
        required=tuple(required),
        depended_on=tuple(depended_on),
        visible=tuple(visible),
    )
    try:
        found = domain.hydrated(with_budget(budget), known)
    except Invalid:
        assert budget < 200
        return
    assert found.tokens == sum(block.tokens for block in found.blocks) <= budget
    assert all(block.tokens == domain.tokens(block.title, block.text) for block in found.blocks)
    shown = [block.source_id for block in found.blocks if block.kind == "decision"]
    needed = {item.decision_id for item in required}
    assert set(shown[: len(needed)]) == needed
    assert [block.kind for block in found.blocks[:2]] == ["story", "task"]
    whole = domain.hydrated(with_budget(1_000_000), known)
    full_texts = {(block.source_id, block.title): block.text for block in whole.blocks}
    for block in found.blocks:
        full = full_texts[(block.source_id, block.title)]
        if block.text != full:
            assert block.source_id in found.omitted
            assert block.text.endswith(domain.CUT)
            assert full.startswith(block.text.removesuffix(domain.CUT))
    assert {block.source_id for block in whole.blocks} == {block.source_id for block in found.blocks} | set(
        found.omitted
    )
    again = dataclasses.replace(
        known,
        required=tuple(reversed(required)),
        depended_on=tuple(reversed(depended_on)),
        visible=tuple(visible[::-1]),
    )
    assert domain.hydrated(with_budget(budget), again) == found


def test_the_hash_is_that_of_the_blocks() -> None:
    one, other = domain.hydrated(REQUEST, facts()), domain.hydrated(REQUEST, facts(required=(decision("a"),)))
    assert one.hash == domain.hash_of(one.blocks) != other.hash
    assert len(one.hash) == 64
    assert msgspec.json.decode(msgspec.json.encode(one), type=domain.Context) == one


def test_the_same_write_gives_the_same_update() -> None:
    one = domain.update_of(["b", "a", "b"], 3, "s", "p", "d")
    assert one == domain.update_of(["a", "b"], 3, "s", "p", "d")
    assert one.changed == ["a", "b"]
    others = [
        domain.update_of(["a"], 3, "s", "p", "d"),
        domain.update_of(["a", "b"], 4, "s", "p", "d"),
        domain.update_of(["a", "b"], 3, "s", "p", "e"),
    ]
    assert len({update.message_id() for update in (one, *others)}) == 4


def test_a_plan_with_roles_and_no_tasks_has_one_task_per_role_on_the_story() -> None:
    event = samples.plan_approved("s", "p", [], roles=["DEV", "QA", "DEV"])
    assert [(task.task_id, task.role) for task in tasks_of(event)] == [("dev", "DEV"), ("qa", "QA")]
    [first, _] = tasks_of(event)
    assert (first.title, first.description, first.acceptance) == (
        "Login",
        "Users log in with a password.",
        ["they can log in"],
    )
    assert first.requirements == first.depends_on == []


def test_a_plan_with_tasks_has_just_those() -> None:
    tasks = [samples.task("a"), samples.task("b", depends_on=["a"])]
    assert tasks_of(samples.plan_approved("s", "p", tasks, roles=["QA"])) == tuple(tasks)


@pytest.mark.parametrize(
    ("event", "field"),
    [
        (samples.plan_approved("s", "p", [samples.task("a"), samples.task("a")]), "tasks"),
        (samples.plan_approved("s", "p", [samples.task("a", depends_on=["b"])]), r"tasks\[0\].depends_on"),
        (samples.completed("s", "p", "t", decision_id="dec-other"), "decision_id"),
        (samples.completed("s", "", "t"), "plan_id and story_id"),
        (samples.completed("s", "p", "t", winner="agent-DEV-009"), "winner"),
        (samples.completed("s", "p", "t", ranking=samples.completed("s", "p", "t").ranking * 2), "ranking"),
        (samples.completed("s", "p", "t", dissent=samples.completed("s", "p", "t").dissent * 2), "dissent"),
    ],
)
def test_an_event_that_contradicts_itself_is_invalid(event: object, field: str) -> None:
    with pytest.raises(Invalid, match=f"^{field}"):
        domain.check_event(event)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("story_id", "a b"),
        ("plan_id", "!"),
        ("role", "dev"),
        ("page_size", 501),
        ("page_token", "rubbish"),
        ("page_token", "cnVi"),
        ("query", "word " * 33),
    ],
)
def test_a_wrong_field_of_a_search_is_named(field: str, value: object) -> None:
    good = {"query": "", "story_id": "", "plan_id": "", "role": "", "page_size": 0, "page_token": "", field: value}
    with pytest.raises(Invalid, match=f"^{field} "):
        search.search_of(**good)  # type: ignore[arg-type]
