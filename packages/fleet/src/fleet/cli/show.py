"""Plans, decisions and deliberations as tables and text. Whatever a plan or model wrote goes through `safe`."""

import datetime as dt
from collections.abc import Iterable, Sequence

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fleet.cli import safe
from fleet_wire import events
from fleet_wire.gen.context.v1 import context_pb2
from fleet_wire.gen.planning.v1 import planning_pb2

FIRST_LINES = 3


def moment(stamp: Timestamp) -> str:
    """A protobuf time in local time, to the second; empty where it is not set."""
    return stamp.ToDatetime(tzinfo=dt.timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M:%S") if stamp.seconds else ""


def first_lines(content: str, count: int = FIRST_LINES, width: int = 100) -> str:
    """The first lines that are not blank, each cut to the width."""
    lines = [part for part in safe.safe(content).splitlines() if part.strip()]
    kept = [part if len(part) <= width else part[: width - 1] + "…" for part in lines[:count]]
    return "\n".join([*kept, "…"] if len(lines) > count else kept)


def plan(answer: planning_pb2.GetPlanResponse) -> RenderableType:
    """A plan with its story and tasks."""
    found, story = answer.plan, answer.story
    facts: list[tuple[str, str]] = [
        ("plan", f"{found.plan_id}, version {found.plan_version}, {found.state}"),
        ("story", f"{found.story_id}: {story.title}"),
        ("brief", story.brief),
        ("acceptance", "\n".join(story.acceptance)),
        ("phase", story.phase),
        ("proposed", moment(found.proposed_at)),
        ("decided", f"{moment(found.decided_at)} by {found.decided_by}" if found.decided_by else ""),
        ("reason", found.reject_reason),
        ("roles", ", ".join(found.roles)),
    ]
    table = _table("task", "role", "title", "needs", "requirements")
    for task in found.tasks:
        cells = (task.task_id, task.role, task.title, ", ".join(task.depends_on), "\n".join(task.requirements))
        table.add_row(*map(safe.text, cells))
    return Group(_facts(facts), table) if found.tasks else _facts(facts)


def plans(stories: Iterable[planning_pb2.Story]) -> Table:
    """Each plan of the stories in a line."""
    table = _table("plan", "version", "state", "proposed", "story")
    for story in stories:
        for found in story.plans:
            cells = (found.plan_id, str(found.plan_version), found.state, moment(found.proposed_at), story.title)
            table.add_row(*(Text(safe.line(cell)) for cell in cells))
    return table


def decisions(found: Iterable[context_pb2.Decision]) -> Table:
    """Each decision in a line."""
    table = _table("decision", "role", "score", "winner", "decided", "title")
    for decision in found:
        cells = (
            decision.decision_id,
            decision.role,
            f"{decision.score:.3f}",
            decision.winner,
            moment(decision.decided_at),
            decision.title,
        )
        table.add_row(*(Text(safe.line(cell)) for cell in cells))
    return table


def explanation(answer: context_pb2.ExplainDecisionResponse) -> RenderableType:
    """A decision, and why: each proposal with rank, score and checks, the dissent, who is missing, what it builds on."""
    decision = answer.decision
    parts: list[RenderableType] = [
        _facts(
            [
                ("decision", decision.decision_id),
                ("title", decision.title),
                ("story", f"{decision.story_id}: {answer.story_title}" if decision.story_id else ""),
                ("task", f"{decision.task_id}: {answer.task_title}" if decision.task_id else ""),
                ("plan", decision.plan_id),
                ("council", f"{decision.role}, by {decision.protocol}"),
                ("winner", f"{decision.winner}, score {decision.score:.3f}, {decision.margin:.3f} ahead of the next"),
                ("decided", moment(decision.decided_at)),
                ("rationale", decision.rationale),
                ("builds on", "\n".join(answer.based_on)),
                ("missing", "\n".join(f"{agent.agent_id}: {agent.reason}" for agent in answer.missing)),
            ]
        ),
        _heading("What was decided"),
        Padding(safe.text(decision.content), (0, 2)),
    ]
    for proposal in sorted(answer.proposals, key=lambda proposal: proposal.rank):
        who = safe.line(proposal.agent_id)
        parts.append(_heading(f"Proposal {proposal.rank}: {who}, score {proposal.score:.3f}"))
        for check in proposal.checks:
            parts.append(Text(f"  {check_line(check)}", style="dim"))
        if proposal.rank != 1 or proposal.content != decision.content:
            parts.append(Padding(safe.text(proposal.content), (0, 2)))
        if proposal.content_cut:
            parts.append(Text("  (the answer was longer and has been cut)", style="dim"))
    for dissent in answer.dissent:
        parts.append(_heading(f"Dissent of {safe.line(dissent.agent_id)}"))
        parts.append(Padding(safe.text(dissent.content), (0, 2)))
    return Group(*parts)


def check_line(check: context_pb2.Check | events.Check) -> str:
    """One check in words; a score only where it ran."""
    ran = check.status != "not_run" and check.score is not None
    score = f" {check.score:.2f}" if ran else ""
    return safe.line(f"{check.name}: {check.status}{score}{f' ({check.detail})' if check.detail else ''}")


def outcome(event: events.DeliberationCompleted) -> RenderableType:
    """How a deliberation was decided."""
    score = next((ranked.score for ranked in event.ranking if ranked.agent_id == event.winner), None)
    parts: list[RenderableType] = [
        Padding(safe.text(event.decision.content), (0, 2)),
        _facts(
            [
                ("winner", event.winner),
                ("score", "" if score is None else f"{score:.3f}, {event.margin:.3f} ahead of the next"),
                ("decision", event.decision_id),
                ("rationale", event.decision.rationale),
                ("missing", "\n".join(f"{agent.agent_id}: {agent.reason}" for agent in event.missing)),
            ]
        ),
    ]
    for dissent in event.dissent:
        parts.append(_heading(f"Dissent of {safe.line(dissent.agent_id)}"))
        parts.append(Padding(Text(first_lines(dissent.content)), (0, 2)))
    return Group(*parts)


def proposals(task: str, answer: context_pb2.ExplainDecisionResponse) -> RenderableType:
    """What the demo prints for a task: each proposal in its first lines, the winner, its score and the decision's id."""
    table = _table("agent", "score", "", "proposal")
    for proposal in sorted(answer.proposals, key=lambda proposal: proposal.rank):
        wins = proposal.agent_id == answer.decision.winner
        table.add_row(
            safe.text(proposal.agent_id),
            Text(f"{proposal.score:.3f}"),
            Text("wins" if wins else "", style="green"),
            Text(first_lines(proposal.content, width=90)),
        )
    for agent in answer.missing:
        table.add_row(safe.text(agent.agent_id), Text("-"), Text("none", style="red"), safe.text(agent.reason))
    decision = answer.decision
    facts = [
        ("winner", decision.winner),
        ("score", f"{decision.score:.3f}"),
        ("decision", decision.decision_id),
        ("builds on", ", ".join(answer.based_on)),
    ]
    return Group(_heading(safe.line(task)), table, _facts(facts), Text(""))


def _facts(pairs: Sequence[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        if value:
            grid.add_row(name, safe.text(value))
    return grid


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        # Ids stand first and are to be copied: they are neither cut nor folded, the rest makes room.
        table.add_column(column, overflow="fold", no_wrap=index == 0)
    return table


def _heading(words: str) -> Text:
    return Text(f"\n{words}", style="bold")
