"""A plan as the answer of a council: what it is asked, in which form it answers, and the tasks in an answer.

The form is a part of what a plan file may say: what a model has no grounds to choose (protocols, numbers, budgets) is left out,
and so are patterns and lengths, which few model servers can keep to. An answer is checked as a plan file is, all the same.
"""

import json
from typing import Any

import msgspec

from fleet.deliberation.plan_rules import MAX_TITLE
from fleet.planfile.checking import checked
from fleet.planfile.shape import Draft, Story, Task
from fleet_wire.asyncapi import tidy
from fleet_wire.errors import Problems
from fleet_wire.events import Role

ROLE: Role = "ARCHITECT"
"""Whose council is asked."""
MAX_DRAFTED = 12
"""Tasks of an answer: more than a person reads before approving is no help."""
MAX_LISTED = 8
"""Requirements, and the like, of one of them: without a bound a small model repeats itself until its tokens are used up."""
MAX_TOKENS = 4096
"""That an agent may write: a plan of a dozen tasks, each in a few sentences."""
FIELDS = ("task_id", "title", "description", "role", "requirements", "acceptance", "depends_on")
ANSWER = "the answer"
"""Stands in the errors where a file's name would."""

_QUESTION = """\
Derive a plan for the story below: the tasks that have to be decided before it is done. Each task goes to a council of one role, \
which works it out on its own: DEV writes code, QA plans tests, ARCHITECT decides structure and contracts, DEVOPS decides how it \
is built, run and watched, DATA decides how data is laid out and moved. A council sees the story, its own task, and what was \
decided in the tasks that this one depends on, and nothing else.

- As few tasks as the story needs, {most} at most; each is one decision that can be checked.
- task_id: a short name of lower-case letters, digits and "-", another one for each task.
- description: what is to be decided, in words that need no other task to be understood.
- requirements: what an answer must deal with. acceptance: how one sees that it is done.
- depends_on: the task_ids whose decisions this task needs; none that is not in the plan, and no circle.
- Each requirement that is listed below the story is met by at least one task.

The team is at the phase "{phase}" of this story.

Story: {title}

{brief}"""


def title(story: Story) -> str:
    """The title of the deliberation."""
    return f"Plan: {story.title}"[:MAX_TITLE]


def question(story: Story) -> str:
    """What is asked; the story's acceptance goes with it as requirements."""
    return _QUESTION.format(most=MAX_DRAFTED, phase=story.phase, title=story.title, brief=story.brief).strip()


def form() -> str:
    """The JSON Schema of an answer."""
    properties = tidy(msgspec.json.schema(Task))["$defs"]["Task"]["properties"]
    task = _object({name: _bare(properties[name]) for name in FIELDS})
    tasks = {"type": "array", "minItems": 1, "maxItems": MAX_DRAFTED, "items": task}
    return json.dumps(_object({"tasks": tasks}), ensure_ascii=False)


def tasks_of(answer: str) -> list[Task]:
    """The tasks in an answer; raises Problems with all that is wrong with it."""
    try:
        data = msgspec.json.decode(answer)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise Problems((f"{ANSWER} is no JSON: {error}",)) from error
    return checked(data, ANSWER, Draft).tasks


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _bare(schema: dict[str, Any]) -> dict[str, Any]:
    """A part of the schema of a plan file, without what only the check keeps to."""
    kept: dict[str, Any] = {key: schema[key] for key in ("type", "description", "enum") if key in schema}
    if "enum" in kept:
        kept["type"] = "string"
    if "items" in schema:
        kept |= {"items": _bare(schema["items"]), "maxItems": MAX_LISTED}
    return kept
