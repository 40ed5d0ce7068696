"""Who works in each phase, and on what: from a record and what its results say so far.

A plan of a phase is the work of each of its jobs as (agent, item), or the reason why nobody works in it.
"""

from collections.abc import Callable, Mapping

from fleet.deliberation import code
from fleet.deliberation.evidence import Evidence, Proposal, pair_item, tests_of
from fleet.deliberation.prompt import Prompt
from fleet.deliberation.protocols import finalists
from fleet.deliberation.state import Deliberation, Phase
from fleet_wire.events import AgentResult

Work = tuple[str, str]
Results = Mapping[str, AgentResult]


def proposers(state: Deliberation) -> tuple[str, ...]:
    """The seats that propose: as many as the protocol's numbers say, the first of the council."""
    return state.seats[: int(state.numbers.get("agents", 0)) or None]


def testers(state: Deliberation) -> tuple[str, ...]:
    """The agents that write tests. Where there is no QA council the seats do, in a job that knows no proposal."""
    return (state.testers or state.seats)[: int(state.numbers.get("testers", 0)) or None]


def not_applicable(state: Deliberation, prompt: Prompt, phase: Phase) -> str:
    """Why a phase of the protocol is none of this task's; empty where it is."""
    if phase in ("tests", "dry_run", "rerun"):
        if not code.is_code_task(state.task, prompt.proposal_schema):
            return "the task asks for no Python code"
        if prompt.sandbox:
            return f"no sandbox: {prompt.sandbox}"
    return ""


def plan(state: Deliberation, prompt: Prompt, phase: Phase, said: Evidence, results: Results) -> tuple[Work, ...] | str:
    """The work of a phase, or why there is none."""
    return not_applicable(state, prompt, phase) or _PLANS[phase](state, said, results)


def critics(state: Deliberation, author: str) -> tuple[str, ...]:
    """Those who criticise an author's proposal: the seats that follow on the author's, as many as the numbers say."""
    at = state.seats.index(author)
    others = state.seats[at + 1 :] + state.seats[:at]
    return others[: int(state.numbers["critics"])]


def needs_revision(said: Evidence, author: str) -> bool:
    """Whether an author has anything to revise upon: a critique, or a check that failed."""
    failed = any(check.status == "failed" for check in said.originals[author].checks)
    return failed or any(critique.author == author for critique in said.critiques)


def judge_of(state: Deliberation, first: str, second: str, number: int) -> str:
    """Who judges the `number`-th pair, in both orders: a seat that wrote neither, where there is none a tester, else nobody."""
    for bench in (state.seats, state.testers):
        free = [agent for agent in bench if agent not in (first, second)]
        if free:
            return free[number % len(free)]
    return ""


def _propose(state: Deliberation, said: Evidence, results: Results) -> tuple[Work, ...] | str:
    return tuple((agent, "") for agent in proposers(state))


def _tests(state: Deliberation, said: Evidence, results: Results) -> tuple[Work, ...] | str:
    return tuple((agent, "") for agent in testers(state))


def _dry_run(state: Deliberation, said: Evidence, results: Results) -> tuple[Work, ...] | str:
    return _runs(state, said.originals, results) or "no proposal holds a Python program"


def _rerun(state: Deliberation, said: Evidence, results: Results) -> tuple[Work, ...] | str:
    return _runs(state, said.revisions, results) or "no revision holds a Python program"


def _runs(state: Deliberation, proposals: Mapping[str, Proposal], results: Results) -> tuple[Work, ...] | str:
    if not tests_of(state, results):
        return "no tester gave a test"
    return tuple((author, "") for author, one in proposals.items() if code.program_of(one.content, state.task))


def _critique(state: Deliberation, said: Evidence, results: Results) -> tuple[Work, ...] | str:
    work = tuple((critic, author) for author in said.originals for critic in critics(state, author))
    return work or "the council has no other seat"


def _revise(state: Deliberation, said: Evidence, results: Results) -> tuple[Work, ...] | str:
    work = tuple((author, "") for author in said.originals if needs_revision(said, author))
    return work or "no proposal has a critique or a failed check"


def _judge(state: Deliberation, said: Evidence, results: Results) -> tuple[Work, ...] | str:
    last = finalists(state, said)
    if len(last) < 2:
        return "there is one proposal"
    pairs = [(one, other) for at, one in enumerate(last) for other in last[at + 1 :]]
    work: list[Work] = []
    for number, (one, other) in enumerate(pairs):
        judge = judge_of(state, one, other, number)
        if judge:
            work += [(judge, pair_item(state, one, other)), (judge, pair_item(state, other, one))]
    return tuple(work) or "nobody is there who wrote neither proposal"


_PLANS: dict[Phase, Callable[[Deliberation, Evidence, Results], tuple[Work, ...] | str]] = {
    "propose": _propose,
    "tests": _tests,
    "dry_run": _dry_run,
    "critique": _critique,
    "revise": _revise,
    "rerun": _rerun,
    "judge": _judge,
}
