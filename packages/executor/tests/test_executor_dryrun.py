"""Programs against tests: what passes, what does not, and what only pretends to."""

import asyncio
import sys
import threading
import time
from typing import Any

import pytest

from fleet_executor.dryrun import Outcome, dry_run, run
from fleet_executor.jobs import CodeTest, DryRun
from fleet_executor.sandbox import Sandbox
from fleet_wire import events

SANDBOX = Sandbox(python=sys.executable, seconds=3)
TEST = "assert add(1, 2) == 3\nassert add(-1, 1) == 0"


async def ran(program: str, *tests: str, sandbox: Sandbox = SANDBOX, **more: Any) -> list[events.TestRun]:
    asked = DryRun(
        program=program, tests=[CodeTest(test_id=f"t{number}", code=code) for number, code in enumerate(tests)], **more
    )
    return await dry_run(asked, sandbox, asyncio.Semaphore(2))


async def test_each_test_gets_its_own_outcome_in_their_order() -> None:
    runs = await ran(
        "def add(a, b):\n    return a - b", "assert add(1, 0) == 1", "assert add(1, 2) == 3, 'sum'", "add()"
    )
    assert [(run.test_id, run.status) for run in runs] == [("t0", "passed"), ("t1", "failed"), ("t2", "failed")]
    assert runs[0].detail == "" and runs[1].detail == "AssertionError: sum (line 1 of the test)"
    assert runs[2].detail.startswith("TypeError: add() missing 2")


async def test_a_test_sees_nothing_of_another() -> None:
    leave = "open('/tmp/there', 'w').close()\nimport builtins\nbuiltins.there = 1\nadd.there = 1"
    look = "import os\nassert os.listdir('/tmp') == []\nassert not hasattr(add, 'there')"
    assert [run.status for run in await ran("def add(a, b): return a + b", leave, look, leave, look)] == ["passed"] * 4


async def test_a_program_that_does_not_load_is_run_once_and_fails_every_test() -> None:
    for program, word in (
        ("import time\ntime.sleep(9)", "not done within 0.5 s"),
        ("def add(", "SyntaxError"),
        ("1 / 0", "line 1"),
    ):
        begun = time.monotonic()
        runs = await ran(program, *["assert True"] * 8, seconds=0.5)
        assert {run.status for run in runs} == {"failed"} and len(runs) == 8
        assert all("did not load" in run.detail and word in run.detail for run in runs)
        assert time.monotonic() - begun < 3


async def test_programs_may_use_what_modules_may() -> None:
    program = """
from __future__ import annotations
import dataclasses, functools, typing, pickle

@dataclasses.dataclass
class Point:
    x: typing.ClassVar[int] = 1
    y: int = 2

if __name__ == "__main__":
    raise SystemExit("it was run as a script")
"""
    assert [run.detail for run in await ran(program, "assert pickle.loads(pickle.dumps(Point(3))).y == 3")] == [""]
    assert [run.status for run in await ran("x = 'ä€😀'", "assert len(x) == 3", "import program; program.x")] == [
        "passed"
    ] * 2


GOOD = "def add(a, b): return a + b"
PRETENDERS = {
    "prints a pass": "print('RL'); print('passed'); print('ok')",
    "leaves while it loads": "import sys\nsys.exit(0)",
    "leaves hard while it loads": "import os\nos._exit(0)",
    "leaves in the function": "def add(a, b): raise SystemExit(0)",
    "leaves hard in the function": "import os\ndef add(a, b): os._exit(0)",
    "leaves in a thread": (
        "import os, threading\ndef add(a, b):\n  threading.Thread(target=os._exit, args=(0,)).start()\n  while 1: pass"
    ),
    "leaves at the exit": "import atexit, os\natexit.register(os._exit, 0)\ndef add(a, b): raise SystemExit(0)",
    "catches its own end": "import os\ndef add(a, b):\n  try: return 1\n  finally: os._exit(0)",
    "becomes another program": "import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'pass'])",
    "is killed": "import os\nos.kill(os.getpid(), 9)",
    "crashes": "import ctypes\nctypes.string_at(0)",
    "never ends": "def add(a, b):\n  while True: pass",
    "replaces exec": "import builtins\nbuiltins.exec = lambda *a: None",
    "replaces compile": "import builtins\nbuiltins.compile = lambda *a: (lambda: None).__code__",
    "replaces AssertionError": "import builtins\nbuiltins.AssertionError = Warning\ndef add(a, b): return 9",
    "replaces BaseException": "import builtins\nbuiltins.BaseException = int\ndef add(a, b): return 9",
    "replaces what writes": "import os\nos.write = lambda *a: 0\nos._exit = lambda *a: None\ndef add(a, b): return 9",
    "replaces what reads": "import json\njson.loads = lambda *a: {'test': 'pass', 'word': 'x'}\ndef add(a, b): return 9",
    "replaces abs and all": "import builtins\nbuiltins.all = builtins.any = lambda *a: True\ndef add(a, b): return 9",
    "empties the builtins": "__builtins__ = {}\ndef add(a, b): return 9",
    "replaces the harness": "import sys, types\nsys.modules['__main__'] = types.ModuleType('x')\ndef add(a, b): return 9",
    "patches the harness": "import __main__\n__main__.main = __main__.reason = lambda *a: ''\ndef add(a, b): return 9",
    "swallows exceptions": "import sys\nsys.excepthook = sys.unraisablehook = lambda *a: None\ndef add(a, b): return 9",
    "traces lines away": "import sys\nsys.settrace(lambda *a: None)\ndef add(a, b): return 9",
    "writes to all pipes": "import os\nfor fd in range(3, 20):\n  try: os.write(fd, b'L' + b'0' * 32)\n  except OSError: pass",
    "writes a failure of no words": (
        "import os\nfor fd in range(3, 20):\n  try: os.write(fd, b'L\\n')\n  except OSError: pass\nos._exit(0)"
    ),
    "closes all pipes": "import os\nos.closerange(0, 64)",
    "defines the test": "def check(*a): pass\ndef test_add(): pass\ndef add(a, b): return 9",
}


@pytest.mark.parametrize("program", PRETENDERS.values(), ids=PRETENDERS)
def test_what_only_pretends_has_not_passed(program: str) -> None:
    outcome = run(
        Sandbox(python=sys.executable, seconds=1), f"{GOOD}\n{program}", f"{TEST}\nassert add(2, 2) == 4\nadd(1, 1)"
    )
    good_after_all = program.startswith(
        ("import builtins\nbuiltins.exec", "import builtins\nbuiltins.compile", "print(")
    )
    assert outcome == Outcome(loaded=True) if good_after_all else outcome.failure


@pytest.mark.parametrize(
    "program", [PRETENDERS[name] for name in ("replaces exec", "replaces compile", "replaces abs and all")]
)
def test_builtins_that_are_replaced_do_not_help_a_wrong_program(program: str) -> None:
    wrong = f"{program}\ndef add(a, b): return 9"
    assert "AssertionError" in run(SANDBOX, wrong, "assert all([add(1, 2) == 3, add(2, 2) == 4])").failure


def test_the_word_is_not_to_be_had_before_the_program_has_run() -> None:
    look = (
        "import sys\nframe = sys._getframe()\nwhile frame:\n"
        "  assert 'word' not in frame.f_locals.get('asked', {})\n  frame = frame.f_back"
    )
    assert run(SANDBOX, f"{look}\n{GOOD}", TEST) == Outcome(loaded=True)


def test_large_programs_and_tests_get_through() -> None:
    program, test = "\n".join(f"x{number} = {number}" for number in range(12_000)), "assert x11999 == 11999\n" * 8_000
    assert len(program) > 130_000 and len(test) > 130_000
    assert run(Sandbox(python=sys.executable, seconds=20), program, test) == Outcome(loaded=True)


def test_a_program_that_passes_and_prints_too_much_has_failed() -> None:
    assert run(SANDBOX, GOOD, f"{TEST}\nprint('x' * 100_000)").failure == "printed more than 65536 bytes"
    assert run(SANDBOX, GOOD, f"{TEST}\nprint('x' * 50_000)") == Outcome(loaded=True)


def test_what_went_wrong_is_told_in_a_line_that_fits() -> None:
    failure = run(SANDBOX, "class Odd(Exception):\n  def __str__(self): raise self", "raise Odd").failure
    assert failure == "Odd (line 1 of the test)"
    failure = run(SANDBOX, "", "raise ValueError('x\\n\\t' * 10_000 + '\\ud800')").failure
    assert failure.startswith("ValueError: x x x") and len(failure) <= 500 and "\n" not in failure


def test_a_stop_ends_what_runs() -> None:
    stop, begun = threading.Event(), time.monotonic()
    threading.Timer(0.5, stop.set).start()
    assert run(Sandbox(python=sys.executable, seconds=30), "import time\ntime.sleep(30)", "pass", stop).failure
    assert time.monotonic() - begun < 5


async def test_a_cancelled_dry_run_leaves_nothing_behind() -> None:
    before = threading.active_count()
    task = asyncio.ensure_future(
        ran("import time\ntime.sleep(30)", "pass", sandbox=Sandbox(python=sys.executable, seconds=30))
    )
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(100):
        if threading.active_count() <= before:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("a sandbox still runs")


async def test_where_no_sandbox_can_be_made_nothing_is_run_and_all_say_why() -> None:
    runs = await ran(GOOD, TEST, TEST, sandbox=Sandbox(python="/nowhere/python"))
    assert [run.status for run in runs] == ["not_run", "not_run"]
    assert all("/nowhere/python" in run.detail for run in runs)


async def test_no_more_tests_run_at_once_than_there_are_slots() -> None:
    slots = asyncio.Semaphore(1)
    tests = [CodeTest(test_id=f"t{number}", code="import time\ntime.sleep(0.3)") for number in range(3)]
    begun = time.monotonic()
    runs = await dry_run(DryRun(program="", tests=tests), SANDBOX, slots)
    assert [run.status for run in runs] == ["passed"] * 3
    assert time.monotonic() - begun >= 0.9
