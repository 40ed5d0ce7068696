"""The requests of a phase's jobs, from the record, the frozen prompt and the results so far. Pure: the same of these give
the same bytes, so that a repeated submission asks for nothing new.

A message to the model begins with the prompt's system and shared text, in every phase; what others wrote follows between
markers, and what is asked for stands last. Who wrote what is told to nobody.
"""

import hashlib
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from fleet.deliberation import code
from fleet.deliberation.evidence import Evidence, evidence, pair_of, tests_of
from fleet.deliberation.prompt import ContextText, Prompt, fenced
from fleet.deliberation.state import Deliberation, Job, waiting
from fleet_wire import ids
from fleet_wire.events import AgentResult, Budget, Role

MESSAGE_OVERHEAD = 64
"""Tokens that a chat template may add to a message: a bound for reserving, not a measure."""
MAX_SHOWN_TEST = 2 * 1024
"""Characters of a failed test that its proposal's author is shown."""


class CheckList(Struct, frozen=True, kw_only=True):
    """What the worker checks of the answer: names of checks, in the order of their results, and what they need."""

    names: tuple[str, ...]
    requirements: tuple[str, ...] = ()
    policy: str = ""


class DryRun(Struct, frozen=True, kw_only=True):
    """A program to run against each test (id, code) in the sandbox. `seconds` is the wall clock of each, 0 for the setting."""

    program: str
    tests: tuple[tuple[str, str], ...]
    seconds: float = 0.0


class JobRequest(Struct, frozen=True, kw_only=True):
    """What the executor is asked: the model (`messages` as role and content), or a dry run. `response_schema` is a JSON
    Schema as text, empty for free text."""

    job_id: str
    agent_id: str
    role: Role
    phase: str
    item: str = ""
    messages: tuple[tuple[str, str], ...] = ()
    max_tokens: int = 0
    temperature: float = 0.0
    seed: int = 0
    response_schema: str = ""
    checks: CheckList | None = None
    dry_run: DryRun | None = None


def requests(state: Deliberation, prompt: Prompt, results: Mapping[str, AgentResult]) -> tuple[JobRequest, ...]:
    """The requests of the jobs that wait. `results` are those of all jobs that have ended, by job id."""
    jobs = waiting(state)
    return make(state, prompt, jobs, evidence(state, results), results)


def make(
    state: Deliberation,
    prompt: Prompt,
    jobs: Sequence[Job],
    said: Evidence,
    results: Mapping[str, AgentResult],
) -> tuple[JobRequest, ...]:
    """The requests of these jobs, `said` being what the results say."""
    tests = tests_of(state, results) if any(job.phase in ("dry_run", "revise", "rerun") for job in jobs) else ()
    return tuple(_request(state, prompt, job, said, tests) for job in jobs)


def reserve(request: JobRequest) -> Budget:
    """What a job may use at most. A byte-level tokenizer makes no more tokens than there are bytes. Where a form is asked
    for, the answer may be asked for a second time, with the first one added."""
    if request.dry_run is not None:
        return Budget()
    asked = sum(len(content.encode()) + MESSAGE_OVERHEAD for _, content in request.messages) + request.max_tokens
    if not request.response_schema:
        return Budget(tokens=asked, calls=1)
    return Budget(tokens=2 * asked + request.max_tokens + 2 * MESSAGE_OVERHEAD, calls=2)


def prompt_bytes(prompt: Prompt) -> int:
    """The size in bytes of a proposer's messages, about: what `auto.choose` estimates with."""
    return len(prompt.system.encode()) + len(prompt.shared.encode()) + len(prompt.lens.encode())


def question(request: JobRequest) -> str:
    """SHA-256 in hex of what is asked of whom: where it is the same in a deliberation and in one that it replays, so may the
    answer be. The job's id, and the seed that is derived from it, are no part of it."""
    asked = msgspec.structs.replace(request, job_id="", seed=0)
    return hashlib.sha256(msgspec.json.encode(asked)).hexdigest()


def check_list(state: Deliberation, prompt: Prompt) -> CheckList:
    """What is checked of every proposal and revision: the policy only where the council has one, the requirements only
    where the task states any."""
    return CheckList(
        names=(
            "parse",
            "lint",
            *(("policy",) if prompt.policy else ()),
            *(("requirements",) if state.task.requirements else ()),
        ),
        requirements=tuple(state.task.requirements),
        policy=prompt.policy,
    )


def _request(
    state: Deliberation, prompt: Prompt, job: Job, said: Evidence, tests: tuple[tuple[str, str], ...]
) -> JobRequest:
    role: Role = "QA" if job.phase == "tests" and state.testers else state.task.role
    if job.phase in ("dry_run", "rerun"):
        proposal = (said.originals if job.phase == "dry_run" else said.revisions)[job.agent_id]
        program = code.program_of(proposal.content, state.task)
        dry_run = DryRun(program=program, tests=tests)
        return JobRequest(job_id=job.job_id, agent_id=job.agent_id, role=role, phase=job.phase, dry_run=dry_run)
    proposes, judges = job.phase in ("propose", "revise"), job.phase == "judge"
    return JobRequest(
        job_id=job.job_id,
        agent_id=job.agent_id,
        role=role,
        phase=job.phase,
        item=job.item,
        messages=(
            ("system", prompt.system),
            ("user", f"{prompt.shared}\n\n{_ending(state, prompt, job, said, tests)}"),
        ),
        max_tokens=prompt.max_tokens,
        temperature=0.0 if judges else prompt.temperature,
        seed=int(ids.derived("seed", job.job_id)[-8:], 16),
        response_schema=prompt.verdict_schema if judges else prompt.proposal_schema if proposes else "",
        checks=check_list(state, prompt) if proposes else None,
    )


def _ending(state: Deliberation, prompt: Prompt, job: Job, said: Evidence, tests: tuple[tuple[str, str], ...]) -> str:
    """What follows on the shared part. The number of a member is its seat's, whatever the protocol, so that a replay under
    another one asks the same."""
    if job.phase == "propose":
        return f"{prompt.lens} You are member {state.seats.index(job.agent_id) + 1}."
    if job.phase == "tests":
        return (
            f"{prompt.instructions['tests']} You are tester {(state.testers or state.seats).index(job.agent_id) + 1}."
        )
    return f"{fenced(_shown(state, job, said, tests))}\n\n{prompt.instructions[job.phase]}"


def _shown(state: Deliberation, job: Job, said: Evidence, tests: tuple[tuple[str, str], ...]) -> list[ContextText]:
    """What a critic, an author or a judge is shown of the answers so far."""
    if job.phase == "judge":
        first, second = pair_of(state, job.item)
        return [
            ContextText(kind="first proposal", title="", text=said.proposals[first].content),
            ContextText(kind="second proposal", title="", text=said.proposals[second].content),
        ]
    if job.phase == "critique":
        return [ContextText(kind="proposal", title="", text=said.originals[job.item].content)]
    own = said.originals[job.agent_id]
    shown = [ContextText(kind="your proposal", title="", text=own.content)]
    shown += [
        ContextText(kind="critique", title="", text=critique.text)
        for critique in said.critiques
        if critique.author == job.agent_id
    ]
    cases = dict(tests)
    failed = [f"{check.name}: {check.detail or 'failed'}" for check in own.checks if check.status == "failed"]
    failed += [
        f"{run.detail or 'failed'}\n{cases.get(run.test_id, '')[:MAX_SHOWN_TEST]}"
        for run in own.runs
        if run.status == "failed"
    ]
    return shown + [ContextText(kind="failed check", title="", text=text) for text in failed]
