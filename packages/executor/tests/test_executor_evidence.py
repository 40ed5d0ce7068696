"""What an actor brings with an answer: its form, its checks, what it cost; and what a dry run found. On a real NATS, a scripted
model, and in real sandboxes."""

import asyncio
import datetime as dt
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest
from integration import drained
from samples import open_job, spec
from scripted_model import TAIL, ScriptedModel, piece

from fleet_executor.config import WorkerConfig
from fleet_executor.jobs import CheckList, CodeTest, DryRun, OpenJob
from fleet_executor.registry import Registry
from fleet_executor.structured import wrong
from fleet_executor.worker import VLLMAgentJob
from fleet_wire import clock, events, ids
from fleet_wire.bus import Bus

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"reason": {"type": "string"}, "winner": {"enum": ["first", "second", "tie"]}},
        "required": ["reason", "winner"],
        "additionalProperties": False,
    }
)
GOOD = '{"reason": "tested", "winner": "first"}'
USED = events.Usage(prompt=12, completion=3, cached=8)


def said(text: str) -> list[Any]:
    return [piece(text), *TAIL]


@pytest.fixture(scope="module")
def nats_url(quiet_nats_url: str) -> str:
    return quiet_nats_url


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    server = ScriptedModel()
    yield server
    server.close()


@pytest.fixture
async def actor(nats_url: str, model: ScriptedModel) -> AsyncIterator[VLLMAgentJob]:
    config = WorkerConfig(nats_url=nats_url, vllm_url=model.url, first_token_seconds=2, idle_seconds=1, attempts=2)
    made = VLLMAgentJob("pool-0", msgspec.json.encode(config))
    yield made
    await made.close()


async def result_of(actor: VLLMAgentJob, bus: Bus, deadline_seconds: float = 60, **asked: Any) -> events.AgentResult:
    name = ids.derived("delib", time.monotonic_ns())
    now = clock.now()
    job: OpenJob = open_job(
        now=now,
        spec=spec(job_id=f"job-{name}", **asked),
        deliberation_id=name,
        task_id=f"task-{name}",
        deadline=now + dt.timedelta(seconds=deadline_seconds),
    )
    await Registry.on(bus).accept([job])
    assert await actor.accept(msgspec.json.encode([job])) == ""
    for _ in range(400):
        if not msgspec.json.decode(await actor.survey(None))["held"]:
            break
        await asyncio.sleep(0.05)
    [result] = await drained(bus, f"agent.results.{job.task_id}", "AGENT_RESULTS", 0, 0.4)
    assert isinstance(result, events.AgentResult)
    return result


async def test_an_answer_of_the_form_asked_for_is_asked_for_once(
    actor: VLLMAgentJob, bus: Bus, model: ScriptedModel
) -> None:
    model.script[:] = [said(GOOD)]
    result = await result_of(actor, bus, response_schema=SCHEMA)
    assert (result.status, result.content, result.calls, result.usage) == ("completed", GOOD, 1, USED)
    [asked] = model.asked
    assert asked["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": json.loads(SCHEMA), "strict": True},
    }


async def test_one_that_is_not_is_repaired_once_and_paid_for_twice(
    actor: VLLMAgentJob, bus: Bus, model: ScriptedModel
) -> None:
    bad = '{"reason": "<|im_end|>", "winner": "<|im_start|>third"}'
    model.script[:] = [said(bad), said(GOOD)]
    result = await result_of(actor, bus, response_schema=SCHEMA)
    assert (result.status, result.content, result.calls, result.usage) == ("completed", GOOD, 2, USED + USED)
    first, second = (asked["messages"] for asked in model.asked)
    assert second[: len(first)] == first
    assert second[-2] == {"role": "assistant", "content": '{"reason": "< |im_end| >", "winner": "< |im_start| >third"}'}
    fence, problem, _, order = second[-1]["content"].split("\n", 3)
    assert fence.startswith("--- ") and "winner" in problem and "third" in problem and "<|" not in problem
    assert "JSON only" in order and "third" not in order
    assert "response_format" in model.asked[1]


@pytest.mark.parametrize(
    ("script", "kept", "word", "calls"),
    [
        (["no JSON", "still none"], "still none", "no JSON", 2),
        ([GOOD[:-9], '{"reason": "x"}'], '{"reason": "x"}', "'winner' is a required property", 2),
        (["no JSON", 400], "no JSON", "answered 400", 1),
    ],
)
async def test_one_that_stays_so_fails_as_schema_with_its_text(
    script: list[Any], kept: str, word: str, calls: int, actor: VLLMAgentJob, bus: Bus, model: ScriptedModel
) -> None:
    model.script[:] = [said(step) if isinstance(step, str) else step for step in script]
    result = await result_of(actor, bus, response_schema=SCHEMA)
    assert result.status == "failed" and result.content == kept and result.calls == calls and not result.content_cut
    assert result.error is not None and (result.error.kind, result.error.retryable) == ("schema", False)
    assert word in result.error.message
    assert result.usage == (USED if 400 in script else USED + USED) and result.model == "scripted"


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (GOOD, ""),
        (f"```json\n{GOOD}\n```", "no JSON"),
        ("[" * 50_000, ""),
        ('{"reason": NaN, "winner": "tie"}', "NaN"),
        ('{"reason": "x", "winner": "third"}', "$.winner"),
        ('{"reason": "x", "winner": "tie", "more": 1}', "more"),
        ("[]", "not of type 'object'"),
    ],
)
def test_what_is_wrong_with_an_answer_is_said_in_a_sentence(answer: str, word: str) -> None:
    problem = wrong(SCHEMA, answer)
    assert bool(problem) == (answer != GOOD)
    assert word in problem and len(problem) < 500


async def test_calls_count_what_the_model_answered_also_of_a_job_that_fails(
    actor: VLLMAgentJob, bus: Bus, model: ScriptedModel
) -> None:
    assert (await result_of(actor, bus)).calls == 1
    model.script[:] = [503, said("yes")]
    assert (await result_of(actor, bus)).calls == 1
    model.script[:] = [503, 503]
    failed = await result_of(actor, bus)
    assert (failed.status, failed.calls) == ("failed", 0)
    model.script[:] = [[piece("a"), 30, *TAIL]]
    late = await result_of(actor, bus, deadline_seconds=0.5)
    assert late.error is not None and (late.error.kind, late.calls) == ("deadline", 1)


async def test_an_answer_comes_with_its_checks(actor: VLLMAgentJob, bus: Bus, model: ScriptedModel) -> None:
    model.script[:] = [said("```python\nimport os\ndef add(a, b):\n    return a + b\n```\nIt adds.")]
    names = ["parse", "lint", "policy", "requirements"]
    asked = CheckList(names=names, requirements=["adds numbers"], policy='{"max_bytes": 5}')
    result = await result_of(actor, bus, checks=asked)
    assert [(check.name, check.status) for check in result.checks] == [
        ("parse", "passed"),
        ("lint", "failed"),
        ("policy", "failed"),
        ("requirements", "passed"),
    ]
    assert (await result_of(actor, bus)).checks == []


async def test_a_dry_run_brings_runs_and_asks_no_model(actor: VLLMAgentJob, bus: Bus, model: ScriptedModel) -> None:
    program = "def add(a, b):\n    return a + b"
    tests = [
        CodeTest(test_id="good", code="assert add(1, 2) == 3"),
        CodeTest(test_id="bad", code="assert add(1, 2) == 4"),
    ]
    result = await result_of(actor, bus, messages=[], dry_run=DryRun(program=program, tests=tests))
    assert (result.status, result.content, result.calls, result.error) == ("completed", "", 0, None)
    assert [(run.test_id, run.status) for run in result.runs] == [("good", "passed"), ("bad", "failed")]
    assert model.asked == []


async def test_without_a_sandbox_a_dry_run_completes_with_what_was_not_run(
    nats_url: str, bus: Bus, model: ScriptedModel
) -> None:
    config = WorkerConfig(nats_url=nats_url, vllm_url=model.url, sandbox_python="/nowhere/python")
    actor = VLLMAgentJob("pool-0", msgspec.json.encode(config))
    try:
        asked = DryRun(program="x = 1", tests=[CodeTest(test_id="one", code="assert x")])
        result = await result_of(actor, bus, messages=[], dry_run=asked)
    finally:
        await actor.close()
    assert result.status == "completed"
    assert [(run.status, "/nowhere/python" in run.detail) for run in result.runs] == [("not_run", True)]


async def test_a_dry_run_past_its_deadline_is_killed(actor: VLLMAgentJob, bus: Bus) -> None:
    asked = DryRun(program="import time", tests=[CodeTest(test_id="one", code="time.sleep(60)")], seconds=60)
    begun = time.monotonic()
    result = await result_of(actor, bus, deadline_seconds=1, messages=[], dry_run=asked)
    assert result.error is not None and result.error.kind == "deadline"
    assert time.monotonic() - begun < 10
