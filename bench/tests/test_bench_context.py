"""A small run of `make bench-context`: every figure is there, and what was measured is what is said."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bench.context import budget, corpus, report

REPOSITORY = Path(__file__).parents[2]


def test_a_small_run_measures_every_figure_on_the_memory_that_it_names(tmp_path: Path) -> None:
    stories = 2
    command = [
        sys.executable,
        "-m",
        "bench.context",
        "--quick",
        "--stories",
        str(stories),
        "--json",
        "--only",
        "embedded",
    ]
    command += ["--out", str(tmp_path)]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=280, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    row = found["stores"]["embedded"]
    decisions = stories * budget.PLANS * budget.TASKS
    assert row["nodes"]["Story"] == stories
    assert row["nodes"]["Decision"] == decisions
    assert row["nodes"]["Proposal"] == decisions * corpus.PROPOSALS
    for key in report.AIMS:
        assert row[key]["samples"] > 0 < row[key]["p95_ms"], key
    for key in report.LOADS:
        assert row[key]["rate"] > 0, key
    assert {"context", "graph", "Valkey", "NATS"} <= set(row["rss_mib"])
    [saved] = tmp_path.glob("*.md")
    assert saved.read_text() == report.markdown(found)


def test_no_two_requests_are_the_same() -> None:
    every = corpus.requests(1)
    asked = [next(every).SerializeToString() for _ in range(3 * budget.PLANS * budget.TASKS)]
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize("task", ["0", "1", "9", *corpus.OPEN])
def test_what_a_decision_rests_on_is_decided_before_it(task: str) -> None:
    decided = [corpus.decision_id(0, 0, str(number)) for number in range(budget.TASKS)]
    based_on = corpus.decided(0, 0, task).based_on
    assert set(based_on) <= set(decided[: int(task) if task.isdigit() else budget.TASKS])
