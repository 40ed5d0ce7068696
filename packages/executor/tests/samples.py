"""Values that several tests need."""

import datetime as dt
from typing import Any

from fleet_executor.jobs import JobSpec, Message, OpenJob

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)


def spec(number: int = 1, **changes: Any) -> JobSpec:
    values: dict[str, Any] = {
        "job_id": f"job-{number}",
        "agent_id": f"agent-DEV-{number:03d}",
        "role": "DEV",
        "phase": "propose",
        "messages": [Message(role="user", content="one two three")],
        "max_tokens": 64,
        "temperature": 0.5,
        "seed": 7,
    }
    return JobSpec(**{**values, **changes})


def open_job(number: int = 1, now: dt.datetime = NOW, **changes: Any) -> OpenJob:
    values: dict[str, Any] = {
        "deliberation_id": "delib-1",
        "task_id": "task-1",
        "spec": spec(number),
        "deadline": now + dt.timedelta(minutes=1),
        "accepted_at": now,
        "handed_at": now,
        "actor": "pool-0",
    }
    return OpenJob(**{**values, **changes})
