"""Runs commands in a thread, since each brings an event loop of its own, against services in the test's loop."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import cliservers
import pytest
import pytest_asyncio
import realparts
import typer
from click.testing import Result
from cliservers import Fleet
from typer.testing import CliRunner

from fleet.cli import client
from fleet.cli.context import app as context_app
from fleet.cli.council import app as council_app
from fleet.cli.decisions import app as decisions_app
from fleet.cli.deliberate import deliberate
from fleet.cli.deliberation import app as deliberation_app
from fleet.cli.demo import demo
from fleet.cli.eval import evaluate
from fleet.cli.plan import app as plan_app
from fleet.cli.replay import replay
from fleet.cli.story import app as story_app
from fleet.cli.task import app as task_app
from fleet.cli.watch import watch
from fleet_wire.bus import Bus

app = typer.Typer()
app.add_typer(plan_app, name="plan")
app.add_typer(story_app, name="story")
app.add_typer(context_app, name="context")
app.add_typer(decisions_app, name="decisions")
app.add_typer(deliberation_app, name="deliberation")
app.add_typer(council_app, name="council")
app.add_typer(task_app, name="task")
app.command("eval")(evaluate)
app.command()(replay)
app.command()(deliberate)
app.command()(watch)
app.command()(demo)


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server for the commands alone: events made up here would reach the durable consumers that other tests run."""
    with realparts.nats_server(tmp_path_factory.mktemp("cli-nats")) as server:
        yield server.url


@pytest_asyncio.fixture
async def services(bus: Bus, nats_url: str) -> AsyncIterator[cliservers.Services]:
    async with cliservers.services(nats_url) as served:
        yield served


@pytest.fixture
def fleet(services: cliservers.Services, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fleet:
    """`await fleet("plan", "list")`: the command's result."""
    monkeypatch.setenv("FLEET_HOME", str(tmp_path / "no-stack-runs-here"))
    monkeypatch.setattr(client.logs, "configure", lambda *args, **more: None)  # the test run's logging stays as it is

    async def run(*arguments: str, **env: str) -> Result:
        return await asyncio.to_thread(
            CliRunner().invoke, app, list(arguments), env={**services.env, "COLUMNS": "200", **env}
        )

    return run
