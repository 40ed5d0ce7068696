"""Settings of the executor, from environment variables."""

from urllib.parse import urlsplit

from pydantic import Field, field_validator

from fleet_executor.config import WorkerConfig
from fleet_executor.placing import MOST
from fleet_wire.settings import CommonSettings


class ExecutorSettings(CommonSettings):
    """`VLLM_URL` is the one place that agents' calls go to; no request can name another.

    `NATS_CREDS` is the path of a file that must be readable under the same path on every Ray node. Python and Ray must be
    the cluster's own. `BIND_HOST` is loopback unless told otherwise: in a container it is 0.0.0.0.
    """

    bind_host: str = "127.0.0.1"
    grpc_port: int = Field(default=50056, ge=0, le=65535)
    ray_address: str = "auto"
    vllm_url: str = "http://127.0.0.1:8000"
    vllm_model: str = ""
    """Empty takes the first model the server names."""
    pool_size: int = Field(default=1, ge=1, le=MOST)
    """Actors at least: every node of the cluster has one, up to 256 in all. One on a node costs the least: what it reads and
    what it is given is shared by all that runs there."""
    model_calls_limit: int = Field(default=256, ge=1, le=65536)
    """Calls to the model's endpoint that are open at once, at most; fewer while its /metrics shows requests that wait."""
    actor_concurrency: int = Field(default=256, ge=1, le=4096)
    """Calls to the model that one actor has open at once: one alone takes all that MODEL_CALLS_LIMIT lets in."""
    model_connect_timeout_seconds: float = Field(default=5, gt=0)
    model_first_token_timeout_seconds: float = Field(default=120, gt=0)
    model_idle_timeout_seconds: float = Field(default=60, gt=0)
    model_total_timeout_seconds: float = Field(default=600, gt=0)
    model_attempts: int = Field(default=4, ge=1, le=20)
    sandbox_python: str = ""
    """The interpreter, 3.9 or newer, that runs what a model wrote, by the path that it has on every node; empty takes the
    worker's own."""
    sandbox_seconds: float = Field(default=10, gt=0, le=60)
    """For one test, and the most that it may use of the processor."""
    sandbox_memory_mb: int = Field(default=512, ge=64, le=65536)

    @field_validator("ray_address")
    @classmethod
    def _existing_cluster(cls, value: str) -> str:
        address = value[len("ray://") :] if value.startswith("ray://") else value
        host, _, port = address.rpartition(":")
        if value == "auto" or (host and "/" not in host and port.isdigit() and 0 < int(port) < 65536):
            return value
        raise ValueError("must be auto, host:port or ray://host:port")

    @field_validator("sandbox_python")
    @classmethod
    def _a_path(cls, value: str) -> str:
        if value and not value.startswith("/"):
            raise ValueError("must be an absolute path")
        return value

    @field_validator("vllm_url")
    @classmethod
    def _base_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must begin with http:// or https:// and name a host")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("must hold no credentials, query or fragment")
        base = value.rstrip("/")
        return base[: -len("/v1")] if base.endswith("/v1") else base

    def worker_config(self) -> WorkerConfig:
        """What the actors are told."""
        return WorkerConfig(
            nats_url=self.nats_url,
            nats_creds=self.nats_creds,
            vllm_url=self.vllm_url,
            vllm_model=self.vllm_model,
            concurrency=self.actor_concurrency,
            connect_seconds=self.model_connect_timeout_seconds,
            first_token_seconds=self.model_first_token_timeout_seconds,
            idle_seconds=self.model_idle_timeout_seconds,
            total_seconds=self.model_total_timeout_seconds,
            attempts=self.model_attempts,
            sandbox_python=self.sandbox_python,
            sandbox_seconds=self.sandbox_seconds,
            sandbox_memory_mb=self.sandbox_memory_mb,
            log_level=self.log_level,
            log_format=self.log_format,
        )
