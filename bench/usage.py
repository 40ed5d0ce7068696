"""CPU time and memory of groups of processes, by name. A process that ends between two looks takes its last share with it."""

import asyncio
import contextlib
import dataclasses
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

import psutil

Processes = Callable[[], Sequence[psutil.Process]]
MEBIBYTE = 1024 * 1024
PARTS = (
    ("fleet.local.serve orchestrator", "orchestrator"),
    ("fleet.local.serve context", "context"),
    ("fleet_executor.driver", "executor's Ray driver"),
    ("fleet_executor", "ray-executor"),
    ("ray::VLLMAgentJob", "Ray workers"),
    ("ray::", "other Ray workers"),
    ("nats-server", "NATS"),
    ("valkey-server", "Valkey"),
    ("com.arcadedb", "graph"),
    ("org.neo4j", "graph"),
    ("raylet", "Ray itself"),
    ("gcs_server", "Ray itself"),
    ("ray", "Ray itself"),
    ("postgres", "PostgreSQL"),
    ("bench.subject", "the library's process"),
)
"""What stands in a command line, and the name of the part that it is. The first that fits."""


def family(pids: Iterable[int]) -> list[psutil.Process]:
    """These processes with all that descend from them, where they live."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            found += [process, *process.children(recursive=True)]
    return found


def part_of(process: psutil.Process) -> str:
    """The name of the part a process is of."""
    line = " ".join(process.cmdline())
    return next((name for mark, name in PARTS if mark in line), process.name())


def cpu_seconds(processes: Iterable[psutil.Process]) -> dict[tuple[int, str], float]:
    """User and system time of each, by pid and part."""
    found = {}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            found[process.pid, part_of(process)] = times.user + times.system
    return found


def memory_mib(processes: Iterable[psutil.Process]) -> dict[str, float]:
    """`pss` counts what is shared once, `rss` with each process that has it; in MiB. Where PSS cannot be read it is left out."""
    rss, pss = 0, 0
    readable = True
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            rss += process.memory_info().rss
            try:
                pss += process.memory_full_info().pss
            except psutil.AccessDenied:
                readable = False
    return {"rss": rss / MEBIBYTE, **({"pss": pss / MEBIBYTE} if readable else {})}


@dataclasses.dataclass
class Spent:
    """CPU seconds by part, the highest sum of resident memory seen, and the memory at the end."""

    cpu: dict[str, float] = dataclasses.field(default_factory=dict)
    peak_rss_mib: float = 0
    memory: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def cpu_seconds(self) -> float:
        return sum(self.cpu.values())


@contextlib.asynccontextmanager
async def measured(processes: Processes) -> AsyncIterator[Spent]:
    """Fills in what these processes spend while the block runs."""
    spent = Spent()
    ours = list(processes())
    before = cpu_seconds(ours)
    sampling = asyncio.create_task(_sample(ours, spent))
    try:
        yield spent
    finally:
        sampling.cancel()
        ours = list(processes())
        by_part: defaultdict[str, float] = defaultdict(float)
        for key, seconds in cpu_seconds(ours).items():
            by_part[key[1]] += seconds - before.get(key, 0.0)
        spent.cpu = dict(by_part)
        spent.memory = memory_mib(ours)
        spent.peak_rss_mib = max(spent.peak_rss_mib, spent.memory["rss"])


async def _sample(processes: Sequence[psutil.Process], spent: Spent) -> None:
    while True:
        total = 0
        for process in processes:
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        spent.peak_rss_mib = max(spent.peak_rss_mib, total / MEBIBYTE)
        await asyncio.sleep(1)
