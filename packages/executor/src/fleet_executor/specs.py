"""What a request asks of one agent, checked field by field; what is wrong is named as the caller wrote it."""

from typing import Any

from fleet_executor import structured
from fleet_executor.checks import NAMES, policy
from fleet_executor.jobs import CheckList, CodeTest, DryRun, JobSpec, Message
from fleet_wire import ids
from fleet_wire.errors import Invalid
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2 as pb

MAX_TOKENS = 16384
MAX_SCHEMA_CHARS = 32 * 1024
MAX_REQUIREMENTS = 100
MAX_TESTS = 256
MAX_TEST_SECONDS = 60
MESSAGE_ROLES = ("system", "user", "assistant")


def spec_of(at: str, job: pb.Job) -> JobSpec:
    """The spec of the job that stands `at` this place of the request. Raises Invalid naming the first field that is wrong."""
    what: dict[str, Any] = {
        "job_id": ids.check_id(f"{at}.job_id", job.job_id),
        "agent_id": ids.check_id(f"{at}.agent_id", job.agent_id),
        "role": ids.check_role(f"{at}.role", job.role),
        "phase": ids.check_id(f"{at}.phase", job.phase),
        "item": ids.check_id(f"{at}.item", job.item) if job.item else "",
    }
    more = _run_of(at, job) if job.HasField("dry_run") else _question(at, job)
    return JobSpec(**what, **more)


def _question(at: str, job: pb.Job) -> dict[str, Any]:
    """What a job says that asks the model."""
    if not 1 <= job.max_tokens <= MAX_TOKENS:
        raise Invalid(f"{at}.max_tokens must be 1 to {MAX_TOKENS}, not {job.max_tokens}")
    if not 0 <= job.temperature <= 2:
        raise Invalid(f"{at}.temperature must be 0 to 2, not {job.temperature}")
    if not job.messages:
        raise Invalid(f"{at}.messages must hold at least one message where there is no dry_run")
    if job.response_schema:
        _schema(f"{at}.response_schema", job.response_schema)
    return {
        "messages": [_message(f"{at}.messages[{number}]", message) for number, message in enumerate(job.messages)],
        "max_tokens": job.max_tokens,
        "temperature": job.temperature,
        "seed": job.seed,
        "response_schema": job.response_schema,
        "checks": _checks(f"{at}.checks", job.checks) if job.HasField("checks") else None,
    }


def _run_of(at: str, job: pb.Job) -> dict[str, Any]:
    """What a job says that runs a program."""
    for field, is_there in (
        ("messages", job.messages),
        ("response_schema", job.response_schema),
        ("checks", job.HasField("checks")),
    ):
        if is_there:
            raise Invalid(f"{at}.{field} must be empty where there is a dry_run")
    asked, at = job.dry_run, f"{at}.dry_run"
    if not asked.program.strip():
        raise Invalid(f"{at}.program is empty")
    if not 1 <= len(asked.tests) <= MAX_TESTS:
        raise Invalid(f"{at}.tests must hold 1 to {MAX_TESTS} tests, not {len(asked.tests)}")
    if not 0 <= asked.seconds <= MAX_TEST_SECONDS:
        raise Invalid(f"{at}.seconds must be 0 to {MAX_TEST_SECONDS}, not {asked.seconds}")
    tests: dict[str, CodeTest] = {}
    for number, test in enumerate(asked.tests):
        test_id = ids.check_id(f"{at}.tests[{number}].test_id", test.test_id)
        if test_id in tests:
            raise Invalid(f"{at}.tests[{number}].test_id repeats {test_id}, which stands before it")
        if not test.code.strip():
            raise Invalid(f"{at}.tests[{number}].code is empty")
        tests[test_id] = CodeTest(test_id=test_id, code=test.code)
    return {"dry_run": DryRun(program=asked.program, tests=list(tests.values()), seconds=asked.seconds)}


def _checks(at: str, asked: pb.Checks) -> CheckList:
    for number, name in enumerate(asked.names):
        if name not in NAMES:
            raise Invalid(f"{at}.names[{number}] must be one of {', '.join(NAMES)}, not {name[:80]!r}")
    if len(asked.requirements) > MAX_REQUIREMENTS:
        raise Invalid(f"{at}.requirements must hold at most {MAX_REQUIREMENTS}, not {len(asked.requirements)}")
    if asked.policy:
        try:
            policy.parsed(asked.policy)
        except Invalid as error:
            raise Invalid(f"{at}.policy {error}") from error
    return CheckList(names=list(asked.names), requirements=list(asked.requirements), policy=asked.policy)


def _schema(at: str, schema: str) -> None:
    if len(schema) > MAX_SCHEMA_CHARS:
        raise Invalid(f"{at} has {len(schema)} characters, above the limit of {MAX_SCHEMA_CHARS}")
    try:
        structured.check_schema(schema)
    except Invalid as error:
        raise Invalid(f"{at} {error}") from error


def _message(at: str, message: pb.Message) -> Message:
    if message.role not in MESSAGE_ROLES:
        raise Invalid(f"{at}.role must be one of {', '.join(MESSAGE_ROLES)}, not {message.role[:80]!r}")
    if not message.content:
        raise Invalid(f"{at}.content is empty")
    role: Any = message.role
    return Message(role=role, content=message.content)
