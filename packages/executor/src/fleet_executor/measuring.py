"""Asks the model server how many requests wait there. Done by an actor: the executor itself speaks with no model."""

import asyncio
from typing import Optional

import aiohttp

from fleet_executor.pressure import waiting

SECONDS = 2.0
MOST_BYTES = 4 * 1024 * 1024


async def measure(session: aiohttp.ClientSession, url: str) -> tuple[Optional[bool], float]:
    """Whether the server says how many requests wait, and how many. (None, 0) where it does not answer, which is no news of
    how it fares; (False, 0) where it answers, and not with that."""
    try:
        return await asyncio.wait_for(_measure(session, url), SECONDS)
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError):
        return None, 0


async def _measure(session: aiohttp.ClientSession, url: str) -> tuple[Optional[bool], float]:
    async with session.get(f"{url}/metrics", allow_redirects=False) as response:
        if response.status != 200:
            return (None if response.status in (429, 502, 503, 504) else False), 0
        text = b""
        while (chunk := await response.content.readany()) and len(text) < MOST_BYTES:
            text += chunk
    found = waiting(text.decode("utf-8", "replace"))
    return found is not None, found or 0
