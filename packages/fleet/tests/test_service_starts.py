"""What ends a service at its start: one sentence for whoever started it, and a code that says whose fault it is."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.context.settings import ContextSettings
from fleet.monitoring.settings import MonitoringSettings
from fleet.orchestrator.settings import OrchestratorSettings
from fleet.planning.settings import PlanningSettings
from fleet_wire.errors import Invalid
from fleet_wire.settings import CommonSettings, load

SECRET = "never-shown"
SERVICES = {
    "planning": PlanningSettings,
    "orchestrator": OrchestratorSettings,
    "context": ContextSettings,
    "monitoring": MonitoringSettings,
}


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def ended(service: str, **env: str) -> tuple[int, str]:
    """The exit code of the service's process, and all it said."""
    command = [sys.executable, "-c", f"from fleet.{service}.main import main; raise SystemExit(main())"]
    told = {"PATH": os.environ["PATH"], "NEO4J_PASSWORD": SECRET, **env}
    done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_bad_settings_end_it_with_one_sentence_and_code_two(service: str, tmp_path: Path) -> None:
    code, said = ended(service, NATS_URL=f"nats://u:{SECRET}@host:port", NATS_CREDS=str(tmp_path / "none"))
    assert code == 2, said
    assert said.startswith("bad setting: ")
    assert said.count("\n") == 1
    assert "NATS_URL" in said
    assert "NATS_CREDS" in said
    assert SECRET not in said


@pytest.mark.parametrize("service", SERVICES)
def test_a_taken_port_ends_it_with_one_sentence_and_code_one(service: str, taken: int) -> None:
    code, said = ended(service, GRPC_PORT=str(taken), MONITORING_PORT=str(taken))
    assert code == 1, said
    assert said.startswith(f"cannot listen on 127.0.0.1:{taken}")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("service", "name", "value"),
    [
        ("planning", "GRPC_PORT", "70000"),
        ("planning", "NEO4J_URI", "http://host"),
        ("planning", "NEO4J_URI", "bolt://host:port"),
        ("planning", "NEO4J_PASSWORD", None),
        ("planning", "LOG_LEVEL", "LOUD"),
        ("context", "VALKEY_URL", "http://host:6379"),
        ("context", "VALKEY_URL", f"valkey://:{SECRET}@host:port"),
        ("orchestrator", "RAY_EXECUTOR_ADDRESS", "http://host:50056"),
        ("orchestrator", "CONTEXT_ADDRESS", "context"),
        ("orchestrator", "PLANNING_ADDRESS", "planning:70000"),
        ("orchestrator", "PLANNING_ADDRESS", "planning:0"),
        ("monitoring", "ORCHESTRATOR_ADDRESS", "orchestrator:port"),
        ("monitoring", "CONTEXT_ADDRESS", "fd00::1:50051"),
    ],
)
def test_a_bad_setting_is_refused_by_its_name_alone(
    service: str, name: str, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind: type[CommonSettings] = SERVICES[service]
    for field in kind.model_fields:
        monkeypatch.delenv(field.upper(), raising=False)
    if name != "NEO4J_PASSWORD":
        monkeypatch.setenv("NEO4J_PASSWORD", SECRET)
    if value is not None:
        monkeypatch.setenv(name, value)
    with pytest.raises(Invalid, match=f"^{name}: ") as caught:
        load(kind)
    assert SECRET not in str(caught.value)


def test_an_ipv6_address_stands_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTEXT_ADDRESS", "[fd00::1]:50051")
    assert load(OrchestratorSettings).context_address == "[fd00::1]:50051"
