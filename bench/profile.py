"""Where the time goes: a sampling profile of parts of this system under load, or the messages of one deliberation in order."""

import asyncio
import collections
import re
import time
from pathlib import Path

import psutil
from nats.aio.msg import Msg

from bench import load, system, usage
from bench.budget import MANY
from fleet.local import processes

SAMPLES_PER_SECOND = 200
TOP = 45
WARM_UP = 192


async def parts(url: str, protocol: str, wanted: str, seconds: float, python: Path, results: Path) -> int:
    """Samples with py-spy every process whose part's name holds one of `wanted` (comma between; "all" for every Python), counts
    only samples that hold the interpreter's lock, prints the functions that stand highest, and saves all stacks to
    profile-PART-PID.txt (for speedscope or flamegraph.pl)."""
    names = [name.strip().lower() for name in wanted.split(",")]
    async with system.running(url, protocol, sync_always=False) as ours:
        await load.run(ours.deliberate, load.Load(MANY, WARM_UP))
        running: list[tuple[str, Path, asyncio.subprocess.Process]] = []
        for process in processes.marked(ours.stack.stack_id):
            part = usage.part_of(process)
            if _is_python(process) and ("all" in names or any(name in part.lower() for name in names)):
                out = results / f"profile-{part.replace(' ', '-')}-{process.pid}.txt"
                running.append((part, out, await _sampled(python, process.pid, seconds, out)))
        if not running:
            print(f"no Python process of the system is named like {wanted}")
            return 1
        async with usage.measured(lambda: processes.marked(ours.stack.stack_id)) as spent:
            outcome = await load.run(ours.deliberate, load.Load(MANY, 0, seconds + 1))
        for part, out, sampler in running:
            _, errors = await sampler.communicate()
            if sampler.returncode:
                print(f"{part}: py-spy could not sample: {errors.decode(errors='replace')[-300:]}")
            else:
                _print_top(part, out)
        done = max(1, len(outcome.latencies))
        print(f"\n{outcome.rate:.1f} deliberations/s while sampled; CPU ms per deliberation:")
        for part, used in sorted(spent.cpu.items(), key=lambda item: -item[1]):
            print(f"  {used * 1000 / done:7.2f}  {part}")
        if outcome.failures:
            print(f"{len(outcome.failures)} failed: {outcome.failures[0]}")
    return 0


def _is_python(process: psutil.Process) -> bool:
    try:
        return "python" in Path(process.exe()).name
    except psutil.Error:
        return False


async def _sampled(python: Path, pid: int, seconds: float, out: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        str(python.parent / "py-spy"),
        *("record", "--pid", str(pid), "--duration", str(max(1, int(seconds))), "--rate", str(SAMPLES_PER_SECOND)),
        *("--gil", "--format", "raw", "--output", str(out)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )


def _print_top(part: str, stacks: Path) -> None:
    within: collections.Counter[str] = collections.Counter()
    itself: collections.Counter[str] = collections.Counter()
    total = 0
    for line in stacks.read_text().splitlines():
        stack, _, number = line.rpartition(" ")
        count = int(number)
        frames = [re.sub(r":\d+\)$", ")", frame) for frame in stack.split(";")]
        total += count
        itself[frames[-1]] += count
        within.update(dict.fromkeys(frames, count))
    print(f"\n== {part}: {total} samples ({stacks})\n   within  itself")
    for frame, count in within.most_common(TOP):
        print(f"   {count / max(1, total):6.1%}  {itself[frame] / max(1, total):6.1%}  {frame}")
    print("   itself")
    for frame, count in itself.most_common(15):
        print(f"   {count / max(1, total):6.1%}  {frame}")


async def timeline(url: str, protocol: str) -> None:
    """Prints each message on NATS that one deliberation causes, requests and their replies too, in ms from its start."""
    async with system.running(url, protocol, sync_always=False) as ours:
        await load.run(ours.deliberate, load.Load(8, 64))
        await asyncio.sleep(2)
        seen: list[tuple[float, str, int]] = []

        async def note(message: Msg) -> None:
            seen.append((time.perf_counter(), message.subject, len(message.data)))

        await ours.bus.client.subscribe(">", cb=note)
        await ours.bus.client.flush()
        begun = time.perf_counter()
        await ours.deliberate()
        ended = time.perf_counter()
        await asyncio.sleep(0.5)
        shown = [one for one in seen if "$JS.EVENT.ADVISORY" not in one[1]]  # sent because somebody listens: this does
        for moment, subject, size in shown:
            mark = " " if moment <= ended else "+"
            print(f"{mark}{(moment - begun) * 1000:8.1f} ms {size:6d} B  {subject[:110]}")
        kinds = collections.Counter(_kind(subject) for _, subject, _ in shown)
        print(f"\n{len(shown)} messages, decided after {(ended - begun) * 1000:.1f} ms")
        for kind, count in kinds.most_common():
            print(f"  {count:4d}  {kind}")


def _kind(subject: str) -> str:
    """The subject without what is different in each deliberation."""
    subject = re.sub(r"^_INBOX\..*", "replies", subject)
    subject = re.sub(r"(ACK\.[A-Z_]+\.[a-z-]+)\..*", r"\1", subject)
    return re.sub(r"\.(delib|job|bench)-.*", ".*", subject)
