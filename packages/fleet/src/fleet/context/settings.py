"""Settings of the context service."""

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from valkey.asyncio import ConnectionPool

from fleet.settings import GraphSettings, GrpcSettings


class ContextSettings(GraphSettings, GrpcSettings):
    """`valkey_url` may hold a password, so it is never shown. Tokens are counted by the tokenizer of the model at `vllm_url`, and
    estimated without it; an empty `vllm_model` takes the first model the server names. `scopes_file` is a policy of scopes in
    place of the one that is shipped (`scopes`). What a session has seen is forgotten `session_seconds` after its last use."""

    grpc_port: int = Field(default=50051, ge=0, le=65535)
    valkey_url: SecretStr = SecretStr("valkey://127.0.0.1:6379")
    vllm_url: str | None = None
    vllm_model: str = ""
    scopes_file: Path | None = None
    session_seconds: int = Field(default=3600, ge=1, le=30 * 24 * 3600)

    @field_validator("valkey_url")
    @classmethod
    def _valkey_address(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(("valkey://", "valkeys://", "redis://", "rediss://", "unix://")):
            raise ValueError("must begin with valkey://, valkeys://, redis://, rediss:// or unix://")
        ConnectionPool.from_url(
            value.get_secret_value()
        )  # connects to nothing; raises ValueError for what it cannot read
        return value

    @field_validator("vllm_url")
    @classmethod
    def _base_url(cls, value: str | None) -> str | None:
        """As the executor takes it: with or without /v1."""
        if not value:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must begin with http:// or https:// and name a host")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("must hold no credentials, query or fragment")
        return value.rstrip("/").removesuffix("/v1")
