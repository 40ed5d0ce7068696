"""Settings from environment variables, typed and validated at start. A bad or missing one ends the process with one sentence.

A secret may come from a file: `NEO4J_PASSWORD_FILE` names a file that holds what `NEO4J_PASSWORD` would.
"""

import os
import sys
from pathlib import Path
from typing import Any, Literal, NoReturn, Optional, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from fleet_wire.errors import Invalid


class CommonSettings(BaseSettings):
    """What every service is told."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    nats_url: str = Field(default="nats://127.0.0.1:4222")
    nats_creds: Optional[str] = Field(default=None)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["console", "json"] = "console"

    @field_validator("nats_url")
    @classmethod
    def _nats_address(cls, value: str) -> str:
        for server in value.split(","):
            if not server.startswith(("nats://", "tls://", "ws://", "wss://")):
                raise ValueError("must begin with nats://, tls://, ws:// or wss://")
            urlsplit(server).port  # noqa: B018 (asking for it is the check)
        return value

    @field_validator("nats_creds")
    @classmethod
    def _creds_can_be_read(cls, value: Optional[str]) -> Optional[str]:
        if not value:
            return None
        try:
            with open(value, "rb"):
                return value
        except OSError as error:
            raise ValueError(f"{value} cannot be read: {error.strerror or error}") from error


S = TypeVar("S", bound=BaseSettings)


def load(kind: type[S], **defaults: Any) -> S:
    """The settings from the environment; raises Invalid with one sentence that names every bad variable."""
    given = dict(defaults)
    for name in kind.model_fields:
        path = os.environ.get(f"{name.upper()}_FILE")
        if path and name.upper() not in os.environ:
            try:
                given[name] = Path(path).read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                raise Invalid(f"{name.upper()}_FILE names {path}, which cannot be read: {error}") from error
    for name in list(given):
        if name.upper() in os.environ:
            del given[name]
    try:
        return kind(**given)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, item['loc'])).upper() or 'settings'}: {item['msg']}" for item in error.errors()
        ]
        raise Invalid("; ".join(problems)) from error
    except SettingsError as error:  # a list or a mapping that is not JSON; its text names the field
        raise Invalid(str(error)) from error


def load_or_exit(kind: type[S], **defaults: Any) -> S:
    """`load` for a main: prints the sentence to standard error and exits with 2."""
    try:
        return load(kind, **defaults)
    except Invalid as error:
        exit_with(f"bad setting: {error}")


def exit_with(sentence: str, code: int = 2) -> NoReturn:
    """Ends the process with one sentence on standard error."""
    print(sentence, file=sys.stderr)
    raise SystemExit(code)
