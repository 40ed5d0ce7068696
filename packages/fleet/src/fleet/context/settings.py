"""Settings of the context service."""

from pydantic import Field, SecretStr, field_validator
from valkey.asyncio import ConnectionPool

from fleet.settings import GraphSettings, GrpcSettings


class ContextSettings(GraphSettings, GrpcSettings):
    """`valkey_url` may hold a password, so it is never shown."""

    grpc_port: int = Field(default=50051, ge=0, le=65535)
    valkey_url: SecretStr = SecretStr("valkey://127.0.0.1:6379")

    @field_validator("valkey_url")
    @classmethod
    def _valkey_address(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(("valkey://", "valkeys://", "redis://", "rediss://", "unix://")):
            raise ValueError("must begin with valkey://, valkeys://, redis://, rediss:// or unix://")
        ConnectionPool.from_url(
            value.get_secret_value()
        )  # connects to nothing; raises ValueError for what it cannot read
        return value
