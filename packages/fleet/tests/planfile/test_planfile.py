"""Plan files: what is read, and what each mistake is told."""

import datetime as dt
import re
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fleet import planfile
from fleet.deliberation import plan_rules
from fleet.planning import domain
from fleet_wire.errors import Invalid, NotFound, Problems

STORY = "story: {title: a, brief: b}\n"
TASK = "tasks:\n - {task_id: a, title: x, description: y, role: DEV"
EXAMPLES = Path(__file__).parents[4] / "examples"


def test_a_whole_plan_is_read_as_written() -> None:
    plan = planfile.parse(
        """
story:
  title: Shorten links
  brief: A service.
  acceptance: [same code]
  phase: design
tasks:
  - {task_id: one, title: One, description: First, role: DEV, requirements: [r], acceptance: [a], protocol: tournament}
  - {task_id: two, title: Two, description: Second, role: QA, depends_on: [one], protocol: best_of_n,
     numbers: {testers: 2}, budget: {tokens: 9000, calls: 12, seconds: 30}, entry_point: slugify}
budget: {tokens: 20000}
""",
        "a.yaml",
    )
    assert plan.tasks[1].numbers == {"testers": 2} and plan.tasks[1].entry_point == "slugify"
    assert plan.tasks[1].budget == planfile.Budget(tokens=9000, calls=12, seconds=30)
    assert plan.budget == planfile.Budget(tokens=20000)
    assert plan.story == planfile.Story(
        title="Shorten links", brief="A service.", acceptance=["same code"], phase="design"
    )
    assert plan.tasks[0].requirements == ["r"] and plan.tasks[0].protocol == "tournament"
    assert plan.tasks[1].depends_on == ["one"]


def test_roles_stand_in_for_tasks() -> None:
    assert planfile.parse(STORY + "roles: [DEV, QA]", "a.yaml").roles == ["DEV", "QA"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "a.yaml:1:1: expected keys with values, got nothing"),
        ("- 1", "a.yaml:1:1: expected keys with values, got a list"),
        ("a:\n  b: [", "a.yaml:2:7: "),
        (STORY, "a.yaml:1:1: it has neither tasks nor roles; give one of them"),
        (STORY + TASK + "}\nroles: [DEV]", "a.yaml:4:1: it has both tasks and roles; give one of them"),
        (
            STORY + "roles: [dev]",
            "a.yaml:2:9: roles[0]: unknown value 'dev'; take one of DEV, QA, ARCHITECT, DEVOPS, DATA",
        ),
        (STORY + "roles: [DEV, DEV]", "a.yaml:2:14: roles names DEV more than once"),
        (STORY + TASK + ", rule: DEV}", "a.yaml:3:54: tasks[0]: unknown key `rule`; did you mean `role`?"),
        (
            STORY + TASK + ", depends-on: [q]}",
            "a.yaml:3:54: tasks[0]: unknown key `depends-on`; did you mean `depends_on`?",
        ),
        (STORY + TASK + ", zzz: 1}", "unknown key `zzz`; there are task_id, title, description, role, requirements, "),
        (
            STORY + TASK + ", depends_on: [q]}",
            "a.yaml:3:67: tasks[0].depends_on names 'q', which is no task of this plan",
        ),
        (STORY + TASK + ", depends_on: [q, q]}", "a.yaml:3:70: tasks[0].depends_on names 'q' more than once"),
        (
            STORY + TASK + ", depends_on: [a]}",
            "a.yaml:3:54: tasks wait for each other in a cycle of depends_on: a → a",
        ),
        (
            STORY + TASK + ", protocol: votes}",
            "a.yaml:3:64: tasks[0].protocol must be one of auto, single, vote, best_of_n, ",
        ),
        (
            STORY + TASK + ", protocol: vote, numbers: {testers: 2}}",
            "a.yaml:3:89: tasks[0].numbers of vote must be of agents, ",
        ),
        (STORY + TASK + ", numbers: {Testers: 2}}", "a.yaml:3:73: tasks[0].numbers: a name must match [a-z_]{1,32}"),
        (STORY + TASK + ", numbers: {testers: .inf}}", "tasks[0].numbers.testers must be a number from 0 up"),
        (STORY + TASK + ", numbers: {testers: two}}", "tasks[0].numbers.testers: expected a number, got text"),
        (STORY + TASK + ", budget: {tokens: -1}}", "a.yaml:3:71: tasks[0].budget.tokens: must be 0 or more"),
        (STORY + TASK + ", budget: {token: 1}}", "tasks[0].budget: unknown key `token`; did you mean `tokens`?"),
        (STORY + TASK + ", budget: {tokens: 3000000000}}", "a.yaml:3:62: tasks[0].budget.tokens must be below"),
        (
            STORY + TASK + ", entry_point: a b}",
            "a.yaml:3:67: tasks[0].entry_point must be the name of a Python function",
        ),
        (STORY + "roles: [DEV]\nbudget: {calls: 1.5}", "a.yaml:3:17: budget.calls: expected a whole number"),
        (
            STORY + TASK + "}\n" + TASK[6:] + "}",
            "a.yaml:5:14: tasks[1].task_id: 'a' stands in it more than once, first at tasks[0]",
        ),
        (STORY + TASK.replace("task_id: a", "task_id: a b") + "}", "tasks[0].task_id: must match [A-Za-z0-9_-]{1,64}"),
        (STORY + TASK + ", requirements: [" + "r, " * 51 + "]}", "tasks[0].requirements: must hold at most 50 entries"),
        (STORY + "tasks: [" + "1, " * 65 + "]", "a.yaml:2:8: tasks: must hold at most 64 entries"),
        ("story: {title: '  ', brief: b}\nroles: [DEV]", "a.yaml:1:16: story.title: must not be empty"),
        ("story: {title: " + "x" * 201 + ", brief: b}\nroles: [DEV]", "story.title: must have at most 200 characters"),
        ("story: {title: 3, brief: b}\nroles: [DEV]", "story.title: expected text, got a number (put it in quotes)"),
        ("story: {brief: b}\nroles: [DEV]", "a.yaml:1:8: story: missing key `title`"),
        ("story: {title: a, brief: b, phase: x}\nroles: [DEV]", "take one of design, build, test, operate"),
        ("story: {title: a, title: b}", "a.yaml:1:19: the key 'title' stands here a second time"),
        ("story: &s {title: a, brief: b}\nroles: *s", "a.yaml:2:8: aliases (*name) are not allowed here"),
        ("a: !!python/object/apply:os.system [x]", "a.yaml:1:4: could not determine a constructor"),
        ("b: 1\na: 2020-99-99", "a.yaml:2:4: month must be in 1..12"),
        ("[" * 5000, "a.yaml:1:1: nested too deeply"),
        ("a\nb\x00", "a.yaml:2:2: special characters are not allowed: U+0000"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, sentence: str) -> None:
    with pytest.raises(Problems, match=re.escape(sentence)) as raised:
        planfile.parse(text, "a.yaml")
    assert all(re.match(r"a\.yaml:\d+:\d+: \S", line) for line in raised.value.lines)


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    text = """
story:
  title: 3
  brief: ok
  acept: [x]
tasks:
  - task_id: one
    title: One
    description: d
    role: dev
    depends-on: [two]
  - task_id: two
    title: Two
    title: Second
    description: d
    role: QA
    depends_on: [one, tree]
    protocol: votes
    numbers: {testers: few}
    budget: {tokens: -1}
    entry_point: a b
  - task_id: three
    role: QA
"""
    with pytest.raises(Problems) as raised:
        planfile.parse(text, "p.yaml")
    assert [line.split(" ")[0] for line in raised.value.lines] == [
        "p.yaml:3:10:",
        "p.yaml:5:3:",
        "p.yaml:10:11:",
        "p.yaml:11:5:",
        "p.yaml:14:5:",
        "p.yaml:17:23:",
        "p.yaml:18:15:",
        "p.yaml:19:24:",
        "p.yaml:20:22:",
        "p.yaml:21:18:",
        "p.yaml:22:5:",
        "p.yaml:22:5:",
    ]
    assert "did you mean `three`?" in raised.value.lines[5]
    assert "missing key `description`" in raised.value.lines[10] and "missing key `title`" in raised.value.lines[11]


def test_what_a_file_may_say_planning_takes() -> None:
    """The limits are the same: a file that is read is not refused by a field's length afterwards."""
    full = ["x" * plan_rules.MAX_ITEM] * plan_rules.MAX_ITEMS
    story = planfile.Story(title="x" * plan_rules.MAX_TITLE, brief="x" * plan_rules.MAX_BRIEF, acceptance=full)
    plan = planfile.PlanFile(story=story, roles=["DEV"])
    assert planfile.parse(yaml.safe_dump(msgspec.to_builtins(plan)), "a.yaml") == plan
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    made = domain.new_story("s", story.title, story.brief, story.acceptance, story.phase, "", now)
    assert domain.new_plan("p", made, plan.roles, [], now).roles == ("DEV",)


@given(st.text(max_size=200))
def test_garbage_is_never_more_than_invalid(text: str) -> None:
    with pytest.raises(Invalid):
        planfile.parse(text, "a.yaml")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["DEV", "QA", "build"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*planfile.Task.__struct_fields__, "story", "tasks", "roles", "x"]), inner, max_size=5
        )
    ),
    max_leaves=15,
)


@given(values)
def test_any_yaml_value_is_a_plan_or_invalid(value: object) -> None:
    try:
        plan = planfile.parse(yaml.safe_dump(value), "a.yaml")
    except Invalid as error:
        assert str(error).startswith("a.yaml")
    else:
        assert plan.roles or plan.tasks


def test_a_file_that_is_not_there_or_not_text_is_invalid_by_name(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"none\.yaml cannot be read: No such file"):
        planfile.load(tmp_path / "none.yaml")
    with pytest.raises(Invalid, match="cannot be read"):
        planfile.load(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Invalid, match=r"binary\.yaml:1: not UTF-8 text: byte 0"):
        planfile.load(tmp_path / "binary.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * (planfile.MAX_FILE_BYTES + 1))
    with pytest.raises(Invalid, match="above the limit"):
        planfile.load(tmp_path / "large.yaml")


@pytest.mark.parametrize("name", planfile.TEST_CASES)
def test_every_test_case_loads(name: str) -> None:
    assert planfile.load_test_case(name).tasks


def test_the_test_cases_have_the_promised_shapes() -> None:
    basic, medium, complex_ = (planfile.load_test_case(name).tasks for name in planfile.TEST_CASES)
    assert len(basic) == 2 and basic[1].depends_on == [basic[0].task_id]
    assert len(medium) == 4 and len({task.role for task in medium}) == 4
    assert len(complex_) >= 6 and len({task.role for task in complex_}) == 5
    needs = {task.task_id: set(task.depends_on) for task in complex_}
    assert any(
        needs[one] & needs[other] and {one, other} <= needs[last]
        for last in needs
        for one in needs[last]
        for other in needs[last] - {one}
    ), "a diamond: two tasks that need the same one, and a third that needs both"


def test_an_unknown_test_case_is_told_the_names() -> None:
    with pytest.raises(NotFound, match=r"no test case '\.\./x'; there are basic, medium, complex"):
        planfile.load_test_case("../x")


def test_the_examples_load_and_differ() -> None:
    plans = [planfile.load(path) for path in sorted(EXAMPLES.glob("*.yaml"))]
    assert len(plans) >= 3
    assert len({plan.story.title for plan in plans}) == len(plans)
    assert all(len({task.role for task in plan.tasks} | set(plan.roles)) >= 3 for plan in plans)
