"""What an agent of each role sees of the complex example plan: docs/context.md shows what a running service answered.

With WRITE_DOCS=1 in the environment, the test writes the examples anew.
"""

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import context_samples as samples
import realparts
from test_context_service import eventually, running

from fleet import planfile
from fleet.settings import GraphSettings
from fleet_wire import events, ids
from fleet_wire.bus import Bus
from fleet_wire.gen.context.v1 import context_pb2

DOCS = Path(__file__).resolve().parents[4] / "docs/context.md"
BEGIN, END = "<!-- examples: begin -->", "<!-- examples: end -->"
STORY, PLAN = "story-webhook", "plan-webhook"
TOKEN_BUDGET = 700
SHOWN = 150
"""Characters of a block's text."""
EXAMPLES = ("contract", "handler", "schema", "queue", "load-test")
"""A task of each role."""
DECIDED = {
    "contract": "Verify the HMAC over the raw body first; store the event under the provider's id; answer 200 only then.",
    "handler": "Verify, insert with the event id as unique key, and answer 200 also where the row was there already.",
    "schema": "events(id primary key, body, received_at); payments(id, event_id references events unique, cents, currency).",
    "queue": "The worker takes rows by SKIP LOCKED, retries with back-off for an hour, then a dead letter table with an alert.",
}
"""What is decided before the load test is planned."""


async def test_the_examples_in_the_docs_are_what_a_running_service_answers(
    graph_settings: GraphSettings, nats_url: str, bus: Bus, tmp_path: Path
) -> None:
    plan = planfile.load_test_case("complex")
    approved = samples.plan_approved(
        STORY,
        PLAN,
        [
            samples.task(
                task.task_id,
                title=task.title,
                description=task.description,
                role=task.role,
                requirements=list(task.requirements),
                acceptance=list(task.acceptance),
                depends_on=list(task.depends_on),
            )
            for task in plan.tasks
        ],
        approved_by="maintainer",
        story=events.StoryText(
            title=plan.story.title, brief=plan.story.brief, acceptance=list(plan.story.acceptance), phase="build"
        ),
    )
    tasks = {task.task_id: task for task in approved.tasks}
    written = []
    with realparts.valkey_server(tmp_path) as valkey:
        async with running(graph_settings, nats_url, valkey.url) as service:
            await service.until_ready()
            await bus.publish(approved)
            for task_id in EXAMPLES:
                request = request_for(tasks[task_id])
                await eventually(functools.partial(service.stub.GetContext, request))
                written.append("\n".join(described(tasks[task_id], await service.stub.GetContext(request))))
                if task_id in DECIDED:
                    event = decided(tasks[task_id], len(written))
                    await bus.publish(event)
                    known = context_pb2.ExplainDecisionRequest(decision_id=event.decision_id)
                    await eventually(functools.partial(service.stub.ExplainDecision, known))
    before, _, rest = DOCS.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    now = "\n".join((before + BEGIN, "\n\n".join(written), END + after))
    if os.environ.get("WRITE_DOCS"):
        DOCS.write_text(now)
    assert DOCS.read_text() == now, "WRITE_DOCS=1 writes them anew"


def request_for(task: events.PlanTask) -> context_pb2.GetContextRequest:
    """What the orchestrator asks when it starts the task: with the decisions that it depends on."""
    return context_pb2.GetContextRequest(
        story_id=STORY,
        plan_id=PLAN,
        task_id=task.task_id,
        role=task.role,
        phase="build",
        token_budget=TOKEN_BUDGET,
        required_decision_ids=[ids.decision_id(ids.deliberation_id(PLAN, other, 1)) for other in task.depends_on],
    )


def decided(task: events.PlanTask, minute: int) -> events.DeliberationCompleted:
    text = events.DecisionText(title=task.title, content=DECIDED[task.task_id], rationale="It won both of its pairs.")
    based_on = list(request_for(task).required_decision_ids)
    return samples.completed(STORY, PLAN, task.task_id, task.role, minute, decision=text, based_on=based_on)


def described(task: events.PlanTask, answer: context_pb2.GetContextResponse) -> Iterator[str]:
    """The blocks in the order in which the agent gets them, each with its tokens and the beginning of its text."""
    yield f"### {task.role}: `{task.task_id}`\n"
    yield f"{answer.tokens} of {TOKEN_BUDGET} tokens.\n"
    yield "| block | title | tokens | text |\n|---|---|---|---|"
    for block in answer.blocks:
        text = " ".join(block.text.split())
        shown = text if len(text) <= SHOWN else f"{text[:SHOWN].rpartition(' ')[0]} …"
        yield f"| {block.kind} | {block.title} | {block.tokens} | {shown} |".replace("  ", " ")
    if answer.left_out:
        yield f"\nLeft out: {', '.join(f'{it.kind} `{it.source_id}` ({it.reason})' for it in answer.left_out)}."
