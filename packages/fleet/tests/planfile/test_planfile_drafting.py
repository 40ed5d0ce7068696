"""A plan as an answer: the form that is asked for, and what is said of an answer that is no plan."""

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet import planfile
from fleet.planfile import drafting
from fleet_wire import ids
from fleet_wire.errors import Problems

STORY = planfile.Story(title="Links", brief="Shorten\nlinks", acceptance=["same code"], phase="design")
TASK = {
    "task_id": "one",
    "title": "One",
    "description": "First",
    "role": "DEV",
    "requirements": ["r"],
    "acceptance": [],
    "depends_on": [],
}


def answer(*tasks: object) -> str:
    return json.dumps({"tasks": list(tasks)})


def test_an_answer_of_the_form_is_read_as_the_tasks_of_a_plan() -> None:
    text = answer(TASK, {**TASK, "task_id": "two", "role": "QA", "depends_on": ["one"]})
    jsonschema.Draft202012Validator(json.loads(drafting.form())).validate(json.loads(text))
    first, second = drafting.tasks_of(text)
    assert first == planfile.Task(task_id="one", title="One", description="First", role="DEV", requirements=["r"])
    assert (second.role, second.depends_on) == ("QA", ["one"])


def test_the_form_is_one_that_model_servers_can_keep_to() -> None:
    form = json.loads(drafting.form())
    jsonschema.Draft202012Validator.check_schema(form)
    task = form["properties"]["tasks"]["items"]
    assert task["required"] == list(task["properties"]) == list(TASK) and task["additionalProperties"] is False
    assert sorted(task["properties"]["role"]["enum"]) == sorted(ids.ROLES)
    lists = [one for one in task["properties"].values() if one["type"] == "array"]
    assert len(lists) == 3 and all(one["maxItems"] == drafting.MAX_LISTED for one in lists)
    assert not any(word in drafting.form() for word in ("pattern", "maxLength", "$ref", "default"))


def test_the_question_holds_the_story() -> None:
    asked = drafting.question(STORY)
    assert asked.endswith('phase "design" of this story.\n\nStory: Links\n\nShorten\nlinks')
    assert drafting.title(planfile.Story(title="x" * 200, brief="b")) == "Plan: " + "x" * 194


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("Here is the plan:", ["the answer is no JSON: "]),
        ('{"tasks": [{"task_id": "on', ["the answer is no JSON: Input data was truncated"]),
        ("[]", ["the answer: expected keys with values, got a list"]),
        ("{}", ["the answer: missing key `tasks`"]),
        (answer(), ["the answer: it has no tasks"]),
        ('{"tasks": [], "story": {}}', ["unknown key `story`", "it has no tasks"]),
        (
            answer({**TASK, "role": "CHEF", "depends_on": ["two"]}, {**TASK, "title": " "}),
            [
                "the answer: tasks[0].role: unknown value 'CHEF'; take one of DEV, QA, ",
                "the answer: tasks[1].title: must not be empty",
                "the answer: tasks[1].task_id: 'one' stands in it more than once",
                "the answer: tasks[0].depends_on names 'two', which is no task of this plan",
            ],
        ),
        (answer({**TASK, "depends_on": ["one"]}), ["cycle of depends_on: one → one"]),
    ],
)
def test_all_that_is_wrong_with_an_answer_is_said(text: str, lines: list[str]) -> None:
    with pytest.raises(Problems) as raised:
        drafting.tasks_of(text)
    assert len(raised.value.lines) == len(lines), raised.value.lines
    for told, sentence in zip(raised.value.lines, lines, strict=True):
        assert sentence in told


@given(st.text(max_size=80) | st.recursive(st.none() | st.text(max_size=3), st.lists).map(json.dumps))
def test_whatever_a_model_writes_is_a_plan_or_a_list_of_problems(text: str) -> None:
    with pytest.raises(Problems):
        drafting.tasks_of(text)
