"""Plans, decisions and deliberations as tables and text. Whatever a plan or model wrote goes through `safe`."""

import itertools
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fleet.cli import outcomes, safe, tables
from fleet.describe import protocol
from fleet_wire.gen.context.v1 import context_pb2
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2
from fleet_wire.gen.planning.v1 import planning_pb2


def plan(answer: planning_pb2.GetPlanResponse, relies: Mapping[str, Sequence[str]] | None = None) -> RenderableType:
    """A plan with its story and tasks, and the superseded decisions that those of its tasks rely on, by task."""
    found, story = answer.plan, answer.story
    facts: list[tuple[str, str]] = [
        ("plan", f"{found.plan_id}, version {found.plan_version}, {found.state}"),
        ("story", f"{found.story_id}: {story.title}"),
        ("brief", story.brief),
        ("acceptance", "\n".join(story.acceptance)),
        ("phase", story.phase),
        ("proposed", tables.moment(found.proposed_at)),
        ("decided", f"{tables.moment(found.decided_at)} by {found.decided_by}" if found.decided_by else ""),
        ("reason", found.reject_reason),
        ("superseded by", found.superseded_by),
        ("completed", tables.moment(found.completed_at)),
        ("roles", ", ".join(found.roles)),
        ("budget", tables.budget(found.budget)),
        ("on superseded", "\n".join(f"{task}: {', '.join(ids)}" for task, ids in (relies or {}).items())),
    ]
    table = tables.table("task", "role", "title", "needs", "protocol", "requirements")
    for task in found.tasks:
        by = protocol(task.protocol or "the council's", task.numbers)
        how = "\n".join(
            word for word in (by, tables.budget(task.budget), task.entry_point and f"{task.entry_point}()") if word
        )
        needs = ", ".join(task.depends_on)
        cells = (task.task_id, task.role, task.title, needs, how, "\n".join(task.requirements))
        table.add_row(*map(safe.text, cells))
    return Group(tables.facts(facts), table) if found.tasks else tables.facts(facts)


def plan_progress(answer: orchestrator_pb2.GetPlanProgressResponse) -> RenderableType:
    """How far each task is, why one failed or was skipped, and which rely on what was superseded."""
    times = f"{tables.moment(answer.started_at)} to {tables.moment(answer.ended_at) or 'now'}"
    facts = [
        ("plan", f"{answer.plan_id}, {answer.state}, round {answer.round or 1}"),
        ("story", answer.story_id),
        ("time", times),
        ("budget", tables.budget(answer.budget)),
        ("set aside", tables.budget(answer.reserved)),
        ("spent", tables.budget(answer.spent)),
    ]
    table = tables.table("task", "role", "state", "try", "deliberation", "why")
    for task in answer.tasks:
        why = (
            f"relies on superseded {', '.join(task.relies_on_superseded)}" if task.relies_on_superseded else task.reason
        )
        cells = (task.task_id, task.role, task.state, str(task.number or 1), task.deliberation_id, why)
        table.add_row(*(Text(safe.line(cell)) for cell in cells))
    return Group(tables.facts(facts), table)


def story(found: planning_pb2.Story) -> RenderableType:
    """A story with its plans and the transitions it made."""
    parts: list[RenderableType] = [
        tables.facts(
            [
                ("story", found.story_id),
                ("title", found.title),
                ("state", found.state),
                ("next", allowed(found)),
                ("brief", found.brief),
                ("acceptance", "\n".join(found.acceptance)),
                ("phase", found.phase),
                ("created", tables.moment(found.created_at)),
            ]
        )
    ]
    if found.plans:
        parts.append(plans([found]))
    if found.transitions:
        made = tables.table("event", "to", "by", "at", "reason")
        for one in found.transitions:
            cells = (one.event, one.to_state, one.actor, tables.moment(one.transitioned_at), one.reason)
            made.add_row(*(Text(safe.line(cell)) for cell in cells))
        parts.append(made)
    return Group(*parts)


def stories(found: Iterable[planning_pb2.Story]) -> Table:
    """Each story in a line, with its newest plan."""
    table = tables.table("story", "state", "plan", "created", "title")
    for one in found:
        newest = f"version {one.plans[-1].plan_version}, {one.plans[-1].state}" if one.plans else ""
        cells = (one.story_id, one.state, newest, tables.moment(one.created_at), one.title)
        table.add_row(*(Text(safe.line(cell)) for cell in cells))
    return table


def allowed(story: planning_pb2.Story) -> str:
    """The events that a story's state has, on one line."""
    return safe.line(", ".join(story.allowed_events)) or "nothing, it is the last state"


def plans(stories: Iterable[planning_pb2.Story]) -> Table:
    """Each plan of the stories in a line."""
    table = tables.table("plan", "version", "state", "proposed", "story")
    for story in stories:
        for found in story.plans:
            cells = (found.plan_id, str(found.plan_version), found.state, tables.moment(found.proposed_at), story.title)
            table.add_row(*(Text(safe.line(cell)) for cell in cells))
    return table


def decisions(found: Iterable[context_pb2.Decision], relevance: Sequence[float] = ()) -> Table:
    """Each decision in a line, with how well it fits what was searched for."""
    fits = ("fits",) if relevance else ()
    table = tables.table("decision", *fits, "role", "score", "winner", "decided", "title")
    for decision, how_well in itertools.zip_longest(found, relevance):
        score = f"{decision.score:.3f}" if decision.winner else ""
        mark = " (superseded)" if decision.superseded_by else ""
        cells = (
            decision.decision_id,
            *((f"{how_well:.2f}",) if fits else ()),
            decision.role,
            score,
            decision.winner or decision.decided_by,
            tables.moment(decision.decided_at),
            f"{decision.title}{mark}",
        )
        table.add_row(*(Text(safe.line(cell)) for cell in cells))
    return table


def explanation(answer: context_pb2.ExplainDecisionResponse) -> RenderableType:
    """A decision, and why: each proposal with rank, score and checks, the dissent, who is missing, what it depended on, what
    has depended on it since, and what took whose place."""
    decision = answer.decision
    titles = {one.decision_id: one.title for one in answer.bases}
    winner = f"{decision.winner}, score {decision.score:.3f}, {decision.margin:.3f} ahead of the next"
    council = f"{decision.role}, by {protocol(decision.protocol, answer.numbers)}"
    parts: list[RenderableType] = [
        tables.facts(
            [
                ("decision", decision.decision_id),
                ("title", decision.title),
                ("story", f"{decision.story_id}: {answer.story_title}" if decision.story_id else ""),
                ("task", f"{decision.task_id}: {answer.task_title}" if decision.task_id else ""),
                ("plan", decision.plan_id),
                ("decided by", decision.decided_by and f"{decision.decided_by} ({decision.kind})"),
                ("council", "" if decision.decided_by else council),
                ("auto chose", answer.chosen_because),
                ("winner", winner if decision.winner else ""),
                ("decided", tables.moment(decision.decided_at)),
                ("rationale", decision.rationale),
                ("superseded by", _named(answer.superseded_by)),
                ("supersedes", _named(answer.supersedes)),
                ("builds on", "\n".join(_name(id, titles.get(id, "")) for id in answer.based_on)),
                ("on superseded", "\n".join(decision.relies_on_superseded)),
                ("built on by", _dependents(answer)),
                ("affects", "\n".join(answer.affects)),
                ("binds", "\n".join(answer.constrains)),
                ("missing", "\n".join(f"{agent.agent_id}: {agent.reason}" for agent in answer.missing)),
                ("verdicts", f"{answer.verdicts}, {answer.flips} flips" if answer.verdicts else ""),
                ("skipped", outcomes.skipped(answer.skipped)),
                ("spent", outcomes.spent(answer.tokens, answer.calls, answer.duration_seconds)),
            ]
        ),
        tables.heading("What was decided"),
        Padding(safe.text(decision.content), (0, 2)),
    ]
    for proposal in sorted(answer.proposals, key=lambda proposal: proposal.rank):
        who = safe.line(proposal.agent_id)
        revised = ", revised after critique" if proposal.revised else ""
        parts.append(tables.heading(f"Proposal {proposal.rank}: {who}, score {proposal.score:.3f}{revised}"))
        for check in proposal.checks:
            parts.append(Text(f"  {outcomes.check_line(check)}", style="dim"))
        if proposal.rank != 1 or proposal.content != decision.content:
            parts.append(Padding(safe.text(proposal.content), (0, 2)))
        if proposal.content_cut:
            parts.append(Text("  (the answer was longer and has been cut)", style="dim"))
    for dissent in answer.dissent:
        parts.append(tables.heading(f"Dissent of {safe.line(dissent.agent_id)}"))
        if dissent.argument:
            parts.append(Text(f"  a judge for it: {safe.line(dissent.argument)}", style="dim"))
        parts.append(Padding(safe.text(dissent.content), (0, 2)))
    return Group(*parts)


def _named(found: Iterable[context_pb2.RelatedDecision]) -> str:
    return "\n".join(_name(one.decision_id, one.title, one.decided_by) for one in found)


def _name(decision_id: str, title: str, decided_by: str = "") -> str:
    words = f"{decision_id}: {safe.line(title, 80)}" if title else decision_id
    return f"{words}, by {decided_by}" if decided_by else words


def _dependents(answer: context_pb2.ExplainDecisionResponse) -> str:
    lines = []
    for one in answer.dependents:
        through = "" if one.through in ("", answer.decision.decision_id) else f" (through {one.through})"
        mark = " (superseded)" if one.superseded_by else ""
        lines.append(_name(one.decision_id, one.title, one.decided_by) + through + mark)
    return "\n".join([*lines, *(["and more"] if answer.dependents_cut else [])])


def proposals(task: str, answer: context_pb2.ExplainDecisionResponse) -> RenderableType:
    """What the demo prints for a task: each proposal in its first lines, the winner, its score and the decision's id."""
    table = tables.table("agent", "score", "", "proposal")
    for proposal in sorted(answer.proposals, key=lambda proposal: proposal.rank):
        wins = proposal.agent_id == answer.decision.winner
        table.add_row(
            safe.text(proposal.agent_id),
            Text(f"{proposal.score:.3f}"),
            Text("wins" if wins else "", style="green"),
            Text(tables.first_lines(proposal.content, width=90)),
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
    return Group(tables.heading(safe.line(task)), table, tables.facts(facts), Text(""))
