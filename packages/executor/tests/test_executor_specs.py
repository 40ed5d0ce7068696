"""What a request may say of structured answers, checks and dry runs, and what it is refused for."""

import json
from collections.abc import Callable

import pytest

from fleet_executor.jobs import CheckList, CodeTest, DryRun
from fleet_executor.specs import spec_of
from fleet_wire.errors import Invalid
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2 as pb

SCHEMA = json.dumps({"type": "object", "properties": {"winner": {"enum": ["first", "second", "tie"]}}})
Spoil = Callable[[pb.Job], object]


def named(**fields: object) -> pb.Job:
    return pb.Job(job_id="job-1", agent_id="agent-DEV-001", role="DEV", phase="propose", **fields)  # type: ignore[arg-type]


def question() -> pb.Job:
    return named(
        messages=[pb.Message(role="user", content="go")],
        max_tokens=10,
        temperature=1,
        response_schema=SCHEMA,
        checks=pb.Checks(names=["parse", "policy"], requirements=["a"], policy='{"secrets": true}'),
    )


def dry() -> pb.Job:
    tests = [pb.Test(test_id=f"t{number}", code="assert x") for number in range(2)]
    return named(dry_run=pb.DryRun(program="x = 1", tests=tests, seconds=5))


def test_a_question_comes_with_its_schema_and_checks() -> None:
    spec = spec_of("jobs[0]", question())
    assert spec.response_schema == SCHEMA and spec.dry_run is None
    assert spec.checks == CheckList(names=["parse", "policy"], requirements=["a"], policy='{"secrets": true}')


def test_a_dry_run_needs_nothing_of_what_a_question_needs() -> None:
    spec = spec_of("jobs[0]", dry())
    tests = [CodeTest(test_id="t0", code="assert x"), CodeTest(test_id="t1", code="assert x")]
    assert spec.dry_run == DryRun(program="x = 1", tests=tests, seconds=5)
    assert spec.messages == [] and spec.checks is None


BAD_QUESTIONS: list[tuple[str, Spoil]] = [
    ("messages must hold", lambda job: job.ClearField("messages")),
    ("response_schema is no JSON", lambda job: setattr(job, "response_schema", "{")),
    ("response_schema must be an object", lambda job: setattr(job, "response_schema", "[]")),
    ('response_schema must have "type": "object"', lambda job: setattr(job, "response_schema", '{"type": "string"}')),
    ("response_schema is no JSON Schema", lambda job: setattr(job, "response_schema", '{"type": "thing"}')),
    ("response_schema has", lambda job: setattr(job, "response_schema", SCHEMA + " " * 40_000)),
    (
        "response_schema must hold no $ref",
        lambda job: setattr(job, "response_schema", '{"type": "object", "$ref": "http://127.0.0.1/x"}'),
    ),
    ("checks.names[1] must be one of", lambda job: job.checks.names.__setitem__(1, "vibes")),
    ("checks.requirements must hold at most", lambda job: job.checks.requirements.extend(["a"] * 100)),
    ("checks.policy is no policy", lambda job: setattr(job.checks, "policy", '{"wanted": []}')),
    (
        "checks.policy has a pattern",
        lambda job: setattr(job.checks, "policy", '{"required": [{"name": "x", "pattern": "("}]}'),
    ),
]
BAD_RUNS: list[tuple[str, Spoil]] = [
    ("messages must be empty", lambda job: job.messages.add(role="user", content="x")),
    ("response_schema must be empty", lambda job: setattr(job, "response_schema", SCHEMA)),
    ("checks must be empty", lambda job: job.checks.names.append("parse")),
    ("dry_run.program is empty", lambda job: setattr(job.dry_run, "program", " ")),
    ("dry_run.tests must hold", lambda job: job.dry_run.ClearField("tests")),
    ("dry_run.tests must hold", lambda job: job.dry_run.tests.extend([pb.Test(test_id="x", code="x")] * 255)),
    ("dry_run.tests[1].test_id must", lambda job: setattr(job.dry_run.tests[1], "test_id", "a b")),
    ("dry_run.tests[1].test_id repeats", lambda job: setattr(job.dry_run.tests[1], "test_id", "t0")),
    ("dry_run.tests[1].code is empty", lambda job: setattr(job.dry_run.tests[1], "code", "")),
    ("dry_run.seconds", lambda job: setattr(job.dry_run, "seconds", 61)),
    ("dry_run.seconds", lambda job: setattr(job.dry_run, "seconds", float("nan"))),
]


@pytest.mark.parametrize(("field", "spoil"), BAD_QUESTIONS, ids=[field for field, _ in BAD_QUESTIONS])
def test_a_bad_question_is_refused_by_the_name_of_its_field(field: str, spoil: Spoil) -> None:
    job = question()
    spoil(job)
    with pytest.raises(Invalid) as caught:
        spec_of("jobs[3]", job)
    assert str(caught.value).startswith(f"jobs[3].{field}")


@pytest.mark.parametrize(("field", "spoil"), BAD_RUNS, ids=[f"{n}-{field}" for n, (field, _) in enumerate(BAD_RUNS)])
def test_a_bad_dry_run_is_refused_by_the_name_of_its_field(field: str, spoil: Spoil) -> None:
    job = dry()
    spoil(job)
    with pytest.raises(Invalid) as caught:
        spec_of("jobs[3]", job)
    assert str(caught.value).startswith(f"jobs[3].{field}")
