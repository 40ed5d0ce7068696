"""A client of the executor, and what tests ask of the streams."""

import asyncio
import datetime as dt
import time
import uuid
from types import TracebackType
from typing import Optional

import grpc
import nats.errors

from fleet_wire import events, ids, rpc
from fleet_wire.bus import Bus
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2 as pb
from fleet_wire.gen.ray_executor.v1 import ray_executor_pb2_grpc as pb_grpc


def request(prompts: list[str], seconds: float = 90) -> pb.ExecuteDeliberationRequest:
    """One job a prompt, of a deliberation of its own."""
    name = uuid.uuid4().hex[:12]
    made = pb.ExecuteDeliberationRequest(deliberation_id=f"delib-{name}", task_id=f"task-{name}")
    made.deadline.FromDatetime(dt.datetime.now(dt.timezone.utc) + dt.timedelta(seconds=seconds))
    for number, prompt in enumerate(prompts, 1):
        agent = ids.agent_id("DEV", number)
        made.jobs.add(
            job_id=ids.job_id(made.deliberation_id, "propose", agent, "", 1),
            agent_id=agent,
            role="DEV",
            phase="propose",
            messages=[pb.Message(role="system", content="You are terse."), pb.Message(role="user", content=prompt)],
            max_tokens=64,
            temperature=0.5,
            seed=2**63 + number,
        )
    return made


class Client:
    def __init__(self, address: str) -> None:
        self._address = address

    async def __aenter__(self) -> "Client":
        self._channel = rpc.channel(self._address)
        self.stub = pb_grpc.RayExecutorServiceStub(self._channel)
        return self

    async def __aexit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        await self._channel.close()

    async def status(self) -> pb.GetStatusResponse:
        return await self.stub.GetStatus(pb.GetStatusRequest(), timeout=15, wait_for_ready=True)

    async def until(self, what: str, check, seconds: float = 90):  # type: ignore[no-untyped-def]
        """Waits until `check()` gives something true, and answers with it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = await check()
            if found:
                return found
            await asyncio.sleep(0.1)
        raise AssertionError(f"{what} did not come within {seconds:g} s; the executor says {await self.status()}")

    async def ready(self, seconds: float = 90) -> pb.GetStatusResponse:
        async def check() -> Optional[pb.GetStatusResponse]:
            status = await self.status()
            return status if status.ready else None

        return await self.until("readiness", check, seconds)

    async def execute(self, asked: pb.ExecuteDeliberationRequest) -> list[str]:
        answer = await rpc.call(self.stub.ExecuteDeliberation(asked, timeout=15), "the executor")
        return list(answer.accepted_job_ids)

    async def cancel(self, deliberation_id: str) -> list[str]:
        asked = pb.CancelDeliberationRequest(deliberation_id=deliberation_id)
        answer = await rpc.call(self.stub.CancelDeliberation(asked, timeout=15), "the executor")
        return sorted(answer.cancelled_job_ids)

    async def jobs(self, deliberation_id: str) -> dict[str, pb.JobStatus]:
        """By agent."""
        asked = pb.GetDeliberationStatusRequest(deliberation_id=deliberation_id)
        answer = await rpc.call(self.stub.GetDeliberationStatus(asked, timeout=15), "the executor")
        return {job.agent_id: job for job in answer.jobs}

    async def ended(self, asked: pb.ExecuteDeliberationRequest, seconds: float = 40) -> dict[str, pb.JobStatus]:
        async def check() -> Optional[dict[str, pb.JobStatus]]:
            jobs = await self.jobs(asked.deliberation_id)
            return jobs if all(job.status != "running" for job in jobs.values()) else None

        return await self.until("the end of all jobs", check, seconds)


async def published(
    bus: Bus, asked: pb.ExecuteDeliberationRequest, count: int, quiet: float = 1
) -> list[events.AgentResult]:
    """All results on the task's subject: waits for `count`, and then until none has come for `quiet` seconds."""
    subject = f"agent.results.{asked.task_id}"
    return await drained(bus, subject, "AGENT_RESULTS", count, quiet)  # type: ignore[return-value]


async def chunks(bus: Bus, asked: pb.ExecuteDeliberationRequest, agent_id: str) -> list[events.TokenChunk]:
    subject = f"vllm.streaming.{asked.deliberation_id}.{agent_id}"
    return await drained(bus, subject, "VLLM_STREAMING", 1, 0.5)  # type: ignore[return-value]


async def drained(bus: Bus, subject: str, stream: str, count: int, quiet: float) -> list[events.Event]:
    subscription = await bus.js.subscribe(subject, stream=stream, ordered_consumer=True)
    found: list[events.Event] = []
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            message = await subscription.next_msg(timeout=quiet)
        except nats.errors.TimeoutError:
            if len(found) >= count:
                break
            continue
        found.append(events.decode(message.subject, message.data))
    await subscription.unsubscribe()
    return found


def code(error: BaseException) -> grpc.StatusCode:
    assert isinstance(error, grpc.aio.AioRpcError)
    return error.code()
