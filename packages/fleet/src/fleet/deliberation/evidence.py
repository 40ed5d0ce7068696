"""What the results of a deliberation's jobs say: proposals with their checks, critiques, verdicts, and what was spent.

Only jobs that the record holds as completed count; whoever passes more results in, late ones or those of others, changes
nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from fleet.deliberation import code
from fleet.deliberation.state import Deliberation, Job, Phase, counted
from fleet_wire.events import AgentResult, Check, TestRun, Usage

MAX_TESTS_BYTES = 64 * 1024
"""What the code of all tests of a deliberation takes at most: it goes to the executor once for each proposal."""


class Proposal(Struct, frozen=True, kw_only=True):
    """One proposal, or one revision of it, with what was checked of it, `dry_run` included where the protocol has it."""

    author: str
    content: str
    content_cut: bool = False
    checks: tuple[Check, ...] = ()
    runs: tuple[TestRun, ...] = ()
    revised: bool = False

    @property
    def passed(self) -> frozenset[str]:
        """The ids of the tests it passed."""
        return frozenset(run.test_id for run in self.runs if run.status == "passed")

    @property
    def check_score(self) -> float:
        """The mean score of the checks that ran, 0 to 1; 0 where none ran."""
        scores = [check.score for check in self.checks if check.score is not None]
        return sum(scores) / len(scores) if scores else 0.0


class Critique(Struct, frozen=True, kw_only=True):
    """What a seat wrote about the proposal of another."""

    critic: str
    author: str
    text: str


class Verdict(Struct, frozen=True, kw_only=True):
    """One judgement of a pair, shown in this order. `winner` is an author, or empty for a tie."""

    judge: str
    item: str
    first: str
    second: str
    winner: str
    reason: str


class Evidence(Struct, frozen=True, kw_only=True):
    """All of it. `proposals` are those that count: a revision stands in its original's place unless it fares worse in the
    checks.

    `dropped` are the authors whose revision fared worse, `unread` the judge jobs whose verdict could not be read, `lost`
    the agents whose proposal is counted but given by no result.
    """

    originals: dict[str, Proposal]
    revisions: dict[str, Proposal]
    proposals: dict[str, Proposal]
    dropped: tuple[str, ...]
    critiques: tuple[Critique, ...]
    verdicts: tuple[Verdict, ...]
    unread: tuple[Job, ...]
    lost: tuple[str, ...]
    usage: Usage
    calls: int


class _Answer(Struct, frozen=True):
    reason: str
    winner: Literal["first", "second", "tie"]


_ANSWER = msgspec.json.Decoder(_Answer)


def evidence(state: Deliberation, results: Mapping[str, AgentResult]) -> Evidence:
    """What the results (by job id) of a record's jobs say."""
    originals = _proposals(state, results, "propose", "dry_run")
    revisions = _proposals(state, results, "revise", "rerun")
    proposals = dict(originals)
    dropped = []
    for author, revision in revisions.items():
        if author in originals and fares_worse(revision.checks, originals[author].checks):
            dropped.append(author)
        elif author in originals:
            proposals[author] = revision
    verdicts, unread = _verdicts(state, results)
    return Evidence(
        originals=originals,
        revisions=revisions,
        proposals=proposals,
        dropped=tuple(dropped),
        critiques=tuple(
            Critique(critic=job.agent_id, author=job.item, text=results[job.job_id].content)
            for job in counted(state, "critique")
            if job.job_id in results
        ),
        verdicts=verdicts,
        unread=unread,
        lost=tuple(sorted(job.agent_id for job in counted(state) if job.job_id not in results)),
        usage=used(state, results),
        calls=sum(job.calls for job in state.jobs if job.status != "waiting"),
    )


def used(state: Deliberation, results: Mapping[str, AgentResult]) -> Usage:
    """The tokens of all jobs that have ended, failed ones included."""
    usage = Usage()
    for job in state.jobs:
        if job.status != "waiting" and job.job_id in results:
            usage += results[job.job_id].usage
    return usage


def authors(state: Deliberation) -> tuple[str, ...]:
    """Whose proposals count, sorted: a pair's item names them by their place here, from 1."""
    return tuple(sorted(job.agent_id for job in counted(state)))


def pair_item(state: Deliberation, first: str, second: str) -> str:
    """The item of the judgement that is shown `first` before `second`."""
    places = authors(state)
    return f"{places.index(first) + 1}v{places.index(second) + 1}"


def pair_of(state: Deliberation, item: str) -> tuple[str, str]:
    """The authors shown first and second in a judgement."""
    places = authors(state)
    first, second = (int(place) - 1 for place in item.split("v"))
    return places[first], places[second]


def tests_of(state: Deliberation, results: Mapping[str, AgentResult]) -> tuple[tuple[str, str], ...]:
    """The cases that the testers wrote, as id and code: `t2-3` is the third of the second tester. Those that would go beyond
    MAX_TESTS_BYTES are left out."""
    found: list[tuple[str, str]] = []
    room = MAX_TESTS_BYTES
    testers = [job for job in state.jobs if job.phase == "tests"]
    for place, job in enumerate(testers, start=1):
        if job.status != "completed" or job.job_id not in results:
            continue
        for number, case in enumerate(code.test_cases(results[job.job_id].content, state.task), start=1):
            room -= len(case.encode())
            if room < 0:
                return tuple(found)
            found.append((f"t{place}-{number}", case))
    return tuple(found)


def fares_worse(now: Sequence[Check], before: Sequence[Check]) -> bool:
    """Whether any check has become worse: it scores less, ran before and does not now, or fails where it did not."""
    found = {check.name: check for check in now}
    names = {check.name for check in before}
    for old in before:
        new = found.get(old.name)
        if old.score is not None and (new is None or new.score is None or new.score < old.score):
            return True
        if new is not None and new.status == "failed" and old.status != "failed":
            return True
    return any(check.status == "failed" and check.name not in names for check in now)


def _proposals(
    state: Deliberation, results: Mapping[str, AgentResult], phase: Phase, rerun: Phase
) -> dict[str, Proposal]:
    """By author, sorted."""
    ran = {job.agent_id: job for job in state.jobs if job.phase == rerun}
    # A revision is measured by what its original was measured by.
    why = next((one.reason for one in state.skipped if one.phase == rerun), "")
    found = {}
    for job in sorted(counted(state, phase), key=lambda job: job.agent_id):
        result = results.get(job.job_id)
        if result is None:
            continue
        runs: tuple[TestRun, ...] = ()
        checks = tuple(result.checks)
        if ran or why:
            job_ran = ran.get(job.agent_id)
            answer = results.get(job_ran.job_id) if job_ran and job_ran.status == "completed" else None
            runs = tuple(answer.runs) if answer else ()
            checks += (_dry_run(job_ran, runs, why),)
        found[job.agent_id] = Proposal(
            author=job.agent_id,
            content=result.content,
            content_cut=result.content_cut,
            checks=checks,
            runs=runs,
            revised=phase == "revise",
        )
    return found


def _dry_run(job: Job | None, runs: Sequence[TestRun], why: str) -> Check:
    """The check `dry_run` of a proposal: `why` the phase was skipped, else what its job found."""
    if why:
        return Check(name="dry_run", status="not_run", detail=why)
    if job is None:
        return Check(name="dry_run", status="failed", score=0.0, detail="no Python program in the answer")
    if job.status != "completed":
        detail = f"{job.error.kind}: {job.error.message}" if job.error else "no result before the end"
        return Check(name="dry_run", status="not_run", detail=detail)
    count = [run for run in runs if run.status != "not_run"]
    if not count:
        detail = runs[0].detail if runs else "no test was run"
        return Check(name="dry_run", status="not_run", detail=detail)
    good = sum(run.status == "passed" for run in count)
    return Check(
        name="dry_run",
        status="passed" if good == len(count) else "failed",
        score=good / len(count),
        detail=f"{good} of {len(count)} tests pass",
    )


def _verdicts(state: Deliberation, results: Mapping[str, AgentResult]) -> tuple[tuple[Verdict, ...], tuple[Job, ...]]:
    verdicts: list[Verdict] = []
    unread: list[Job] = []
    for job in sorted(counted(state, "judge"), key=lambda job: job.item):
        if job.job_id not in results:
            unread.append(job)
            continue
        try:
            answer = _ANSWER.decode(results[job.job_id].content)
        except (msgspec.DecodeError, UnicodeEncodeError):
            unread.append(job)
            continue
        first, second = pair_of(state, job.item)
        winner = {"first": first, "second": second, "tie": ""}[answer.winner]
        verdicts.append(
            Verdict(
                judge=job.agent_id,
                item=job.item,
                first=first,
                second=second,
                winner=winner,
                reason=answer.reason,
            )
        )
    return tuple(verdicts), tuple(unread)
