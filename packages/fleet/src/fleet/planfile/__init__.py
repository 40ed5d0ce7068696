"""Plans as people write them: as YAML files, and as Markdown issues. docs/plans.md shows both.

shape.py    what a plan file may say, and the JSON Schema that is made of it
checking.py everything that is wrong with one
source.py   YAML with the place of each value
issue.py    a Markdown issue as a story
reading.py  files, and what planning is told
drafting.py a plan as a council's answer
"""

from fleet.planfile.issue import Issue
from fleet.planfile.reading import (
    MAX_FILE_BYTES,
    TEST_CASES,
    create_story,
    is_issue,
    load,
    load_issue,
    load_story,
    load_test_case,
    parse,
    propose,
    submit,
)
from fleet.planfile.shape import Budget, PlanFile, Story, Task

__all__ = [
    "MAX_FILE_BYTES",
    "TEST_CASES",
    "Budget",
    "Issue",
    "PlanFile",
    "Story",
    "Task",
    "create_story",
    "is_issue",
    "load",
    "load_issue",
    "load_story",
    "load_test_case",
    "parse",
    "propose",
    "submit",
]
