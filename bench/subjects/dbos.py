"""DBOS on PostgreSQL: one durable workflow of three steps at once, each checkpointed, with bare aiohttp calls inside.

A workflow must start its steps in the same order every time (https://docs.dbos.dev/python/tutorials/workflow-tutorial), which
`gather` does.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
from dbos import DBOS, DBOSConfig

from bench.load import Call
from bench.subjects import AGENTS, check
from bench.subjects.bare import body

CONNECTIONS = 20


@contextlib.asynccontextmanager
async def opened(url: str, told: dict[str, str]) -> AsyncIterator[Call]:
    """A call that starts a workflow and waits for its result."""
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": told["postgres"],
        "sys_db_pool_size": CONNECTIONS,
        "run_admin_server": False,
        "enable_otlp": False,
        "log_level": "WARNING",
    }
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        @DBOS.step()
        async def ask(system: str) -> str:
            async with session.post(f"{url}/v1/chat/completions", json=body(system, False)) as response:
                answer = await response.json()
                return str(answer["choices"][0]["message"]["content"])

        @DBOS.workflow()
        async def deliberation() -> list[str]:
            return list(await asyncio.gather(*(ask(system) for _, system in AGENTS)))

        DBOS(config=config)
        DBOS.launch()

        async def deliberate() -> None:
            handle = await DBOS.start_workflow_async(deliberation)
            check(await handle.get_result())

        try:
            yield deliberate
        finally:
            DBOS.destroy()
