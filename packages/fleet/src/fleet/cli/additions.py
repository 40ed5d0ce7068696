"""`fleet context add-…`: what people add to the memory of a story."""

from typing import Annotated

import typer

from fleet.cli import changing, client
from fleet.cli.addresses import addresses
from fleet.cli.changing import By, RequestId
from fleet.cli.options import AsJson
from fleet_wire.gen.context.v1 import context_pb2

StoryId = Annotated[str, typer.Argument(metavar="STORY", help="The story's id.")]
Text = Annotated[str, typer.Argument(metavar="TEXT", help="What is to be kept.")]
Why = Annotated[str, typer.Option("--reason", help="Why; kept with it.")]


def add_constraint(
    story_id: StoryId,
    text: Text,
    title: Annotated[str, typer.Option(help="It in a few words.")],
    reason: Why,
    plan: Annotated[str, typer.Option(metavar="ID", help="The plan that --task is of.")] = "",
    task: Annotated[str, typer.Option(metavar="ID", help="Bind this task only; the whole story unless given.")] = "",
    by: By = "",
    request_id: RequestId = "",
    as_json: AsJson = False,
) -> None:
    """Bind the work on a story, or on one task of it: all who work on it see the constraint.

    Example:  fleet context add-constraint story-3f2a "The schema is frozen." --title "No new tables" --reason "the release"
    """
    bound = context_pb2.AddConstraint(
        story_id=story_id, plan_id=plan, task_id=task, title=title, text=text, reason=reason
    )
    _add(context_pb2.Change(constraint=bound), by, request_id, as_json)


def add_affects(
    story_id: StoryId,
    decision_id: Annotated[str, typer.Argument(metavar="DECISION", help="The decision's id.")],
    reason: Why,
    by: By = "",
    request_id: RequestId = "",
    as_json: AsJson = False,
) -> None:
    """Say that a decision concerns a further story: it stands in that story's contexts too.

    Example:  fleet context add-affects story-3f2a dec-delib-5a0c --reason "both use the store"
    """
    said = context_pb2.AddAffects(story_id=story_id, decision_id=decision_id, reason=reason)
    _add(context_pb2.Change(affects=said), by, request_id, as_json)


def add_summary(
    story_id: StoryId, text: Text, by: By = "", request_id: RequestId = "", as_json: AsJson = False
) -> None:
    """Say where a story stands.

    Example:  fleet context add-summary story-3f2a "The limit works on one node; the shared store is next."
    """
    said = context_pb2.AddSummary(story_id=story_id, text=text)
    _add(context_pb2.Change(summary=said), by, request_id, as_json)


def add_milestone(
    story_id: StoryId, text: Text, by: By = "", request_id: RequestId = "", as_json: AsJson = False
) -> None:
    """Say what a story has reached.

    Example:  fleet context add-milestone story-3f2a "The pilot customer uses it."
    """
    said = context_pb2.AddMilestone(story_id=story_id, text=text)
    _add(context_pb2.Change(milestone=said), by, request_id, as_json)


def _add(change: context_pb2.Change, by: str, request_id: str, as_json: bool) -> None:
    async def main() -> int:
        async with client.clients(addresses()) as to:
            return await changing.change(to, change, by, request_id, as_json)

    client.run(main, changing.HINTS)
