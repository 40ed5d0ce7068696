"""Councils, deliberations and how they ended, as tables and text. Whatever a model wrote goes through `safe`."""

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fleet.cli import safe, tables
from fleet.describe import describe, failure, protocol
from fleet_wire import events
from fleet_wire.gen.context.v1 import context_pb2
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2

Ended = events.DeliberationCompleted | events.DeliberationFailed


def councils(found: Iterable[orchestrator_pb2.Council]) -> Table:
    """Each council in a line."""
    table = tables.table("role", "protocol", "quorum", "agents")
    for council in found:
        agents = ", ".join(f"{agent.agent_id} {agent.state}" for agent in council.agents)
        cells = (council.role, protocol(council.protocol, council.numbers), str(council.quorum), agents)
        table.add_row(*(safe.text(safe.line(cell)) for cell in cells))
    return table


def deliberations(found: Iterable[orchestrator_pb2.Deliberation]) -> Table:
    """Each deliberation in a line."""
    table = tables.table("deliberation", "role", "state", "protocol", "task")
    for one in found:
        more = one.reason or (one.phase if one.state == "running" else "")
        state = f"{one.state}: {more}" if more else one.state
        cells = (one.deliberation_id, one.role, state, one.protocol, one.title or one.task_id)
        table.add_row(*(Text(safe.line(cell, 80)) for cell in cells))
    return table


def deliberation(found: orchestrator_pb2.Deliberation, ended: Ended | None) -> RenderableType:
    """A deliberation with its jobs by phase, and its outcome where it has one."""
    facts = [
        ("deliberation", f"{found.deliberation_id}, {found.state}" + (f": {found.reason}" if found.reason else "")),
        ("task", f"{found.task_id}: {found.title}"),
        ("plan", found.plan_id),
        ("council", f"{found.role}, by {protocol(found.protocol, found.numbers)}, quorum {found.quorum}"),
        ("auto chose", found.chosen_because),
        ("began", tables.moment(found.created_at)),
        ("deadline", tables.moment(found.deadline)),
        ("ended", tables.moment(found.ended_at)),
        ("budget", tables.budget(found.budget)),
        ("spent", f"{found.tokens_spent} tokens, {found.calls_spent} calls"),
    ]
    table = tables.table("phase", "agent", "item", "state", "error")
    for job in found.jobs:
        cells = (job.phase, job.agent_id, job.item, job.state, job.error)
        table.add_row(*(Text(safe.line(cell, 120)) for cell in cells))
    parts: list[RenderableType] = [tables.facts(facts)]
    if found.jobs:
        parts.append(table)
    if isinstance(ended, events.DeliberationCompleted):
        parts += [tables.heading("What was decided"), outcome(ended)]
    elif ended is not None:
        parts.append(safe.text(describe(ended), "red"))
    return Group(*parts)


def side_by_side(before: Ended, after: Ended) -> RenderableType:
    """Two outcomes of the same question, one in a column each."""
    table = tables.table("", "before", "replayed")
    columns = [_outcome_facts(one) for one in (before, after)]
    for (name, first), (_, second) in zip(*columns, strict=True):
        if first or second:
            table.add_row(Text(name, "bold"), safe.text(first), safe.text(second))
    return table


def _outcome_facts(ended: Ended) -> list[tuple[str, str]]:
    tokens = (
        f"{ended.usage.prompt + ended.usage.completion} tokens, {ended.calls} calls, {ended.duration_seconds:.1f} s"
    )
    if isinstance(ended, events.DeliberationFailed):
        facts = {"deliberation": ended.deliberation_id, "protocol": ended.protocol, "outcome": failure(ended)}
    else:
        ranking = (f"{it.rank}. {it.agent_id} {it.score:.3f}" for it in ended.ranking)
        facts = {
            "deliberation": ended.deliberation_id,
            "protocol": protocol(ended.protocol, ended.numbers),
            "outcome": f"{ended.winner} wins, {ended.margin:.3f} ahead of the next",
            "ranking": "\n".join(ranking),
            "flips": f"{ended.flips} in {ended.verdicts} verdicts" if ended.verdicts else "",
            "skipped": skipped(ended.skipped),
            "decision": ended.decision.title,
            "content": tables.first_lines(ended.decision.content, 8, 60),
        }
    facts["spent"] = tokens
    names = ("deliberation", "protocol", "outcome", "ranking", "flips", "skipped", "spent", "decision", "content")
    return [(name, facts.get(name, "")) for name in names]


def skipped(phases: Iterable[events.SkippedPhase | context_pb2.SkippedPhase]) -> str:
    """Phases that were left out, a line each."""
    return "\n".join(f"{it.phase}: {it.reason}" for it in phases)


def outcome(event: events.DeliberationCompleted) -> RenderableType:
    """How a deliberation was decided."""
    score = next((ranked.score for ranked in event.ranking if ranked.agent_id == event.winner), None)
    parts: list[RenderableType] = [
        Padding(safe.text(event.decision.content), (0, 2)),
        tables.facts(
            [
                ("winner", event.winner),
                ("score", "" if score is None else f"{score:.3f}, {event.margin:.3f} ahead of the next"),
                ("decision", event.decision_id),
                ("protocol", protocol(event.protocol, event.numbers)),
                ("auto chose", event.chosen_because),
                ("rationale", event.decision.rationale),
                ("missing", "\n".join(f"{agent.agent_id}: {agent.reason}" for agent in event.missing)),
                ("verdicts", f"{event.verdicts}, {event.flips} flips" if event.verdicts else ""),
                ("skipped", skipped(event.skipped)),
                ("spent", spent(event.usage.prompt + event.usage.completion, event.calls, event.duration_seconds)),
            ]
        ),
    ]
    if any(ranked.checks for ranked in event.ranking):
        table = tables.table("proposal", "score", "checks")
        for ranked in sorted(event.ranking, key=lambda ranked: ranked.rank):
            name = f"{ranked.rank}. {ranked.agent_id}" + (" (revised)" if ranked.revised else "")
            lines = "\n".join(check_line(check) for check in ranked.checks)
            table.add_row(safe.text(name), Text(f"{ranked.score:.3f}"), Text(lines))
        parts += [Text(""), table]
    for dissent in event.dissent:
        parts.append(tables.heading(f"Dissent of {safe.line(dissent.agent_id)}"))
        if dissent.argument:
            parts.append(Text(f"  a judge for it: {safe.line(dissent.argument)}", style="dim"))
        parts.append(Padding(Text(tables.first_lines(dissent.content)), (0, 2)))
    return Group(*parts)


def check_line(check: context_pb2.Check | events.Check) -> str:
    """One check in words; a score only where it ran."""
    ran = check.status != "not_run" and check.score is not None
    score = f" {check.score:.2f}" if ran else ""
    return safe.line(f"{check.name}: {check.status}{score}{f' ({check.detail})' if check.detail else ''}")


def spent(tokens: int, calls: int, seconds: float) -> str:
    """What a deliberation took; empty where it does not say."""
    return f"{tokens} tokens, {calls} calls, {seconds:.1f} s" if tokens or calls else ""
