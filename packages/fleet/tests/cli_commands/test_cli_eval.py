"""`fleet eval` against servers of the real protos: what it asks, what it saves, and what it says."""

import asyncio
import json
from pathlib import Path
from typing import Any

import clievents
import cliservers
import msgspec
import pytest
from cliservers import Fleet

from fleet_wire import events
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2 as pb

RIGHT, WRONG = "```python\ndef f(x):\n    return 'right'\n```", "    return 'another'\n"


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "tasks.jsonl"
    lines = [
        {"task_id": f"t/{n}", "prompt": f"def f(x):\n    '''{n}'''\n", "entry_point": "f", "test": "def check(c): pass"}
        for n in range(7)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


@pytest.fixture
def orchestrator(services: cliservers.Services) -> cliservers.Orchestrator:
    """Votes are right, single answers are wrong, and a tournament fails."""

    def decide(request: Any) -> events.Event:
        if request.protocol == "tournament":
            return msgspec.structs.replace(clievents.failed("delib-x"), protocol="tournament")
        content = RIGHT if request.protocol == "vote" else WRONG
        return msgspec.structs.replace(
            clievents.completed("delib-x"),
            protocol=request.protocol,
            decision=events.DecisionText(title="f", content=content, rationale="r"),
            usage=events.Usage(prompt=100 * int(request.numbers["agents"]), completion=10),
            calls=int(request.numbers["agents"]),
        )

    services.orchestrator.decide = decide
    for role in ("DEV", "QA"):
        agents = [pb.Agent(agent_id=f"agent-{role}-{n:03d}") for n in range(1, 4)]
        services.orchestrator.councils[role] = pb.Council(role=role, agents=agents)
    return services.orchestrator


async def run(fleet: Fleet, file: str, *more: str) -> Any:
    return await fleet("eval", file, "--out", str(Path(file).with_name("out.json")), *more)


async def test_protocols_are_compared_at_one_budget_and_the_report_is_saved(
    fleet: Fleet, services: cliservers.Services, orchestrator: cliservers.Orchestrator, file: str
) -> None:
    done = await run(fleet, file, "--protocols", "single,vote,tournament")
    assert done.exit_code == 0, done.output
    asked = orchestrator.calls
    assert len(asked) == 21 and {request.role for request in asked} == {"DEV"}
    assert len({request.budget.tokens for request in asked}) == 1 and asked[0].budget.tokens > 10_000
    assert asked[0].entry_point == "f" and "```python\ndef f(x):" in asked[0].description
    assert {(request.protocol, request.numbers["agents"]) for request in asked} == {
        ("single", 1),
        ("vote", 3),
        ("tournament", 3),
    }
    truths = [request.jobs[0].dry_run for request in services.executor.calls]
    assert len(truths) == 14, "a failed deliberation has nothing to test"
    assert all(truth.tests[0].code == "def check(c): pass\n\ncheck(f)\n" for truth in truths)
    assert any("'''0'''" in truth.program and "return 'another'" in truth.program for truth in truths), "a bare body"
    assert "single         0/7" in done.stdout and "vote-3         7/7" in done.stdout
    assert "vote-3 against single: solves more" in done.stdout
    assert "tournament-3 against single: no difference shown" in done.stdout
    report = json.loads(await asyncio.to_thread(Path(file).with_name("out.json").read_text))
    assert [(row["configuration"], row["solved"]) for row in report["card"]["rows"]] == [
        ("single", 0),
        ("vote-3", 7),
        ("tournament-3", 0),
    ]
    failure = next(one["failure"] for one in report["attempts"] if one["configuration"] == "tournament-3")
    assert failure == "quorum_missed: 0 of 2 answered"
    assert "no difference shown" in await asyncio.to_thread(Path(file).with_name("out.md").read_text)


async def test_it_goes_on_where_it_was_and_another_seed_asks_anew(
    fleet: Fleet, orchestrator: cliservers.Orchestrator, file: str
) -> None:
    options = ("--protocols", "single", "--budget-tokens", "9000")
    assert (await run(fleet, file, *options, "--limit", "2")).exit_code == 0
    first = [request.request_id for request in orchestrator.calls]
    again = await run(fleet, file, *options, "--limit", "2", "--json")
    assert json.loads(again.stdout)["rows"][0]["tasks"] == 2
    assert len(orchestrator.calls) == len(first) == 2
    other = await run(fleet, file, *options, "--limit", "2", "--seed", "5")
    assert other.exit_code == 1 and "holds another evaluation" in other.stderr
    assert (await fleet("eval", file, *options, "--limit", "2", "--seed", "5", "--out", f"{file}.json")).exit_code == 0
    assert not set(first) & {request.request_id for request in orchestrator.calls[2:]}


async def test_without_a_sandbox_nothing_is_asked(
    fleet: Fleet, services: cliservers.Services, orchestrator: cliservers.Orchestrator, file: str
) -> None:
    services.executor.no_sandbox = "user namespaces are switched off"
    done = await run(fleet, file)
    assert done.exit_code == 2 and "user namespaces are switched off" in done.stderr
    assert orchestrator.calls == []


async def test_councils_of_a_stack_that_is_not_ours_are_left_as_they_are(
    fleet: Fleet, orchestrator: cliservers.Orchestrator, file: str
) -> None:
    done = await run(fleet, file, "--protocols", "vote", "--agents", "3,5")
    assert done.exit_code == 1
    assert "the DEV council has 3 agents, and 5 are needed" in done.stderr
    assert "fleet council create DEV --agents 5" in done.stderr
    assert len(orchestrator.councils["DEV"].agents) == 3 and orchestrator.calls == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--protocols", "votes"), "--protocols must be one of auto, single"),
        (("--agents", "three"), "--agents must be numbers with commas"),
        (("--endpoint", "http://127.0.0.1:1"), "--endpoint and --model go together"),
    ],
)
async def test_wrong_usage_is_named(fleet: Fleet, file: str, options: tuple[str, ...], sentence: str) -> None:
    done = await run(fleet, file, *options)
    assert done.exit_code == 2 and sentence in done.stderr
