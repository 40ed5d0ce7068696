"""The memory that is measured: stories, plans and decisions made of plain sentences, the same ones in every run."""

import datetime as dt
import itertools
import random
from collections.abc import Iterator

from bench.context.budget import PLANS, TASKS
from fleet_wire import events, ids
from fleet_wire.gen.context.v1 import context_pb2

ROLES = ("ARCHITECT", "DEV", "DATA", "DEVOPS", "QA")
PROPOSALS = 3
CHECKS = ("parse", "lint", "requirements")
OPEN = ("open-0", "open-1", "open-2")
"""Tasks of each story's last plan that are left undecided, for the measurements of writing."""
TOKEN_BUDGET = 2048
_BEGUN = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)
_SENTENCES = (
    "Store the event under its own id before the answer is sent, so that a repeated one finds it.",
    "Retry with a growing pause and give up after five attempts, with an alert that names the queue.",
    "Keep the table narrow: the id, the amount in cents, the currency, and when it was booked.",
    "Roll out to one shop in twenty first and compare its sums with those of the old path for a day.",
    "Refuse a request whose signature does not match, and log its sender without its body.",
    "Let the worker take a row by a lock that it renews, so that a crashed one gives it back.",
    "Read the limits from the settings and say at start which ones are in force.",
    "Count what was received, what was booked and what waits, and draw all three on one page.",
)


def story_id(number: int) -> str:
    return f"story-{number}"


def plan_id(story: int, plan: int) -> str:
    return f"plan-{story}-{plan}"


def decision_id(story: int, plan: int, task: str) -> str:
    return ids.decision_id(ids.deliberation_id(plan_id(story, plan), task, 1))


def approved(story: int, plan: int) -> events.PlanApproved:
    """A plan of TASKS tasks in all roles, each of which depends on the two before it."""
    names = [*map(str, range(TASKS)), *(OPEN if plan == PLANS - 1 else ())]
    chosen = random.Random(f"{story}/{plan}")
    tasks = [
        events.PlanTask(
            task_id=name,
            title=f"Step {name} of the payments",
            description=_text(chosen, 3),
            role=_role(place),
            requirements=[_text(chosen, 1), _text(chosen, 1)],
            depends_on=names[max(0, place - 2) : place],
        )
        for place, name in enumerate(names)
    ]
    return events.PlanApproved(
        story_id=story_id(story),
        story=events.StoryText(
            title=f"Payments of shop {story}", brief=_text(chosen, 3), acceptance=[_text(chosen, 1)]
        ),
        plan_id=plan_id(story, plan),
        plan_version=plan + 1,
        approved_by="bench",
        approved_at=_BEGUN + dt.timedelta(days=plan),
        tasks=tasks,
    )


def decided(story: int, plan: int, task: str) -> events.DeliberationCompleted:
    """A decision of three proposals of four sentences, each with its checks, and one dissent."""
    place = _place(task)
    chosen = random.Random(f"{story}/{plan}/{task}")
    role = _role(place)
    agents = [ids.agent_id(role, number) for number in range(1, PROPOSALS + 1)]
    deliberation = ids.deliberation_id(plan_id(story, plan), task, 1)
    ranking = [
        events.Ranked(
            agent_id=agent,
            rank=rank,
            score=round(1 - 0.2 * rank, 2),
            checks=[events.Check(name=name, status="passed", score=1.0, detail="as it should be") for name in CHECKS],
            content=_text(chosen, 4),
        )
        for rank, agent in enumerate(agents, start=1)
    ]
    return events.DeliberationCompleted(
        deliberation_id=deliberation,
        task_id=task,
        plan_id=plan_id(story, plan),
        story_id=story_id(story),
        decision_id=ids.decision_id(deliberation),
        role=role,  # type: ignore[arg-type]
        protocol="tournament",
        winner=agents[0],
        decision=events.DecisionText(
            title=f"Step {task} of the payments", content=ranking[0].content, rationale=_text(chosen, 1)
        ),
        ranking=ranking,
        margin=0.2,
        dissent=[events.Dissent(agent_id=agents[1], content=ranking[1].content, argument=_text(chosen, 1))],
        based_on=_required(story, plan, task),
        calls=5,
        usage=events.Usage(prompt=900, completion=400),
        duration_seconds=4.0,
        decided_at=_BEGUN + dt.timedelta(days=plan, minutes=place + 1),
    )


def requests(stories: int) -> Iterator[context_pb2.GetContextRequest]:
    """Requests no two of which are the same, without end: each task in an order of chance, then again with another budget."""
    tasks = [(story, plan, task) for story in range(stories) for plan in range(PLANS) for task in range(TASKS)]
    random.Random(1).shuffle(tasks)
    for budget in itertools.count(TOKEN_BUDGET):
        for story, plan, task in tasks:
            yield context_pb2.GetContextRequest(
                story_id=story_id(story),
                plan_id=plan_id(story, plan),
                task_id=str(task),
                role=_role(task),
                phase="build",
                token_budget=budget,
                required_decision_ids=_required(story, plan, str(task)),
            )


def _place(task: str) -> int:
    return TASKS + OPEN.index(task) if task in OPEN else int(task)


def _required(story: int, plan: int, task: str) -> list[str]:
    """What a task's decision rests on: those of the two tasks before it that are decided in every run."""
    place = min(_place(task), TASKS)
    return [decision_id(story, plan, str(other)) for other in range(max(0, place - 2), place)]


def _role(place: int) -> events.Role:
    return ROLES[place % len(ROLES)]  # type: ignore[return-value]


def _text(chosen: random.Random, sentences: int) -> str:
    return " ".join(chosen.choice(_SENTENCES) for _ in range(sentences))
