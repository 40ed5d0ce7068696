"""The orchestrator's values as its messages say them."""

from collections.abc import Sequence

from fleet.deliberation import plan as rules
from fleet.deliberation.plan import Plan
from fleet.deliberation.state import Deliberation, job_word
from fleet.orchestrator.councils import Council
from fleet.planmessages import budget_message
from fleet_wire import ids
from fleet_wire.events import TokenChunk
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2 as pb
from fleet_wire.rpc import timestamp

STARTED = ("running", "decided")
"""Tasks that have a deliberation, or have one in a moment."""


def deliberation_message(state: Deliberation) -> pb.Deliberation:
    ended = [job for job in state.jobs if job.status != "waiting"]
    return pb.Deliberation(
        deliberation_id=state.deliberation_id,
        plan_id=state.plan_id,
        story_id=state.story_id,
        task_id=state.task.task_id,
        role=state.task.role,
        protocol=state.protocol,
        state=state.status,
        jobs=[
            pb.Job(
                agent_id=job.agent_id,
                job_id=job.job_id,
                state=job_word(state, job),
                error=f"{job.error.kind}: {job.error.message}" if job.error else "",
                phase=job.phase,
                item=job.item,
            )
            for job in state.jobs
        ],
        created_at=timestamp(state.created_at),
        deadline=timestamp(state.deadline),
        ended_at=timestamp(state.closed_at),
        decision_id=state.decision_id,
        reason=state.reason or "",
        title=state.task.title,
        quorum=state.quorum,
        phase=state.phase,
        numbers=state.numbers,
        chosen_because=state.chosen_because,
        budget=budget_message(state.budget, pb.Budget),
        tokens_spent=sum(job.tokens for job in ended),
        calls_spent=sum(job.calls for job in ended),
    )


def text_message(chunk: TokenChunk) -> pb.Text:
    return pb.Text(
        agent_id=chunk.agent_id,
        job_id=chunk.job_id,
        attempt=chunk.attempt,
        seq=chunk.seq,
        text=chunk.text,
        done=chunk.done,
    )


def plan_message(plan: Plan) -> pb.GetPlanProgressResponse:
    return pb.GetPlanProgressResponse(
        plan_id=plan.plan_id,
        story_id=plan.story_id,
        state=plan.status,
        tasks=[
            pb.TaskProgress(
                task_id=task.task.task_id,
                title=task.task.title,
                role=task.task.role,
                depends_on=task.task.depends_on,
                state=task.status,
                deliberation_id=rules.deliberation_of(plan, task) if task.started or task.status in STARTED else "",
                decision_id=ids.decision_id(rules.deliberation_of(plan, task)) if task.status == "decided" else "",
                reason=task.reason,
                number=task.number,
                relies_on_superseded=task.relies_on_superseded,
            )
            for task in plan.tasks
        ],
        started_at=timestamp(plan.started_at),
        ended_at=timestamp(plan.ended_at),
        round=plan.round,
        budget=budget_message(plan.budget, pb.Budget),
        reserved=budget_message(rules.reserved(plan), pb.Budget),
        spent=budget_message(plan.spent, pb.Budget),
    )


def council_message(council: Council, running: Sequence[Deliberation]) -> pb.Council:
    """The council with what each agent does now, read off the deliberations that run."""
    busy: dict[str, list[str]] = {}
    for state in running:
        for agent in {job.agent_id for job in state.jobs if job_word(state, job) == "running"}:
            busy.setdefault(agent, []).append(state.deliberation_id)
    return pb.Council(
        role=council.role,
        quorum=council.needed(),
        protocol=council.protocol,
        numbers=council.numbers,
        agents=[
            pb.Agent(
                agent_id=agent,
                state="running" if agent in busy else "idle",
                deliberation_ids=busy.get(agent, []),
            )
            for agent in council.agents
        ],
    )
