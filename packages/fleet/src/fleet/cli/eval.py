"""`fleet eval`: protocols side by side on tasks whose right answer a program can tell."""

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from fleet.cli import client, safe
from fleet.cli.addresses import Addresses, addresses
from fleet.cli.client import DONE, REFUSED, RPC_SECONDS, Clients
from fleet.cli.options import Number, numbers_of
from fleet.cli.stack import addresses_of
from fleet.evaluation import card as cards
from fleet.evaluation import kept, tasks
from fleet.evaluation.card import About, Attempt, Card
from fleet.evaluation.configurations import Configuration, configurations, equal_budget
from fleet.evaluation.running import Bench, patiently, require_sandbox
from fleet.local import home as homes
from fleet.local.running import Change, PartFailed, State
from fleet.local.stack import running_stack
from fleet_wire import clock, ids
from fleet_wire.errors import Invalid, NotFound, Precondition
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2
from fleet_wire.rpc import call

PARTS = ("nats", "ray", "ray-executor", "orchestrator")
"""What an evaluation needs of a stack: no plan, no memory, no dashboard; the model is the endpoint."""
BLANK = ("NATS_URL", "NATS_CREDS", "MONITORING_PORT", "NEO4J_URI", "VALKEY_URL")
ELSEWHERE = ("PLANNING_ADDRESS", "ORCHESTRATOR_ADDRESS", "CONTEXT_ADDRESS", "RAY_EXECUTOR_ADDRESS")
"""Settings of another stack, which must not reach one of our own."""
SHOWN = (0, 1, 2, 3, 5, 7, 8, 9)
"""Columns of the report card that fit a terminal; the intervals of the means stand in the files."""
TESTERS = 3
MAX_TOKENS = 1024
"""What the orchestrator lets an agent write unless AGENT_MAX_TOKENS says otherwise."""


def evaluate(
    task_file: Annotated[
        Path, typer.Argument(metavar="TASKS", help="Tasks as lines of JSON: task_id, prompt, entry_point, test.")
    ],
    protocols: Annotated[
        str, typer.Option(metavar="NAMES", help="Protocols to compare, with commas between them.")
    ] = "single,vote,best_of_n",
    agents: Annotated[str, typer.Option(metavar="NUMBERS", help="How many agents propose, with commas.")] = "3",
    endpoint: Annotated[
        str, typer.Option(metavar="URL", help="A server of the OpenAI API; the stack that runs here unless given.")
    ] = "",
    model: Annotated[str, typer.Option(metavar="NAME", help="The endpoint's model.")] = "",
    number: Number = None,
    limit: Annotated[int, typer.Option(min=0, help="Only the first so many tasks; 0 for all.")] = 0,
    budget_tokens: Annotated[
        int, typer.Option(min=0, help="Tokens of each deliberation, the same for all; 0 for what the largest needs.")
    ] = 0,
    timeout: Annotated[float, typer.Option(min=1, max=86400, help="Seconds of each deliberation.")] = 300,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Deliberations at once; more makes each slower.")] = 2,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the report goes, as JSON and, beside it, as Markdown.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another one asks everything anew.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report card as one line of JSON.")] = False,
) -> None:
    """Compare protocols on tasks of the HumanEval form, at equal token budgets, and print and save a report card.

    Each deliberation may spend the same tokens, whatever its protocol; what it spent is reported. What is right is told by the
    task's own tests, run in the sandbox. With --endpoint a small stack is started for the evaluation and stopped at its end;
    without, the stack that runs in this folder is used, with its model and councils. An evaluation that was interrupted goes on
    where it was when it is run again.

    Examples:  fleet eval examples/eval-tasks.jsonl --endpoint http://gpu-box:8000 --model Qwen/Qwen3-8B --agents 3,5
               fleet eval examples/eval-tasks.jsonl --protocols single,vote --limit 3
    """

    async def main() -> int:
        chosen = configurations(_names(protocols), _counts(agents), numbers_of(number))
        found = tasks.load(task_file, limit)
        if bool(endpoint) != bool(model):
            raise Invalid("--endpoint and --model go together: give both, or none to use the stack that runs here")
        try:
            async with _stack(endpoint, model) as (at, named_model, named_endpoint):
                about = About(
                    tasks=ids.derived("tasks", *(task.fingerprint for task in found)),
                    task_file=task_file.name,
                    model=named_model,
                    endpoint=named_endpoint,
                    budget_tokens=budget_tokens or equal_budget(chosen, _longest(found), _max_tokens()),
                    timeout_seconds=timeout,
                    seed=seed,
                )
                place = out or Path(f"eval-{task_file.stem}-{re.sub(r'[^A-Za-z0-9.-]+', '-', named_model)[-40:]}.json")
                report = await _evaluate(at, about, found, chosen, parallel, place, own=bool(endpoint))
        except PartFailed as failure:
            print(safe.safe(f"{failure}\n{failure.tail}"), file=sys.stderr)
            return REFUSED
        if as_json:
            print(safe.json_line(report))
        else:
            _print(report, place)
        return DONE

    client.run(main, {NotFound: "is it the stack's councils that are missing? `fleet council list` tells"})


async def _evaluate(
    at: Addresses,
    about: About,
    found: tuple[tasks.Task, ...],
    chosen: tuple[Configuration, ...],
    parallel: int,
    place: Path,
    own: bool,
) -> Card:
    """Tries every task with every configuration, saving each attempt, and makes and saves the card of all."""
    tried = kept.Attempts.load(place, about)
    async with client.clients(at) as to:
        await require_sandbox(to.executor)
        await _councils(to, chosen, own)
        bench = Bench(to.orchestrator, to.executor, about)
        work = [(task, one) for task in found for one in chosen if not tried.has(task.task_id, one.name)]
        total = len(found) * len(chosen)
        with _progress() as bar:
            row = bar.add_task("deliberations", total=total, completed=total - len(work))
            await _all(bench, work, parallel, tried, lambda attempt: _done(attempt, tried, bar, row))
    names = [one.name for one in chosen]
    report = cards.card(about, names, tried.of({task.task_id for task in found}, names), clock.now())
    tried.finish(report)
    return report


async def _all(
    bench: Bench,
    work: list[tuple[tasks.Task, Configuration]],
    parallel: int,
    tried: kept.Attempts,
    done: Callable[[Attempt], None],
) -> None:
    """Works it off, `parallel` at once. The first that cannot be told ends it all."""
    queue = iter(work)

    async def one_after_another() -> None:
        for task, configuration in queue:
            number = tried.begin(task.task_id, configuration.name)
            done(await bench.attempt(task, configuration, number))

    workers = [asyncio.create_task(one_after_another()) for _ in range(min(parallel, len(work)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def _done(attempt: Attempt, tried: kept.Attempts, bar: Progress, row: TaskID) -> None:
    tried.add(attempt)
    bar.advance(row)
    verdict = "solved" if attempt.solved else f"failed: {attempt.failure}" if attempt.failure else "wrong"
    spent = f"{attempt.tokens} tokens, {attempt.seconds:.1f} s"
    bar.console.print(
        Text(safe.line(f"{attempt.task_id}  {attempt.configuration}: {verdict} ({spent})", 200)), soft_wrap=True
    )


async def _councils(to: Clients, chosen: tuple[Configuration, ...], own: bool) -> None:
    """Sees to it that the DEV and QA councils have the seats that are needed: makes them in a stack of our own, and asks for
    them in another's, which is not ours to change."""
    needed = {"DEV": max(one.agents for one in chosen), "QA": max(TESTERS, *(one.testers for one in chosen))}
    asked = orchestrator_pb2.ListCouncilsRequest()
    answer = await patiently(lambda: call(to.orchestrator.ListCouncils(asked, timeout=RPC_SECONDS), "the orchestrator"))
    there = {council.role: len(council.agents) for council in answer.councils}
    for role, seats in needed.items():
        if own and there.get(role) != seats:
            if role in there:
                gone = orchestrator_pb2.DeleteCouncilRequest(role=role)
                await call(to.orchestrator.DeleteCouncil(gone, timeout=RPC_SECONDS), "the orchestrator")
            made = orchestrator_pb2.CreateCouncilRequest(role=role, agents=seats)
            await call(to.orchestrator.CreateCouncil(made, timeout=RPC_SECONDS), "the orchestrator")
        elif not own and there.get(role, 0) < (seats if role == "DEV" else 1):
            raise Precondition(
                f"the {role} council has {there.get(role, 0)} agents, and {seats} are needed: take fewer --agents, or make "
                f"it larger with `fleet council delete {role}` and `fleet council create {role} --agents {seats}`"
            )


@contextlib.asynccontextmanager
async def _stack(endpoint: str, model: str) -> AsyncIterator[tuple[Addresses, str, str]]:
    """Addresses, model and endpoint: of a small stack for this evaluation, or of the one that runs here."""
    if not endpoint:
        at = addresses()
        yield at, os.environ.get("VLLM_MODEL") or "the stack's model", os.environ.get("VLLM_URL") or "the stack's"
        return
    home = homes.at(homes.find().path / "eval")
    env = dict.fromkeys((*BLANK, *ELSEWHERE), "") | {"VLLM_URL": endpoint, "VLLM_MODEL": model}

    def report(change: Change) -> None:
        if change.state in (State.READY, State.ENDED):
            _say(f"{change.name} {'is ready' if change.state is State.READY else change.detail}")

    _say("starting a small stack: NATS, Ray, the executor and the orchestrator")
    async with running_stack(home, free_ports=True, env=env, only=PARTS, report=report, say=_say) as stack:
        yield addresses_of(stack.env), model, endpoint


def _longest(found: tuple[tasks.Task, ...]) -> int:
    return max(len(task.description.encode()) for task in found)


def _max_tokens() -> int:
    given = os.environ.get("AGENT_MAX_TOKENS", "")
    return int(given) if given.isdigit() else MAX_TOKENS


def _names(given: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in given.split(",") if word.strip()))


def _counts(given: str) -> list[int]:
    try:
        return sorted({int(word) for word in given.split(",")})
    except ValueError:
        raise Invalid(f"--agents must be numbers with commas between them, such as 3,5, not {given[:80]!r}") from None


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=safe.console(stderr=True))


def _print(report: Card, place: Path) -> None:
    console = safe.console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in SHOWN:
        table.add_column(cards.HEADINGS[column], overflow="fold", no_wrap=column == 0)
    for row in report.rows:
        cells = cards.cells(row)
        table.add_row(*(Text(safe.line(cells[column])) for column in SHOWN))
    console.print(table)
    console.print(
        Text(f"each deliberation could spend up to {report.about.budget_tokens:,} tokens; what it spent stands above")
    )
    for one in report.comparisons:
        console.print(Text(safe.line(one.words, 400)), soft_wrap=True)
    console.print(Text(f"saved to {place} and {kept.markdown_path(place)}"), soft_wrap=True)


def _say(sentence: str) -> None:
    print(safe.line(sentence, 400), file=sys.stderr, flush=True)
