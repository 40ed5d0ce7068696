"""What an actor is made of: its settings and the code it runs. Both are in the hash that names its pool."""

import hashlib
import sys
from pathlib import Path
from typing import Literal, Optional

import msgspec

import fleet_executor
import fleet_wire
from fleet_executor.sandbox import Sandbox

PREFIX = "VLLMAgentJob"


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of an actor. Seconds are wall-clock; `attempts` counts calls to the model for one job, the first included.
    `sandbox_python` runs what a model wrote; empty takes the worker's own."""

    nats_url: str
    nats_creds: Optional[str] = None
    vllm_url: str
    vllm_model: str = ""
    concurrency: int = 256
    connect_seconds: float = 5.0
    first_token_seconds: float = 120.0
    idle_seconds: float = 60.0
    total_seconds: float = 600.0
    attempts: int = 4
    sandbox_python: str = ""
    sandbox_seconds: float = 10.0
    sandbox_memory_mb: int = 512
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["console", "json"] = "console"

    def sandbox(self) -> Sandbox:
        """What a dry run gets, on the node where this is called."""
        return Sandbox(
            python=self.sandbox_python or sys.executable, seconds=self.sandbox_seconds, memory_mb=self.sandbox_memory_mb
        )


def code_folders() -> list[str]:
    """The folders of the packages that workers need."""
    return [str(Path(str(package.__file__)).parent) for package in (fleet_wire, fleet_executor)]


def code_hash() -> str:
    """SHA-256 over the source of fleet_wire and fleet_executor as this process has them."""
    digest = hashlib.sha256()
    for folder in map(Path, code_folders()):
        for path in sorted(folder.rglob("*.py"), key=lambda path: path.as_posix()):
            name = f"{folder.name}/{path.relative_to(folder).as_posix()}".encode()
            content = path.read_bytes()
            digest.update(b"%d %s %d " % (len(name), name, len(content)) + content)
    return digest.hexdigest()


def pool_hash(code: str, config: WorkerConfig) -> str:
    """Twelve hex digits that name a pool: other code or other settings make another one."""
    config = msgspec.json.decode(msgspec.json.encode(config), type=WorkerConfig)  # so that 5 and 5.0 are the same
    return hashlib.sha256(code.encode() + msgspec.json.encode(config)).hexdigest()[:12]


def pool_name(digest: str) -> str:
    return f"{PREFIX}-{digest}"


def actor_name(pool: str, number: int) -> str:
    return f"{pool}-{number}"
