"""AutoGen: three AssistantAgents over one model client, run at once. An agent keeps its conversation, so each deliberation has
agents of its own.

Plain `asyncio.gather`, which is less work for it than the experimental GraphFlow team.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
from autogen_agentchat.agents import AssistantAgent
from autogen_ext.models.openai import OpenAIChatCompletionClient
from openai import DefaultAioHttpClient

from bench.load import Call
from bench.model_server import MODEL
from bench.subjects import AGENTS, QUESTION, check


@contextlib.asynccontextmanager
async def opened(url: str, told: dict[str, str]) -> AsyncIterator[Call]:
    """A call that makes three agents and runs them."""
    client = OpenAIChatCompletionClient(
        model=MODEL,
        base_url=f"{url}/v1",
        api_key="none",
        max_retries=0,
        http_client=DefaultAioHttpClient(limits=httpx.Limits(max_connections=None)),
        model_info={
            "vision": False,
            "function_calling": False,
            "json_output": False,
            "family": "unknown",
            "structured_output": False,
        },
    )

    async def ask(name: str, system: str) -> str:
        agent = AssistantAgent(name, model_client=client, system_message=system)
        result = await agent.run(task=QUESTION)
        return result.messages[-1].to_text()

    async def deliberate() -> None:
        check(list(await asyncio.gather(*(ask(name, system) for name, system in AGENTS))))

    try:
        yield deliberate
    finally:
        await client.close()
