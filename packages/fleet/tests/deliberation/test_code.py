"""What counts as a code task, which program an answer means, and which cases a tester gave."""

import ast

import msgspec
import pytest
from delibkit import CODE_TASK, TASK
from hypothesis import given
from hypothesis import strategies as st

from fleet.deliberation.code import MAX_CASES, is_code_task, program_of
from fleet.deliberation.code import test_cases as cases_in
from fleet_wire.events import PlanTask

HELPED = msgspec.structs.replace(
    CODE_TASK,
    description=(
        "import math\nfrom typing import List\n\nLIMIT = 10\n\ndef is_prime(n):\n    return n > 1\n\n"
        'def add(a: int, b: int) -> int:\n    """The sum.\n    >>> add(1, 2)\n    3\n    """\n'
    ),
)
NAMELESS = msgspec.structs.replace(TASK, description="Write this:\n```python\ndef twice(x):\n    pass\n```\nSoon.")


@pytest.mark.parametrize(
    ("description", "entry_point", "is_code"),
    [
        ("Write a parser", "", False),
        ("Write a parser", "parse", True),
        ("Write\n```python\nx\n```", "", True),
        ("Write\n```json\n{}\n```", "", False),
        ("def f(x):\n", "", True),
        ("    async def f (x):\n", "", True),
        ("what is a def statement (in Python)?", "", False),
        ("so we def f(x)", "", False),
    ],
)
def test_a_code_task_names_an_entry_point_or_shows_python(description: str, entry_point: str, is_code: bool) -> None:
    assert is_code_task(msgspec.structs.replace(TASK, description=description, entry_point=entry_point)) is is_code


def sums(program: str, name: str = "add") -> int:
    """What the program's function makes of 1 and 2. The programs here are those of this file."""
    space: dict[str, object] = {}
    exec(program, space)
    found = space[name](1, 2)  # type: ignore[operator]
    assert isinstance(found, int)
    return found


@pytest.mark.parametrize(
    "content",
    [
        "```python\ndef add(a, b):\n    return a + b\n```",
        "Here:\n```\ndef add(a, b):\n    return a + b\n```\nIt adds.",
        "```py\nimport operator\n```\nand\n```py\ndef add(a, b):\n    return operator.add(a, b)\n```",
        "```python\ndef add(a, b):\n    return a + b\n```\nUse it:\n```python\nprint(add(1, 'x'))\n```",
        "def add(a, b):\n    return a + b",
        "add = lambda a, b: a + b",
        "    return a + b",
        "return a + b",
        "\n    total = a + b\n    return total\n",
        "total = a + b\n    return total",
        "total = a\ntotal += b\nreturn total",
        "    return a + b\n\nprint(add(1, 'x'))",
        "```python\n    return a + b\n```",
        "```python\nreturn a + b\n```",
        "```python\ndef add(a, b):\n    return a + b",
        "```python\ndef add(a, b) -> List[int]:\n    return a + b if is_prime(LIMIT) else math.inf\n```",
        "```python\nfrom __future__ import annotations\n\ndef add(a, b):\n    return a + b\n```",
        "```bash\npip install x\n```\n```python\ndef add(a, b):\n    return a + b\n```",
    ],
)
def test_the_program_of_an_answer_works(content: str) -> None:
    assert sums(program_of(content, HELPED)) == 3


@pytest.mark.parametrize(
    "content",
    ["", "I cannot do that.", "Yes", "```python\ndef other():\n    pass\n```", "```python\ndef add(:\n```", "(" * 5000],
)
def test_an_answer_without_the_function_is_no_program(content: str) -> None:
    assert program_of(content, HELPED) == ""


def test_a_body_goes_under_a_signature_without_a_docstring_and_replaces_what_held_its_place() -> None:
    assert sums(program_of("return x * 3", NAMELESS).replace("twice(x)", "add(x, y)")) == 3
    assert "pass" not in program_of("    return x * 3", NAMELESS)


def test_without_an_entry_point_all_blocks_are_the_program() -> None:
    text = "```python\nx = 1\n```\n```python\ndef twice(x):\n    return x\n```"
    assert program_of(text, NAMELESS).split("\n")[:2] == ["x = 1", "def twice(x):"]


def test_each_test_function_and_each_assertion_is_a_case_with_what_stands_before_it() -> None:
    content = """Tests:
```python
import math
from solution import add
import pytest

DATA = [1, 2]

def add(a, b):
    return 3

def helper(x):
    return add(x, x)

def test_one():
    assert helper(1) == 2

def test_arguments(fixture):
    pass

async def test_later():
    pass

assert add(1, 2) == 3

class TestIt:
    def test_two(self):
        pass

def test_three(x=DATA):
    assert math.inf > add(*x)
```"""
    cases = cases_in(content, CODE_TASK)
    assert len(cases) == 3
    assert cases[0].endswith("test_one()\n")
    assert cases[1].endswith("assert add(1, 2) == 3\n")
    for case in cases:
        ast.parse(case)
        assert "import math" in case and "DATA = [1, 2]" in case and "def helper" in case
        assert "solution" not in case and "pytest" not in case and "return 3" not in case
    assert "test_one" not in cases[1] and "test_one" not in cases[2]


def test_a_case_runs_against_a_program() -> None:
    program = program_of("return a + b", HELPED)
    for case in cases_in("```python\ndef test_sum():\n    assert add(1, 2) == 3\n```", HELPED):
        exec(program + case, {})
        with pytest.raises(AssertionError):
            exec(program.replace("a + b", "a - b") + case, {})


@pytest.mark.parametrize(
    "content", ["", "no tests", "```python\nassert (\n```", "```json\n{}\n```", "def add(a, b): return 3"]
)
def test_what_holds_no_case_gives_none(content: str) -> None:
    assert cases_in(content, CODE_TASK) == []


def test_one_tester_gives_a_bounded_number_of_bounded_cases() -> None:
    many = "\n".join(f"assert add({n}, 1) == {n + 1}" for n in range(30))
    assert len(cases_in(many, CODE_TASK)) == MAX_CASES
    assert cases_in(f"assert add(1, 2) == 3, '{'x' * 5000}'", CODE_TASK) == []


PIECES = st.sampled_from(
    [
        "```python\n",
        "```\n",
        "def add(a, b):\n",
        "    return a\n",
        "assert ",
        "def test_x():\n",
        "import os\n",
        '"""',
        "(",
        "\0",
        "\ud800",
    ]
)


@given(
    st.lists(st.one_of(PIECES, st.text(max_size=5)), max_size=12).map("".join),
    st.sampled_from([HELPED, NAMELESS, TASK]),
)
def test_no_answer_breaks_the_reading_of_it(content: str, task: PlanTask) -> None:
    program = program_of(content, task)
    if program:
        ast.parse(program)
    for case in cases_in(content, task):
        ast.parse(case)


@given(st.text(alphabet="def add(:\n `python\"'x", max_size=60))
def test_no_description_breaks_the_reading_of_an_answer(description: str) -> None:
    task = msgspec.structs.replace(TASK, description=description)
    is_code_task(task)
    program_of("    return 1", task)
    cases_in("assert x", task)
