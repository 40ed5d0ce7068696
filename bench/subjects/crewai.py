"""CrewAI: a crew of one agent and one task for each of the three, all started by its native `akickoff` at once, as
https://docs.crewai.com/en/learn/kickoff-async has it for many at a time.

(One crew with three asynchronous tasks is refused unless a fourth, with a model call of its own, comes after them.)
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

os.environ.update(
    CREWAI_DISABLE_TELEMETRY="true",
    CREWAI_TRACING_ENABLED="false",
    OTEL_SDK_DISABLED="true",
    CREWAI_DISABLE_TRACKING="true",
)

from crewai import LLM, Agent, Crew, Task

from bench.load import Call
from bench.model_server import MODEL
from bench.subjects import AGENTS, QUESTION, check


@contextlib.asynccontextmanager
async def opened(url: str, told: dict[str, str]) -> AsyncIterator[Call]:
    """A call that makes three crews and starts them."""
    model = LLM(model=f"openai/{MODEL}", base_url=f"{url}/v1", api_key="none")

    async def ask(name: str, system: str) -> str:
        agent = Agent(role=name, goal="Answer the question well.", backstory=system, llm=model, verbose=False)
        task = Task(description=QUESTION, expected_output="A short piece of plain prose.", agent=agent)
        crew = Crew(agents=[agent], tasks=[task], verbose=False)
        output = await crew.akickoff()
        return str(output.raw)

    async def deliberate() -> None:
        check(list(await asyncio.gather(*(ask(name, system) for name, system in AGENTS))))

    yield deliberate
