"""What the dashboard is told, and how it refuses what is wrong."""

import pytest

from fleet.monitoring.settings import MonitoringSettings
from fleet_wire import settings
from fleet_wire.errors import Invalid


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in MonitoringSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("NEO4J_PASSWORD", "only-for-tests")


def test_the_defaults_are_the_contracts_ports_on_this_machine() -> None:
    loaded = settings.load(MonitoringSettings)
    assert (loaded.bind_host, loaded.monitoring_port) == ("127.0.0.1", 8080)
    assert loaded.planning_address == "127.0.0.1:50053"
    assert loaded.orchestrator_address == "127.0.0.1:50055"
    assert loaded.context_address == "127.0.0.1:50051"
    assert loaded.ray_executor_address == "127.0.0.1:50056"
    assert loaded.valkey_url == "valkey://127.0.0.1:6379"
    assert loaded.fleet_admin_token is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MONITORING_PORT", "http"),
        ("MONITORING_PORT", "65536"),
        ("ORCHESTRATOR_ADDRESS", "nowhere"),
        ("RAY_EXECUTOR_ADDRESS", "http://host:50056"),
        ("VALKEY_URL", "file:///x"),
        ("VLLM_URL", "127.0.0.1:8000"),
        ("NEO4J_URI", "http://127.0.0.1"),
        ("NATS_URL", "127.0.0.1"),
    ],
)
def test_a_bad_setting_is_refused_by_its_name(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Invalid, match=name):
        settings.load(MonitoringSettings)


@pytest.mark.parametrize("value", ["", "hidden-5f1c"])
def test_the_token_is_a_secret_and_an_empty_one_is_none(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_ADMIN_TOKEN", value)
    loaded = settings.load(MonitoringSettings)
    assert (loaded.fleet_admin_token is not None) == bool(value)
    assert "hidden-5f1c" not in repr(loaded)
