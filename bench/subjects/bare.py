"""The limit: three concurrent HTTP calls with aiohttp and nothing else, each answered whole."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from bench.load import Call
from bench.model_server import MODEL
from bench.subjects import AGENTS, QUESTION, check


def body(system: str, stream: bool) -> dict[str, Any]:
    """A request for one agent."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": QUESTION}]
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    return {"model": MODEL, "messages": messages, "max_tokens": 64, **options}


@contextlib.asynccontextmanager
async def opened(url: str, told: dict[str, str]) -> AsyncIterator[Call]:
    """A call that asks three times at once."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(system: str) -> str:
            async with session.post(f"{url}/v1/chat/completions", json=body(system, False)) as response:
                answer = await response.json()
                return str(answer["choices"][0]["message"]["content"])

        async def deliberate() -> None:
            check(list(await asyncio.gather(*(ask(system) for _, system in AGENTS))))

        yield deliberate
