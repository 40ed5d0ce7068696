import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field, SecretStr

from fleet_wire.errors import Invalid
from fleet_wire.settings import CommonSettings, load, load_or_exit


class Settings(CommonSettings):
    admin_token: SecretStr
    grpc_port: int = Field(default=0, ge=0, le=65535)
    hosts: "tuple[str, ...]" = ()


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(f"{name.upper()}_FILE", raising=False)


def test_defaults_and_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_TOKEN", "t")
    monkeypatch.setenv("NATS_URL", "tls://nats:4222")
    monkeypatch.setenv("GRPC_PORT", "50053")
    settings = load(Settings)
    assert (settings.nats_url, settings.grpc_port, settings.log_level) == ("tls://nats:4222", 50053, "INFO")


def test_the_environment_wins_over_a_mains_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_TOKEN", "t")
    assert load(Settings, grpc_port=7).grpc_port == 7
    monkeypatch.setenv("GRPC_PORT", "8")
    assert load(Settings, grpc_port=7).grpc_port == 8


def test_a_secret_from_a_file_without_its_line_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    monkeypatch.setenv("ADMIN_TOKEN_FILE", str(file))
    assert load(Settings).admin_token.get_secret_value() == "s3cret"
    monkeypatch.setenv("ADMIN_TOKEN", "direct")
    assert load(Settings).admin_token.get_secret_value() == "direct"


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: "bytes | None"
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("ADMIN_TOKEN_FILE", str(file))
    with pytest.raises(Invalid, match=r"^ADMIN_TOKEN_FILE names .*token, which cannot be read"):
        load(Settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NATS_URL", "localhost:4222"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
        ("GRPC_PORT", "many"),
        ("GRPC_PORT", "65536"),
        ("HOSTS", "[not json"),
    ],
)
def test_a_bad_value_is_one_sentence_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("ADMIN_TOKEN", "t")
    monkeypatch.setenv(name, value)
    with pytest.raises(Invalid) as caught:
        load(Settings)
    assert name.lower() in str(caught.value).lower()
    assert "\n" not in str(caught.value)


def test_every_bad_variable_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPC_PORT", "many")
    with pytest.raises(Invalid, match=r"ADMIN_TOKEN.*GRPC_PORT|GRPC_PORT.*ADMIN_TOKEN"):
        load(Settings)


def test_no_secret_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_TOKEN", "s3cret")
    settings = load(Settings)
    assert "s3cret" not in repr(settings) + str(settings) + settings.model_dump_json()
    monkeypatch.setenv("GRPC_PORT", "s3cret-too")
    with pytest.raises(Invalid) as caught:
        load(Settings)
    assert "s3cret" not in str(caught.value)


def test_settings_do_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_TOKEN", "t")
    settings = load(Settings)
    with pytest.raises(ValueError, match="frozen"):
        settings.grpc_port = 1  # type: ignore[misc]


def test_a_main_ends_with_one_sentence_and_code_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ADMIN_TOKEN", "t")
    monkeypatch.setenv("LOG_LEVEL", "LOUD")
    with pytest.raises(SystemExit) as caught:
        load_or_exit(Settings)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("bad setting: LOG_LEVEL")
    assert printed.err.count("\n") == 1


def test_the_wire_runs_without_pydantic_where_no_settings_are_read() -> None:
    """The workers on Ray get fleet_wire without the settings' dependencies."""
    code = (
        "import sys; sys.modules['pydantic'] = sys.modules['pydantic_settings'] = None\n"
        "import fleet_wire.bus, fleet_wire.events, fleet_wire.kv, fleet_wire.logs, fleet_wire.tracing"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("what", ["absent", "folder"])
def test_credentials_that_cannot_be_read_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    path = tmp_path if what == "folder" else tmp_path / "absent.creds"
    monkeypatch.setenv("NATS_CREDS", str(path))
    with pytest.raises(Invalid, match=r"^NATS_CREDS: .*cannot be read"):
        load(CommonSettings)


def test_credentials_that_can_be_read_are_taken_and_empty_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "nats.creds"
    file.write_text("x")
    monkeypatch.setenv("NATS_CREDS", str(file))
    assert load(CommonSettings).nats_creds == str(file)
    monkeypatch.setenv("NATS_CREDS", "")
    assert load(CommonSettings).nats_creds is None
