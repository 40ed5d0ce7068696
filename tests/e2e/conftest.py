"""One stack of real parts for all end-to-end tests: servers, Ray, a small language model, all five services."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import fleet_kit
import pytest
import pytest_asyncio

from fleet.local.stack import Stack, running_stack

REPLACED = ("NATS_URL", "NEO4J_URI", "VALKEY_URL", "VLLM_URL", "RAY_ADDRESS")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A model that writes beside three other suites on two cores takes its time."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(900))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """The stack, on free ports, in a folder of its own. Answers are kept short: the model writes on two cores."""
    for name in REPLACED:
        os.environ.pop(name, None)
    env = {"AGENT_MAX_TOKENS": "48", "LOG_FORMAT": "json", "DELIBERATION_TIMEOUT_SECONDS": "400"}
    home = Path(tmp_path_factory.mktemp("stack"))
    async with running_stack(home=home, free_ports=True, env=env) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def decided_plan(stack: Stack) -> fleet_kit.DecidedPlan:
    """A plan of two tasks, one after the other, that was approved by four at once and has run to its end."""
    async with contextlib.AsyncExitStack() as opened:
        fleet = await fleet_kit.open_fleet(stack, opened)
        plan_id = await fleet.propose(fleet_kit.TWO_TASKS)
        approvals = await asyncio.gather(*(fleet.approve(plan_id) for _ in range(4)), return_exceptions=True)
        return fleet_kit.DecidedPlan(plan_id, approvals, await fleet.plan_ended(plan_id))


@pytest_asyncio.fixture(loop_scope="session")
async def fleet(stack: Stack) -> AsyncIterator[fleet_kit.Fleet]:
    """Clients to every service of the stack, all parts ready before and after."""
    for part in stack.parts.values():
        await part.wait_ready()
    async with contextlib.AsyncExitStack() as opened:
        yield await fleet_kit.open_fleet(stack, opened)
    for part in stack.parts.values():
        await part.wait_ready()
