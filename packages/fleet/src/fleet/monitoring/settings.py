"""What the dashboard is told. Every address has its contract's default on this machine."""

from pydantic import Field, SecretStr, field_validator

from fleet.settings import GraphSettings, ServiceAddresses


class MonitoringSettings(GraphSettings, ServiceAddresses):
    """Without FLEET_ADMIN_TOKEN the admin call is switched off; without VLLM_URL the model server is not shown."""

    monitoring_port: int = Field(default=8080, ge=0, le=65535)
    valkey_url: str = "valkey://127.0.0.1:6379"
    vllm_url: str | None = None
    fleet_admin_token: SecretStr | None = None

    @field_validator("valkey_url")
    @classmethod
    def _valkey_scheme(cls, value: str) -> str:
        if not value.startswith(("valkey://", "valkeys://", "redis://", "rediss://")):
            raise ValueError("must begin with valkey:// or redis:// (or their s forms)")
        return value

    @field_validator("vllm_url")
    @classmethod
    def _http_scheme(cls, value: str | None) -> str | None:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value or None

    @field_validator("fleet_admin_token")
    @classmethod
    def _empty_is_absent(cls, value: SecretStr | None) -> SecretStr | None:
        return value if value is not None and value.get_secret_value() else None
