"""The command `fleet` itself, and the commands about streams, services and status."""

import importlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nats
import pytest
import realparts
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from fleet.cli.main import COMMANDS, app
from fleet.cli.status import table
from fleet.context.server import ContextService
from fleet.graphfile import exporting, form
from fleet.local.ports import PORTS, choose
from fleet.local.survey import Finding, survey
from fleet.planning.server import PlanningServicer
from fleet_wire import rpc
from fleet_wire.gen.context.v1 import context_pb2_grpc
from fleet_wire.gen.planning.v1 import planning_pb2_grpc


def fleet(*words: str, **env: str) -> Result:
    return CliRunner().invoke(app, words, env={"FLEET_HOME": "/nonexistent", **env})


def nowhere() -> dict[str, str]:
    """Addresses at which nobody listens."""
    at = choose(PORTS, {}, "free", pytest.fail)
    return {
        "NATS_URL": f"nats://127.0.0.1:{at['nats']}",
        "NEO4J_URI": f"bolt://127.0.0.1:{at['graph']}",
        "NEO4J_PASSWORD": "none",
        "VALKEY_URL": f"valkey://:secret@127.0.0.1:{at['valkey']}",
        "VLLM_URL": f"http://127.0.0.1:{at['model']}",
        "PLANNING_ADDRESS": f"127.0.0.1:{at['planning']}",
        "ORCHESTRATOR_ADDRESS": f"127.0.0.1:{at['orchestrator']}",
        "CONTEXT_ADDRESS": f"127.0.0.1:{at['context']}",
        "RAY_EXECUTOR_ADDRESS": f"127.0.0.1:{at['ray-executor']}",
        "MONITORING_PORT": str(at["monitoring"]),
    }


def test_help_lists_every_command_without_importing_it() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom fleet.cli.main import COMMANDS, app\n"
        "result = CliRunner().invoke(app, ['--help'])\nprint(result.output)\n"
        "heavy = {'grpc', 'nats', 'neo4j', 'nicegui', 'ray', 'fleet.cli.demo'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert all(f"\n  {name} " in ran.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples_on_lines_of_their_own(name: str) -> None:
    lazy = COMMANDS[name]
    module, attribute = lazy.where.split(":")
    found = getattr(importlib.import_module(module), attribute)
    inner = (
        [info.name or info.callback.__name__ for info in found.registered_commands]
        if isinstance(found, typer.Typer)
        else []
    )
    for words in [[name, word] for word in inner] or [[name]]:
        result = fleet(*words, "--help")
        assert result.exit_code == 0, result.output
        first = result.output.index("Example")
        assert f"fleet {' '.join(words)}" in result.output[first:].splitlines()[0]


def test_an_unknown_command_is_refused_with_its_name() -> None:
    result = fleet("dmeo")
    assert result.exit_code == 2
    assert "dmeo" in result.output


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert fleet("--version").output == f"fleet {version('fleet')}\n"


def test_streams_are_applied_once_and_checked(own_nats: realparts.Nats) -> None:
    env = {"NATS_URL": own_nats.url}
    missing = fleet("streams", "check", **env)
    assert missing.exit_code == 1
    assert "PLANNING_EVENTS does not exist" in missing.output
    first = fleet("streams", "apply", "--json", **env)
    assert first.exit_code == 0
    assert "created PLANNING_EVENTS" in json.loads(first.output)["changes"]
    again = fleet("streams", "apply", **env)
    assert (again.exit_code, again.output) == (0, "all streams are as they must be\n")
    whole = fleet("streams", "check", "--json", **env)
    assert (whole.exit_code, json.loads(whole.output)) == (0, {"differences": []})


async def _delete(url: str, stream: str) -> None:
    client = await nats.connect(url)
    await client.jetstream().delete_stream(stream)
    await client.close()


def test_a_removed_stream_is_named_and_made_again(own_nats: realparts.Nats) -> None:
    import asyncio

    env = {"NATS_URL": own_nats.url}
    assert fleet("streams", "apply", **env).exit_code == 0
    asyncio.run(_delete(own_nats.url, "CONTEXT_EVENTS"))
    found = fleet("streams", "check", "--json", **env)
    assert found.exit_code == 1
    assert json.loads(found.output)["differences"] == [{"stream": "CONTEXT_EVENTS", "problem": "does not exist"}]
    assert fleet("streams", "apply", **env).output == "created CONTEXT_EVENTS\n"


@pytest.mark.parametrize("what", ["apply", "check"])
def test_an_unreachable_server_is_exit_code_2_and_named(what: str) -> None:
    url = nowhere()["NATS_URL"]
    result = fleet("streams", what, "--wait", "0.3", NATS_URL=url)
    assert result.exit_code == 2
    assert url in result.stderr


def test_a_bad_address_is_exit_code_2_and_names_the_setting() -> None:
    result = fleet("streams", "check", NATS_URL="localhost")
    assert result.exit_code == 2
    assert "NATS_URL" in result.stderr


def test_serve_refuses_an_unknown_name() -> None:
    result = fleet("serve", "orchestrtor")
    assert result.exit_code == 2
    assert "NAME must be one of planning, orchestrator" in result.stderr


def test_serve_without_the_executors_python_says_what_to_do() -> None:
    result = fleet("serve", "ray-executor", FLEET_EXECUTOR_PYTHON="/nonexistent/python")
    assert result.exit_code == 2
    assert "scripts/setup" in result.stderr
    assert "FLEET_EXECUTOR_PYTHON" in result.stderr


def test_serve_gives_the_services_own_exit_code_for_a_bad_setting() -> None:
    env = {name: value for name, value in nowhere().items() if not name.startswith("NEO4J")}
    ran = subprocess.run(
        [sys.executable, "-m", "fleet.cli.main", "serve", "planning"],
        env={**env, "GRPC_PORT": "many"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 2
    assert "GRPC_PORT" in ran.stderr
    assert "NEO4J_PASSWORD" in ran.stderr


def parts_of(result: Result) -> Mapping[str, Any]:
    return {part["name"]: part for part in json.loads(result.stdout)["parts"]}


def test_status_shows_what_is_away_as_unreachable_and_never_a_password() -> None:
    env = nowhere()
    result = fleet("status", "--json", **env)
    assert result.exit_code == 1
    parts = parts_of(result)
    assert {part["state"] for part in parts.values()} == {"unreachable"}
    assert {part["version"] for part in parts.values()} == {None}
    assert parts["planning"]["address"] == env["PLANNING_ADDRESS"]
    assert "secret" not in result.output
    shown = fleet("status", **env)
    assert shown.exit_code == 1
    assert "unreachable" in shown.output


def test_status_tells_ready_parts_from_others_and_why_not(own_nats: realparts.Nats, valkey_url: str) -> None:
    env = {**nowhere(), "NATS_URL": own_nats.url, "VALKEY_URL": valkey_url}
    parts = parts_of(fleet("status", "--json", **env))
    assert parts["valkey"]["state"] == "ready"
    assert parts["valkey"]["version"][0].isdigit()
    assert parts["nats"]["state"] == "not_ready"
    assert "PLANNING_EVENTS does not exist" in parts["nats"]["reason"]
    assert "fleet streams apply" in parts["nats"]["reason"]


async def test_status_gives_the_reason_of_a_service_that_has_no_status_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lacks = rpc.Readiness("graph")
    lacks.report("graph", "wrong password")

    def add(server: Any) -> None:
        planning = PlanningServicer(None, lacks)  # type: ignore[arg-type] # no call gets as far as its ports
        planning_pb2_grpc.add_PlanningServiceServicer_to_server(planning, server)
        context = ContextService(lacks, None, None, None, None, {}, None)  # type: ignore[arg-type]
        context_pb2_grpc.add_ContextServiceServicer_to_server(context, server)

    env = nowhere() | {"NATS_URL": "nats://u:secret@127.0.0.1:1,nats://u:secret@127.0.0.1:2"}
    for name in ("NEO4J_URI", "NEO4J_PASSWORD"):
        monkeypatch.setenv(name, env[name])
    async with rpc.server("127.0.0.1:0", add, [], lacks) as port:
        at = f"127.0.0.1:{port}"
        found = {one.name: one for one in await survey(env | {"PLANNING_ADDRESS": at, "CONTEXT_ADDRESS": at})}
    for name in ("planning", "context"):
        assert (found[name].state, found[name].reason) == ("not_ready", "graph: wrong password")
    assert "secret" not in found["nats"].address


def test_the_table_of_parts_writes_states_as_words() -> None:
    console = Console(width=80)
    with console.capture() as shown:
        console.print(table([Finding("nats", "nats://a:1", "not_ready", "why")]))
    assert "not ready" in shown.get() and "not_ready" not in shown.get()


def test_a_memory_is_carried_out_and_in_with_an_exit_code_for_each_refusal(
    empty_graph: realparts.GraphServer, tmp_path: Path
) -> None:
    file = tmp_path / "memory.jsonl"
    empty = fleet("graph", "export", "--output", str(file), **empty_graph.env())
    assert empty.exit_code == 1 and "start the context service of this release once" in empty.stderr
    assert list(tmp_path.iterdir()) == []
    head = form.Head(form.VERSION, {service: migrations[-1].number for service, migrations in exporting.FORMS.items()})
    story = form.Node("Story", {"story_id": "s", "title": "\x1b[2JLogin", "version": 1})
    tally = form.Tally()
    lines = [form.encode(head), form.encode(story)]
    tally.add(head, lines[0])
    tally.add(story, lines[1])
    file.write_bytes(b"".join(lines))
    cut = fleet("graph", "import", str(file), **empty_graph.env())
    assert cut.exit_code == 2 and "is cut off: its end is missing" in cut.stderr
    file.write_bytes(b"".join([*lines, form.encode(tally.end())]))
    dry = fleet("graph", "import", str(file), "--dry-run", **empty_graph.env())
    assert dry.exit_code == 0 and "to be added: 1; there already: 0" in dry.stdout
    told = json.loads(fleet("graph", "import", str(file), "--json", **empty_graph.env()).stdout)
    assert (told["added"], told["nodes"], told["dry_run"]) == (1, {"Story": 1}, False)
    copy = tmp_path / "copy.jsonl"
    written = fleet("graph", "export", "--output", str(copy), **empty_graph.env())
    assert written.exit_code == 0 and written.stdout == f"1 nodes and 0 relations in {copy}\n"
    assert copy.read_bytes() == file.read_bytes() and copy.stat().st_mode & 0o777 == 0o600
    streamed = fleet("graph", "export", "--json", **empty_graph.env())
    assert streamed.stdout_bytes == file.read_bytes() and json.loads(streamed.stderr)["sha256"] == told["sha256"]
    file.write_bytes(file.read_bytes().replace(b"Login", b"Logon"))
    assert fleet("graph", "import", str(file), **empty_graph.env()).exit_code == 2
    assert fleet("graph", "export", "--output", str(tmp_path / "no/where"), **empty_graph.env()).exit_code == 2
    away = fleet("graph", "import", str(copy), **nowhere())
    assert away.exit_code == 2 and "the graph database at bolt://127.0.0.1:" in away.stderr
