"""What the orchestrator is told. It is never told where Ray is: it talks to the executor only."""

from pathlib import Path

from pydantic import Field

from fleet.settings import GrpcSettings, OrchestratorPeers


class OrchestratorSettings(GrpcSettings, OrchestratorPeers):
    """`agent_max_tokens` is what an agent may write, `context_token_budget` what it may be shown, both in tokens. `policy_dir` is
    a folder with rule files of the councils (`policies`)."""

    grpc_port: int = Field(default=50055, ge=0, le=65535)
    deliberation_timeout_seconds: float = Field(default=300, ge=1, le=86400)
    agent_max_tokens: int = Field(default=1024, ge=1, le=16384)
    agent_temperature: float = Field(default=0.7, ge=0, le=2)
    context_token_budget: int = Field(default=4096, ge=64, le=1_000_000)
    sweep_seconds: float = Field(default=30, ge=0.1)
    policy_dir: Path | None = None
