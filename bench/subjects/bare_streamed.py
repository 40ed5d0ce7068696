"""The limit for streamed answers: three concurrent HTTP calls with aiohttp, each read as server-sent events."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import aiohttp

from bench.load import Call
from bench.subjects import AGENTS, check
from bench.subjects.bare import body


@contextlib.asynccontextmanager
async def opened(url: str, told: dict[str, str]) -> AsyncIterator[Call]:
    """A call that asks three times at once, and reads each stream to its end."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(system: str) -> str:
            pieces = []
            async with session.post(f"{url}/v1/chat/completions", json=body(system, True)) as response:
                async for line in response.content:
                    if line.startswith(b"data: {"):
                        choices = json.loads(line[6:])["choices"]
                        if choices:
                            pieces.append(choices[0]["delta"].get("content", ""))
            return "".join(pieces)

        async def deliberate() -> None:
            check(list(await asyncio.gather(*(ask(system) for _, system in AGENTS))))

        yield deliberate
