"""What an agent sees, in which order, and how it fits the budget: pure rules."""

import dataclasses
import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import context_samples as samples
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.context import blocks, domain, handlers, packing, tables
from fleet.context.packing import CUT, Context
from fleet.context.tokenizer import ESTIMATE, estimate
from fleet.deliberation.lenses import lens
from fleet.deliberation.prompt import inside
from fleet_wire.errors import Invalid
from fleet_wire.fence import harmless

REQUEST = samples.asked("story-1", "plan-1", "api", "QA", "test", 2000, [])
STORY = domain.Story("story-1", "Login", "Users log in.", ("they can",), "TEST")
TASK = domain.Task("plan-1", "api", "The API", "Write it.", ("hash passwords", "no plain text"), ("tests pass",))
PLAN = domain.Plan(
    "plan-1",
    1,
    "ada",
    (
        domain.PlannedTask("arch", "The shape", "ARCHITECT", (), True),
        domain.PlannedTask("api", "The API", "QA", ("arch",), False),
    ),
)
HEAD = domain.StoryHead("story-1", "born", 7)


def decision(
    name: str, content: str = "Use Argon2.", minute: int = 0, role: str = "DEV", **changes: object
) -> domain.Decision:
    made = domain.Decision(
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
    return msgspec.structs.replace(made, **changes)


def constraint(name: str, content: str = "No new dependency.") -> domain.Decision:
    return decision(name, content, kind="constraint", decided_by="grace", role="", winner="", rationale="")


def milestone(number: int, role: str = "") -> domain.Milestone:
    kind = "orchestration.deliberation.completed" if role else "context.milestone"
    return domain.Milestone(f"e{number}", kind, f"2026-03-01T12:0{number}:00", f"step {number}", role)


def facts(**parts: object) -> domain.Facts:
    return dataclasses.replace(domain.Facts(HEAD, STORY, TASK, PLAN), **parts)


def asked(budget: int = 2000, **changes: object) -> domain.ContextRequest:
    return dataclasses.replace(REQUEST, token_budget=budget, **changes)


def packed(request: domain.ContextRequest, known: domain.Facts, count: Callable[[str], int] = estimate) -> Context:
    packer = packing.packed(request, known, ESTIMATE)
    try:
        wanted = next(packer)
        while True:
            wanted = packer.send([count(text) for text in wanted])
    except StopIteration as done:
        found = done.value
        assert isinstance(found, Context)
        return found


def in_prompt(title: str, text: str) -> str:
    return harmless(inside(title, text)).strip()


FULL = facts(
    required=(decision("late", minute=2), decision("early", minute=1)),
    depended_on=(decision("dep-new", minute=4), decision("dep-old", minute=3), decision("early", minute=1)),
    affecting=(decision("arch-new", minute=9, role="ARCHITECT"), decision("arch-old", minute=8), decision("dep-new")),
    constraints=(constraint("rule"),),
    milestones=(milestone(2), milestone(1)),
)


def test_what_all_roles_share_stands_first_and_the_lens_last() -> None:
    found = packed(REQUEST, FULL)
    assert [(block.kind, block.source_id) for block in found.blocks] == [
        ("task", "plan-1/api"),
        ("story", "story-1"),
        ("plan", "plan-1"),
        ("constraint", "rule"),
        ("decision", "early"),
        ("decision", "late"),
        ("decision", "dep-old"),
        ("decision", "dep-new"),
        ("decision", "arch-new"),
        ("decision", "arch-old"),
        ("milestone", "e2"),
        ("milestone", "e1"),
        ("summary", "plan-1"),
        ("role", "QA"),
    ]
    assert list(dict.fromkeys(block.kind for block in found.blocks)) == list(domain.KINDS)
    assert (found.left_out, found.omitted, found.version, found.tokenizer) == ((), (), 7, ESTIMATE)


def test_roles_with_the_same_scope_share_all_but_the_lens() -> None:
    one, other = packed(asked(role="QA"), FULL), packed(asked(role="DEV", phase="build"), FULL)
    assert one.blocks[:-1] == other.blocks[:-1]
    assert [block.text for block in (one.blocks[-1], other.blocks[-1])] == [lens("QA", "test"), lens("DEV", "build")]


def test_blocks_hold_the_texts() -> None:
    ruled = decision("a", kind="override", decided_by="grace", relies_on_superseded=("dec-old",))
    found = packed(REQUEST, facts(required=(decision("b"), ruled), constraints=(constraint("c"),)))
    texts = {block.title: block.text for block in found.blocks}
    assert texts == {
        "The API": "Write it.\n\nRequirements:\n- hash passwords\n- no plain text\n\nAcceptance:\n- tests pass",
        "Login": "Users log in.\n\nAcceptance:\n- they can",
        "Plan version 1, approved by ada": (
            "Tasks:\n- arch (ARCHITECT): The shape\n- api (QA): The API; after arch; this is the task at hand"
        ),
        "Decision c": "Set by grace.\n\nNo new dependency.",
        "Decision b": "Decided by the DEV council.\n\nUse Argon2.\n\nRationale: Best.",
        "Decision a": (
            "Decided by grace, who overruled what was decided before.\n\n"
            "It was decided on what has since been overruled: dec-old.\n\nUse Argon2.\n\nRationale: Best."
        ),
        "": "The story is in TEST. 1 of the 2 tasks of its plan are decided.",
        "QA, test": lens("QA", "test"),
    }


def test_no_block_holds_a_secret() -> None:
    secret = 'password = "hunter2"'
    told = msgspec.structs.replace(decision("d", f"Use {secret}"), title=secret, rationale=secret)
    known = facts(
        story=domain.Story("story-1", f"Login {secret}", f"Users log in. {secret}", (secret,)),
        task=domain.Task("plan-1", "api", secret, secret, (secret,), (secret,)),
        plan=domain.Plan("plan-1", 1, secret, (domain.PlannedTask("api", secret, "QA", (), False),)),
        required=(told,),
        affecting=(msgspec.structs.replace(told, decision_id="e"),),
        constraints=(msgspec.structs.replace(told, decision_id="f"),),
        milestones=(dataclasses.replace(milestone(1), summary=secret),),
    )
    for budget in (2000, 200):
        found = packed(asked(budget), known)
        assert "hunter" not in str(found)
        assert found.tokens <= budget
    assert 'password = "[redacted:password]"' in str(packed(REQUEST, known))


def test_what_has_no_room_goes_in_the_written_order() -> None:
    whole = packed(asked(100_000), FULL)
    gone: list[str] = []
    for budget in range(whole.tokens, 64, -1):
        try:
            found = packed(asked(budget), FULL)
        except Invalid:
            break
        gone += [item.source_id for item in found.left_out if item.source_id not in gone]
        shown = {(block.kind, block.source_id): block for block in found.blocks}
        cut = any(block.text.endswith(CUT) for block in found.blocks)
        assert not (cut and {block.kind for block in found.blocks} & {"summary", "milestone", "plan", "role"})
        if any(item.kind == "task" for item in found.left_out):
            assert shown["story", "story-1"].text == CUT
    assert gone[0] == "plan-1"  # the summary's source, and the plan's
    order = [item for item in gone if item != "plan-1"]
    assert order == ["e1", "e2", "arch-old", "arch-new", "QA", "story-1", "rule", "plan-1/api", *order[8:]]
    assert set(order[8:]) <= {"early", "late", "dep-old", "dep-new"}
    assert order[8:]


def test_a_decision_that_the_task_depends_on_is_cut_last_in_proportion_and_marked() -> None:
    big, small = decision("big", "b" * 6000), decision("small", "s" * 3000)
    found = packed(asked(1000), facts(required=(big,), depended_on=(small,), affecting=(decision("tiny"),)))
    cut = {block.source_id: block for block in found.blocks if block.kind == "decision"}
    assert set(cut) == {"big", "small"}
    assert all(block.text.endswith(CUT) for block in cut.values())
    assert 1.7 < cut["big"].tokens / cut["small"].tokens < 2.3
    assert {"big", "small", "tiny", "story-1", "plan-1/api"} <= set(found.omitted)
    assert 950 < found.tokens <= 1000
    lost = {item.source_id: item.tokens for item in found.left_out}
    assert lost["big"] == packed(asked(100_000), facts(required=(big,))).blocks[3].tokens - cut["big"].tokens


def test_what_has_no_room_is_named_with_its_tokens() -> None:
    long, short = decision("long", "x" * 3000, minute=5), decision("short", minute=1)
    base = packed(asked(100_000), facts(affecting=(short,))).tokens
    found = packed(asked(base), facts(affecting=(long, short)))
    assert [block.source_id for block in found.blocks if block.kind == "decision"] == ["short"]
    [item] = found.left_out
    assert (item.source_id, item.kind, item.reason, found.omitted) == ("long", "decision", "budget", ("long",))
    assert item.tokens > 1000


def test_what_a_scope_does_not_name_is_not_seen_and_named() -> None:
    scope = domain.Scope(kinds=("task", "decision", "milestone"), depends_on=("DEV",), affects=("ARCHITECT",))
    known = facts(
        required=(decision("dev"), decision("data", role="DATA"), decision("arch", role="ARCHITECT")),
        affecting=(decision("qa", role="QA"), decision("arch", role="ARCHITECT")),
        out_of_scope=("far",),
        constraints=(constraint("rule"),),
        milestones=(milestone(2, "QA"), milestone(1), milestone(3, "ARCHITECT")),
    )
    found = packed(asked(scope=scope), known)
    assert [(block.kind, block.source_id) for block in found.blocks] == [
        ("task", "plan-1/api"),
        ("decision", "dev"),
        ("decision", "arch"),
        ("milestone", "e1"),
        ("milestone", "e3"),
    ]
    assert {(item.kind, item.source_id, item.reason, item.tokens) for item in found.left_out} == {
        (kind, source, "scope", 0)
        for kind, source in (
            *(("story", "story-1"), ("plan", "plan-1"), ("constraint", "rule"), ("decision", "data")),
            *(("decision", "qa"), ("decision", "far"), ("milestone", "e2"), ("summary", "plan-1"), ("role", "QA")),
        )
    }
    assert found.omitted == ()


def test_a_milestone_is_seen_by_who_sees_the_kind_that_it_tells_of() -> None:
    scope = domain.Scope(kinds=("task", "milestone"), affects=("QA",))
    for kind, tells_of in (*domain.TELLS_OF.items(), ("context.override", "constraint"), ("unknown", "")):
        made = domain.Milestone("e1", kind, "", "s", "QA", tells_of=tells_of if kind == "context.override" else "")
        wide = msgspec.structs.replace(scope, kinds=(*scope.kinds, tells_of) if tells_of else domain.KINDS)
        assert blocks.told_in(wide, made) == bool(tells_of)
        assert blocks.told_in(scope, made) == (tells_of == "milestone")
        other = msgspec.structs.replace(wide, affects=())
        assert blocks.told_in(other, made) == (tells_of not in ("decision", ""))


def test_every_event_that_the_memory_records_tells_of_a_kind() -> None:
    recorded = {kind.TYPE for kind in get_args(handlers.Remembered)}
    said = {f"context.{kind}" for kind in ("override", "constraint", "affects", "summary", "milestone")}
    assert set(domain.TELLS_OF) == recorded | said
    assert set(domain.TELLS_OF.values()) <= set(domain.KINDS)


def test_a_superseded_decision_is_named_and_what_overruled_it_stands_in_its_place() -> None:
    ruled = decision("new", kind="override", decided_by="grace")
    found = packed(REQUEST, facts(required=(ruled,), superseded={"old": "new"}))
    assert [block.source_id for block in found.blocks if block.kind == "decision"] == ["new"]
    assert [(item.source_id, item.reason, item.superseded_by) for item in found.left_out] == [
        ("old", "superseded", "new")
    ]


def test_a_budget_below_the_titles_is_invalid_and_says_what_is_needed() -> None:
    task = dataclasses.replace(TASK, title="t" * 300)
    with pytest.raises(Invalid, match=r"^token_budget of 64 .* at least 1\d\d are needed"):
        packed(asked(64), facts(task=task))


def test_what_the_model_is_shown_is_what_is_counted() -> None:
    asked_for: list[str] = []

    def count(text: str) -> int:
        asked_for.append(text)
        return len(text.split())

    found = packed(REQUEST, facts(task=dataclasses.replace(TASK, title="A <|im_end|> B")), count)
    assert asked_for == [in_prompt(block.title, block.text) for block in found.blocks]
    assert "<| im_end" in asked_for[0] or "< |im_end" in asked_for[0]


def test_the_hash_is_that_of_the_blocks() -> None:
    one, other = packed(REQUEST, facts()), packed(REQUEST, facts(required=(decision("a"),)))
    assert one.hash == packing.hash_of(one.blocks) != other.hash
    assert len(one.hash) == 64
    assert msgspec.json.decode(msgspec.json.encode(one), type=Context) == one


def test_the_last_summary_that_was_written_stands_in_the_place_of_the_progress() -> None:
    note = dataclasses.replace(milestone(3), kind=domain.SUMMARIZED, text="All parts but the login are there.")
    [block] = [block for block in packed(REQUEST, facts(summary=note)).blocks if block.kind == "summary"]
    assert (block.source_id, block.text) == ("e3", "2026-03-01 12:03 All parts but the login are there.")


def test_the_docs_show_the_order_and_the_scopes_as_they_are() -> None:
    page = (Path(__file__).parents[4] / "docs/context.md").read_text()
    assert tables.filled(page) == page, "run scripts/generate"


texts = st.text(max_size=400)
decisions = st.lists(
    st.builds(
        decision,
        name=st.from_regex(r"\A[a-z]{1,6}\Z"),
        content=texts,
        minute=st.integers(0, 3),
        role=st.sampled_from(["DEV", "ARCHITECT", "DEVOPS"]),
    ),
    max_size=6,
    unique_by=lambda item: item.decision_id,
)
counters = st.sampled_from(
    [
        estimate,
        lambda text: len(text.encode()),  # as many as a byte-level tokenizer can make
        lambda text: len(text.split()) + len(text) // 7,
        lambda text: sum(ord(character) % 3 for character in text),  # where more text may be fewer tokens
    ]
)


@given(
    budget=st.integers(64, 1500),
    story=texts,
    task=texts,
    requirements=st.lists(texts, max_size=3),
    all_of=decisions,
    count=counters,
)
def test_packing_keeps_the_budget_and_the_order_and_says_what_it_left_out(
    budget: int,
    story: str,
    task: str,
    requirements: list[str],
    all_of: list[domain.Decision],
    count: Callable[[str], int],
) -> None:
    required, depended_on, affecting, constraints = all_of[:2], all_of[2:3], all_of[3:5], all_of[5:]
    known = facts(
        story=dataclasses.replace(STORY, brief=story),
        task=dataclasses.replace(TASK, description=task, requirements=tuple(requirements)),
        required=tuple(required),
        depended_on=tuple(depended_on),
        affecting=tuple(affecting),
        constraints=tuple(constraints),
        milestones=(milestone(2), milestone(1)),
    )
    try:
        found = packed(asked(budget), known, count)
    except Invalid:
        assert budget < 500
        return
    assert found.tokens == sum(block.tokens for block in found.blocks) <= budget
    assert all(block.tokens == count(in_prompt(block.title, block.text)) for block in found.blocks)
    shown = {block.source_id for block in found.blocks if block.kind == "decision"}
    assert {item.decision_id for item in (*required, *depended_on)} <= shown
    assert [block.kind for block in found.blocks] == sorted(
        (block.kind for block in found.blocks), key=domain.KINDS.index
    )
    whole = packed(asked(1_000_000), known, count)
    full_texts = {(block.kind, block.source_id): block.text for block in whole.blocks}
    for block in found.blocks:
        full = full_texts[block.kind, block.source_id]
        if block.text != full:
            assert block.source_id in found.omitted
            assert block.text.endswith(CUT)
            assert full.startswith(block.text.removesuffix(CUT))
    said = {(item.kind, item.source_id) for item in found.left_out}
    assert set(full_texts) <= {(block.kind, block.source_id) for block in found.blocks} | said
    again = dataclasses.replace(
        known,
        required=tuple(reversed(required)),
        depended_on=tuple(reversed(depended_on)),
        affecting=tuple(affecting[::-1]),
    )
    assert packed(asked(budget), again, count) == found
