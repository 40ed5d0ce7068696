"""What the settings make of the stack: which parts run here, on which ports, and who is told what."""

import shutil
import stat
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from fleet.local import addresses, checks, layout, ports, serve
from fleet.local.home import Home
from fleet.local.layout import Layout, choose_ports, given_ports, lay_out, stack_settings
from fleet.local.ports import PORTS, choose
from fleet_wire.errors import Invalid, Precondition

AT = {port.name: 30000 + index for index, port in enumerate(PORTS)}
SERVICES = ("planning", "orchestrator", "context", "monitoring", "ray-executor")


def lay(home: Path, environment: Mapping[str, str], only: Collection[str] | None = None) -> Layout:
    def streams(url: str, creds: str | None) -> object:
        return checks.not_asked(url)

    given = {"FLEET_EXECUTOR_PYTHON": sys.executable, **environment}
    return lay_out(Home(home), given, AT, "/tmp/fleet-x", streams, only)  # type: ignore[arg-type]


def told(made: Layout, name: str) -> Mapping[str, str]:
    return next(part.env for part in made.parts if part.name == name)


def test_all_parts_run_here_when_no_setting_replaces_one(tmp_path: Path) -> None:
    made = lay(tmp_path, {})
    assert [part.name for part in made.parts if not part.given] == [
        *("nats", "graph", "valkey", "model", "ray"),
        *("ray-executor", "planning", "context", "orchestrator", "monitoring"),
    ]


def test_a_selection_of_parts_waits_only_for_parts_of_it(tmp_path: Path) -> None:
    wanted = ("nats", "ray", "ray-executor", "orchestrator")
    made = lay(tmp_path, {"VLLM_URL": "http://gpu:8000", "VLLM_MODEL": "m"}, wanted)
    assert {part.name for part in made.parts} == set(wanted)
    assert all(set(part.after) <= set(wanted) for part in made.parts)
    assert told(made, "ray-executor")["VLLM_URL"] == "http://gpu:8000"
    assert [part.after for part in lay(tmp_path, {}, ("monitoring",)).parts] == [()]


def test_each_part_stands_after_what_it_needs(tmp_path: Path) -> None:
    seen: set[str] = set()
    for part in lay(tmp_path, {}).parts:
        assert set(part.after) <= seen
        seen.add(part.name)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("nats", {"NATS_URL": "nats://broker:4222"}),
        ("graph", {"NEO4J_URI": "bolt://graph:7687", "NEO4J_PASSWORD": "theirs"}),
        ("valkey", {"VALKEY_URL": "valkey://cache:6379"}),
        ("model", {"VLLM_URL": "http://gpu:8000/v1"}),
        ("ray", {"RAY_ADDRESS": "ray://head:10001"}),
    ],
)
def test_a_setting_replaces_its_part_and_is_passed_on(tmp_path: Path, name: str, settings: dict[str, str]) -> None:
    made = lay(tmp_path, settings)
    assert [part.name for part in made.parts if part.given] == [name]
    everything = {**made.env, **told(made, "ray-executor")}
    assert all(everything[setting] == value for setting, value in settings.items())


def test_a_given_graph_needs_its_password(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="NEO4J_URI is set, so NEO4J_PASSWORD"):
        lay(tmp_path, {"NEO4J_URI": "bolt://graph:7687"})


def test_only_the_executor_is_told_where_ray_is(tmp_path: Path) -> None:
    for environment in ({}, {"RAY_ADDRESS": "10.0.0.1:6379"}):
        made = lay(tmp_path, environment)
        assert [part.name for part in made.parts if "RAY_ADDRESS" in part.env] == ["ray-executor"]
        assert "RAY_ADDRESS" not in made.env


def test_secrets_go_only_to_those_that_need_them(tmp_path: Path) -> None:
    environment = {"FLEET_ADMIN_TOKEN": "t", "NATS_CREDS": "/creds"}
    made = lay(tmp_path, environment)
    holders = {
        name: {part.name for part in made.parts if name in part.env}
        for name in ("NEO4J_PASSWORD", "FLEET_ADMIN_TOKEN", "NATS_CREDS")
    }
    assert holders == {
        "NEO4J_PASSWORD": {"planning", "context", "monitoring"},
        "FLEET_ADMIN_TOKEN": {"monitoring"},
        "NATS_CREDS": set(SERVICES),
    }


def test_no_secret_stands_in_a_command_line(tmp_path: Path) -> None:
    made = lay(tmp_path, {})
    secrets = (made.env["NEO4J_PASSWORD"], made.env["FLEET_ADMIN_TOKEN"])
    assert all(len(secret) >= 24 for secret in secrets)
    for part in made.parts:
        assert not [word for word in part.argv for secret in secrets if secret in word]


def test_the_graphs_password_is_kept_for_the_next_start_and_differs_between_stacks(tmp_path: Path) -> None:
    first, again, other = (lay(tmp_path / name, {}).env["NEO4J_PASSWORD"] for name in ("a", "a", "b"))
    assert first == again != other
    assert stat.S_IMODE((tmp_path / "a" / "graph-password").stat().st_mode) == 0o600


def test_the_small_model_gets_short_answers_and_a_given_one_does_not(tmp_path: Path) -> None:
    assert told(lay(tmp_path, {}), "orchestrator")["AGENT_MAX_TOKENS"] == layout.SMALL_MODEL["AGENT_MAX_TOKENS"]
    assert told(lay(tmp_path, {"AGENT_MAX_TOKENS": "32"}), "orchestrator")["AGENT_MAX_TOKENS"] == "32"
    assert "AGENT_MAX_TOKENS" not in told(lay(tmp_path, {"VLLM_URL": "http://gpu:8000"}), "orchestrator")


def test_everything_but_ray_is_told_to_listen_on_loopback(tmp_path: Path) -> None:
    made = lay(tmp_path, {"BIND_HOST": "0.0.0.0"})
    for part in made.parts:
        assert "BIND_HOST" not in part.env
        assert not [word for word in part.argv if "0.0.0.0" in word]


def test_ray_finds_an_nvidia_smi_that_reports_no_gpu_where_there_is_none(tmp_path: Path) -> None:
    path = told(lay(tmp_path, {"PATH": "/nonexistent"}), "ray")["PATH"]
    found = shutil.which("nvidia-smi", path=path)
    assert found is not None
    assert subprocess.run([found], capture_output=True, check=False).returncode != 0
    real = tmp_path / "real" / "nvidia-smi"
    real.parent.mkdir()
    real.write_text("#!/bin/sh\n")
    real.chmod(0o755)
    assert told(lay(tmp_path, {"PATH": str(real.parent)}), "ray")["PATH"] == str(real.parent)


def test_an_address_setting_moves_a_service_and_must_be_on_this_machine() -> None:
    assert given_ports({"PLANNING_ADDRESS": "127.0.0.1:50063", "MONITORING_PORT": "9090"}) == {
        "planning": 50063,
        "monitoring": 9090,
    }
    with pytest.raises(Invalid, match=r"CONTEXT_ADDRESS must be 127.0.0.1:PORT .* not 'elsewhere:1'"):
        given_ports({"CONTEXT_ADDRESS": "elsewhere:1"})
    with pytest.raises(Invalid, match="MONITORING_PORT must be a port, not 'http'"):
        given_ports({"MONITORING_PORT": "http"})


def test_the_usual_ports_are_those_of_the_contract() -> None:
    usual = {port.name: port.standard for port in PORTS if port.standard}
    assert choose(PORTS, {}, "standard", pytest.fail, free=lambda port: True).items() >= usual.items()
    assert (usual["nats"], usual["graph"], usual["valkey"], usual["model"]) == (4222, 7687, 6379, 8000)
    assert (usual["planning"], usual["orchestrator"], usual["context"]) == (50053, 50055, 50051)
    assert (usual["ray-executor"], usual["monitoring"], usual["ray-client"]) == (50056, 8080, 10001)


def test_a_taken_port_is_named_with_the_setting_that_helps() -> None:
    with pytest.raises(Precondition) as refused:
        choose(PORTS, {"planning": 50063}, "standard", pytest.fail, free=lambda port: port not in (4222, 50063))
    assert str(refused.value) == (
        "port 4222 for NATS is taken: end what listens there, set NATS_URL to use another, or run with --free-ports; "
        "port 50063 for planning is taken: PLANNING_ADDRESS must name a free one"
    )


def test_only_taken_ports_move_when_that_is_allowed() -> None:
    said: list[str] = []
    at = choose(PORTS, {}, "free_if_taken", said.append, free=lambda port: port != 8080)
    assert at["nats"] == 4222
    assert at["monitoring"] in ports.FREE_RANGE
    assert said == ["port 8080 (the dashboard) is taken: a free one is used instead"]


def test_free_ports_are_distinct_and_none_is_a_usual_one() -> None:
    at = choose(PORTS, {}, "free", pytest.fail)
    assert len(set(at.values())) == len(PORTS)
    assert set(at.values()) <= set(ports.FREE_RANGE)


def test_a_port_of_a_replaced_part_may_be_taken() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert not ports.is_free(taken.getsockname()[1])
    assert "nats" not in choose_ports({"NATS_URL": "nats://x:1"}, "free", pytest.fail)


def test_a_password_file_is_passed_on_instead_of_a_password() -> None:
    given = {"NEO4J_URI": "bolt://g:1", "NEO4J_PASSWORD_FILE": "/run/secret", "FLEET_ADMIN_TOKEN_FILE": "/run/token"}
    env = stack_settings(given, AT, pytest.fail)
    assert env["NEO4J_PASSWORD_FILE"] == "/run/secret"
    assert env["FLEET_ADMIN_TOKEN_FILE"] == "/run/token"
    assert "NEO4J_PASSWORD" not in env


def test_every_setting_that_replaces_a_part_stays_out_of_the_others_environment() -> None:
    assert set(layout.REPLACED_BY.values()) <= layout.NOT_FOR_ALL


def test_the_executors_python_is_the_given_one_or_beside_the_repository(tmp_path: Path) -> None:
    assert serve.executor_python({"FLEET_EXECUTOR_PYTHON": sys.executable}) == Path(sys.executable)
    with pytest.raises(Invalid, match="run `scripts/setup`, or set FLEET_EXECUTOR_PYTHON"):
        serve.executor_python({"FLEET_EXECUTOR_PYTHON": str(tmp_path / "none")})
    beside = tmp_path / ".venv-executor/bin/python"
    beside.parent.mkdir(parents=True)
    beside.symlink_to(sys.executable)
    assert serve.executor_python({}, tmp_path) == beside


def test_an_unknown_service_is_refused_by_name() -> None:
    with pytest.raises(Invalid, match="NAME must be one of planning, orchestrator"):
        serve.serve("plannning")


def test_other_commands_find_the_running_stack_and_the_environment_wins(tmp_path: Path) -> None:
    home = Home(tmp_path)
    stack = {"NATS_URL": "nats://127.0.0.1:1", "NEO4J_URI": "bolt://127.0.0.1:2", "NEO4J_PASSWORD": "stacks"}
    with home.held():
        home.write_record({"env": stack})
        assert addresses.settings(home, {"NATS_URL": "nats://mine:4222"}) == {**stack, "NATS_URL": "nats://mine:4222"}
        other_graph = addresses.settings(home, {"NEO4J_URI": "bolt://mine:7687"})
        assert "NEO4J_PASSWORD" not in other_graph
    assert addresses.settings(home, {"A": "b"}) == {"A": "b"}


def test_a_folder_is_held_by_one_and_seen_as_running_meanwhile(tmp_path: Path) -> None:
    home = Home(tmp_path / "state")
    assert not home.is_running()
    with home.held():
        assert home.is_running()
        with pytest.raises(Precondition, match=r"a stack runs in .* already"), home.held():
            pass
    assert not home.is_running()


def test_logs_of_the_run_before_are_put_aside(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.prepare()
    home.log("nats").write_text("then")
    home.prepare()
    assert not home.log("nats").exists()
    assert home.log("nats").with_suffix(".log.1").read_text() == "then"


def test_a_record_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert home.read_record() is None
    home.record_path.write_text("{half")
    assert home.read_record() is None
