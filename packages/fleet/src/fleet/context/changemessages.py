"""Changes and what became of them, as their messages say them."""

from fleet.context.changes import Affects, Change, Constraint, Milestone, Nothing, Override, Result, Summary
from fleet_wire.gen.context.v1 import context_pb2


def change_of(message: context_pb2.Change) -> Change:
    """The change, as it came."""
    match message.WhichOneof("change"):
        case "override":
            told = message.override
            return Override(decision_id=told.decision_id, title=told.title, content=told.content, reason=told.reason)
        case "constraint":
            bound = message.constraint
            return Constraint(
                story_id=bound.story_id,
                plan_id=bound.plan_id,
                task_id=bound.task_id,
                title=bound.title,
                text=bound.text,
                reason=bound.reason,
            )
        case "affects":
            said = message.affects
            return Affects(decision_id=said.decision_id, story_id=said.story_id, reason=said.reason)
        case "summary":
            return Summary(story_id=message.summary.story_id, text=message.summary.text)
        case "milestone":
            return Milestone(story_id=message.milestone.story_id, text=message.milestone.text)
    return Nothing()


def result_message(result: Result) -> context_pb2.ChangeResult:
    return context_pb2.ChangeResult(
        applied=result.applied,
        id=result.id,
        code=result.code,
        message=result.message,
        superseded=result.superseded,
        flagged=result.flagged,
        stories=[context_pb2.StoryVersion(story_id=one.story_id, version=one.version) for one in result.stories],
    )
