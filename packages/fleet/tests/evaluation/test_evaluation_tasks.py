"""Task files, and the one that comes with the project: its right answers pass, and wrong ones do not."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation_answers import ANSWERS

from fleet.deliberation.code import is_code_task, program_of
from fleet.evaluation import tasks
from fleet.evaluation.running import plan_task
from fleet_wire.errors import Invalid

FILE = Path(__file__).parents[4] / "examples" / "eval-tasks.jsonl"
TASKS = {task.task_id: task for task in tasks.load(FILE)}
GOOD = {"task_id": "a/1", "prompt": "def f(x):\n", "entry_point": "f", "test": "def check(candidate):\n    pass\n"}


def passes(program: str, truth: str, tmp_path: Path) -> bool:
    """Runs our own code only: what a model wrote is run in the sandbox and nowhere else."""
    (tmp_path / "program.py").write_text(f"{program}\n{truth}")
    ran = subprocess.run([sys.executable, "-I", tmp_path / "program.py"], capture_output=True, timeout=30, check=False)
    return ran.returncode == 0


def test_every_task_that_comes_with_the_project_has_a_right_answer() -> None:
    assert list(TASKS) == list(ANSWERS) and len(TASKS) >= 10


@pytest.mark.parametrize("name", TASKS)
def test_a_right_answer_passes_as_a_block_and_a_wrong_one_fails(name: str, tmp_path: Path) -> None:
    task = TASKS[name]
    assert is_code_task(plan_task(task))
    answer = f"Here it is:\n\n```python\n{ANSWERS[name].strip()}\n```\n"
    assert passes(program_of(answer, plan_task(task)), task.truth, tmp_path)
    nothing = f"```python\ndef {task.entry_point}(*args, **more):\n    return None\n```"
    assert not passes(program_of(nothing, plan_task(task)), task.truth, tmp_path)


@pytest.mark.parametrize("name", ["fleet/merge_ranges", "fleet/longest_streak", "fleet/redact"])
def test_a_bare_function_body_is_an_answer_too(name: str, tmp_path: Path) -> None:
    task = TASKS[name]
    _, _, body = ANSWERS[name].partition(f"def {task.entry_point}(")
    imports = "    from datetime import timedelta\n" if "timedelta" in ANSWERS[name] else ""
    bare = imports + body.split("\n", 1)[1]
    assert passes(program_of(bare, plan_task(task)), task.truth, tmp_path)


def test_a_task_is_asked_for_in_a_block_that_it_cannot_close() -> None:
    task = tasks.Task(
        task_id="a", prompt='def f():\n    """Not ``` this."""\n', entry_point="f", test="def check(c): pass"
    )
    assert "\n````python\ndef f():" in task.description and task.description.endswith("````\n")
    assert task.truth == "def check(c): pass\n\ncheck(f)\n"


def test_a_limit_takes_the_first_and_blank_lines_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    lines = [json.dumps({**GOOD, "task_id": f"a/{n}", "canonical_solution": "    return x\n"}) for n in range(3)]
    path.write_text("\n" + "\n\n".join(lines) + "\n")
    assert [task.task_id for task in tasks.load(path)] == ["a/0", "a/1", "a/2"]
    assert [task.task_id for task in tasks.load(path, 2)] == ["a/0", "a/1"]
    assert tasks.load(path)[0].fingerprint != tasks.load(path)[1].fingerprint


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"prompt": ""}, "line 1: Expected `str` of length >= 1"),
        ({"entry_point": "a b"}, "line 1: entry_point must be the name of a Python function"),
        ({"test": "def check(candidate) pass"}, "line 1: test is not Python"),
        ({"test": "assert True"}, "line 1: test defines no function check(candidate)"),
    ],
)
def test_a_wrong_task_is_named_with_its_line(tmp_path: Path, change: dict[str, str], sentence: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(Invalid, match=re.escape(sentence)):
        tasks.load(path)


def test_a_file_without_tasks_or_with_one_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("\n")
    with pytest.raises(Invalid, match="holds no task"):
        tasks.load(path)
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD))
    with pytest.raises(Invalid, match="'a/1' stands in it more than once"):
        tasks.load(path)
    path.write_text("{")
    with pytest.raises(Invalid, match="line 1: Input data was truncated"):
        tasks.load(path)
    with pytest.raises(Invalid, match="cannot be read"):
        tasks.load(tmp_path / "none")
