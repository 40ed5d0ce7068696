"""The connection to Valkey. What is held there saves time and nothing else, so a server that is away is no error."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import structlog
import valkey.asyncio
from valkey.exceptions import ResponseError, ValkeyError

log = structlog.get_logger(__name__)

ANSWER_SECONDS = 0.5
PAUSE_SECONDS = 1.0
"""How long an unreachable server, or one that refuses, is not asked again, so that no request waits for it more than once."""
WRONG_TYPE = "WRONGTYPE"
"""How Valkey's answer begins where something else stands under a key."""
OF_PIPELINE = "caused error: "
"""What the client puts before the answer to a command of a pipeline, after that command's text."""


class ValkeyServer:
    """Never raises for a server that is away: it logs that once, and once more when the server is back."""

    def __init__(self, url: str) -> None:
        self.client: valkey.asyncio.Valkey = valkey.asyncio.Valkey.from_url(
            url, socket_timeout=ANSWER_SECONDS, socket_connect_timeout=ANSWER_SECONDS
        )
        self._there = True
        self._quiet_until = 0.0
        self._refusals: set[str] = set()

    async def check(self) -> bool:
        """Whether the server answers now; logs it where it does not."""
        return await self.answer("", self.client.ping) is not None

    async def close(self) -> None:
        await self.client.aclose()

    async def answer(self, key: str, ask: Callable[[], Any]) -> Any:
        """What `ask` awaits from the server, or None where there is no answer."""
        clock = asyncio.get_running_loop().time
        if clock() < self._quiet_until:
            return None
        try:
            answer = await ask()
            if not self._there:
                log.info("cache: reachable again")
                self._there = True
        except ResponseError as error:
            await self.refused(key, error)
            return None
        except (TimeoutError, ValkeyError, OSError) as error:
            self._quiet_until = clock() + PAUSE_SECONDS
            if self._there:
                log.warning(
                    "cache: unreachable, contexts come from the graph", error=str(error) or type(error).__name__
                )
                self._there = False
            return None
        return answer

    async def refused(self, key: str, error: ResponseError) -> None:
        """Makes room for what should stand there, where something else does. Any other refusal is logged once, and the server
        left alone for a while."""
        reason = str(error).rpartition(OF_PIPELINE)[2]
        if key and reason.startswith(WRONG_TYPE):
            log.warning("cache: something else stood there, the key is dropped", key=key)
            with contextlib.suppress(ValkeyError, OSError, asyncio.TimeoutError):
                await self.client.unlink(key)
            return
        self._quiet_until = asyncio.get_running_loop().time() + PAUSE_SECONDS
        if reason not in self._refusals:
            self._refusals.add(reason)
            log.warning("cache: refused, contexts come from the graph", error=reason)
