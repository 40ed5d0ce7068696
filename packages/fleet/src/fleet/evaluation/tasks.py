"""Task files: one JSON object a line, in the form of HumanEval (Chen et al. 2021).

    {"task_id": "slugs", "prompt": "def slugify(title: str) -> str:\\n    \\"\\"\\"…\\"\\"\\"\\n", "entry_point": "slugify",
     "test": "def check(candidate):\\n    assert candidate('A b') == 'a-b'\\n"}

`prompt` is a function's signature with its docstring, perhaps after imports and helpers; `test` defines `check(candidate)`.
Other keys, such as `canonical_solution`, are not read by `load`.
"""

import ast
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from fleet.planmessages import check_entry_point
from fleet_wire import ids
from fleet_wire.errors import Invalid

MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_TASKS = 10_000

Text = Annotated[str, Meta(min_length=1)]


class Task(Struct, frozen=True, kw_only=True):
    """One task. `task_id` may hold anything (HumanEval's has a slash)."""

    task_id: Text
    prompt: Text
    entry_point: Text
    test: Text

    @property
    def description(self) -> str:
        """What a council is asked: the prompt in a fenced block, so that it is taken as code and stays as it is."""
        fence = "```"
        while fence in self.prompt:
            fence += "`"
        return (
            f"Complete the Python function `{self.entry_point}`. Answer with the whole function in one fenced block.\n\n"
            f"{fence}python\n{self.prompt.rstrip()}\n{fence}\n"
        )

    @property
    def truth(self) -> str:
        """What a right program lets pass when it is run after it."""
        return f"{self.test.rstrip()}\n\ncheck({self.entry_point})\n"

    @property
    def fingerprint(self) -> str:
        """The same for the same task, whatever the file."""
        return ids.derived("task", self.task_id, self.prompt, self.entry_point, self.test)


def load(path: Path, limit: int = 0) -> tuple[Task, ...]:
    """The tasks of a file, at most `limit` of them (0: all). Raises Invalid naming the file, the line, and what is wrong."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise Invalid(f"{path} is above the limit of {MAX_FILE_BYTES} bytes for a task file")
        body = path.read_bytes()
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror or error}") from error
    tasks: list[Task] = []
    for number, line in enumerate(body.splitlines(), start=1):
        if line.strip() and not (limit and len(tasks) >= limit):
            tasks.append(_task(line, f"{path}, line {number}"))
    if not tasks:
        raise Invalid(f"{path} holds no task")
    if len(tasks) > MAX_TASKS:
        raise Invalid(f"{path} holds {len(tasks)} tasks, above the limit of {MAX_TASKS}; take --limit")
    names = [task.task_id for task in tasks]
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise Invalid(f"{path}: the task_id {twice[:80]!r} stands in it more than once")
    return tuple(tasks)


def _task(line: bytes, where: str) -> Task:
    try:
        task = msgspec.json.decode(line, type=Task)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{where}: {error}") from error
    try:
        check_entry_point("entry_point", task.entry_point)
        defined = {node.name for node in ast.parse(task.test).body if isinstance(node, ast.FunctionDef)}
    except Invalid as error:
        raise Invalid(f"{where}: {error}") from error
    except (SyntaxError, ValueError, RecursionError) as error:
        raise Invalid(f"{where}: test is not Python: {error}") from error
    if "check" not in defined:
        raise Invalid(f"{where}: test defines no function check(candidate)")
    return task
