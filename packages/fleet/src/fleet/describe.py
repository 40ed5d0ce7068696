"""Each event in one sentence, the same in the terminal and on the dashboard. Pure.

What an event carries is taken as it is: whoever shows the sentence makes it harmless and as short as there is room.
"""

from fleet_wire import events


def describe(event: events.Event) -> str:
    """What happened."""
    match event:
        case events.StoryCreated():
            return f"story {event.story_id} created: {event.title}"
        case events.StoryTransitioned():
            return f"story {event.story_id} goes from {event.from_state} to {event.to_state}, by {event.actor}"
        case events.PlanApproved():
            what = f"tasks: {len(event.tasks)}" if event.tasks else f"roles: {', '.join(event.roles)}"
            return f"plan {event.plan_id} approved by {event.approved_by}: {event.story.title} ({what})"
        case events.DeliberationStarted():
            council = f"{event.role} council of {len(event.agents)}, by {event.protocol}"
            return f"{event.deliberation_id} started on task {event.task_id}: {council}"
        case events.TokenChunk():
            return f"{event.deliberation_id} {event.agent_id} writes: {event.text}"
        case events.AgentResult(status="failed"):
            why = f"{event.error.kind}: {event.error.message}" if event.error else "no reason given"
            return f"{event.deliberation_id} {event.agent_id} failed: {why}"
        case events.AgentResult():
            took = f"{event.timing.total_seconds:.1f} s, {event.usage.completion} tokens"
            return f"{event.deliberation_id} {event.agent_id} answered ({took}): {event.content}"
        case events.DeliberationCompleted():
            return f"{event.deliberation_id} decided: {event.winner} wins, {event.decision_id}: {event.decision.title}"
        case events.DeliberationFailed():
            return f"{event.deliberation_id} {failure(event)}"
        case events.ResultLate():
            return f"{event.deliberation_id} {event.agent_id} answered {event.late_seconds:.1f} s too late"
        case events.PlanCompleted():
            counts = f"{len(event.decided)} decided, {len(event.failed)} failed, {len(event.skipped)} skipped"
            return f"plan {event.plan_id} completed: {counts}"
        case events.ContextUpdated():
            whose = event.deliberation_id or event.plan_id or event.story_id
            return f"{whose} is in the graph, {len(event.changed)} changed, version {event.version}"
        case _:
            return event.message_id()


def failure(event: events.DeliberationFailed) -> str:
    """Why a deliberation failed, with what each agent that did not answer said."""
    agents = [
        f"{agent.agent_id} {agent.state}" + (f" ({agent.error.kind}: {agent.error.message})" if agent.error else "")
        for agent in event.agents
        if agent.state != "completed"
    ]
    return "; ".join(filter(None, [f"failed: {event.reason}", event.detail, *agents]))
