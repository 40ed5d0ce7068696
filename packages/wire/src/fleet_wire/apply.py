"""Creates and checks what `topology` says: the same code serves `fleet streams apply`, its Kubernetes Job and each service."""

import asyncio
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Optional

import nats.js.errors
import structlog
from nats.js.api import RetentionPolicy, StorageType, StreamConfig

from fleet_wire import topology
from fleet_wire.bus import TRANSIENT, Bus
from fleet_wire.errors import Unavailable

log = structlog.get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class Difference:
    """Where a stream is not what it must be. `problem` is a sentence."""

    stream: str
    problem: str


def stream_config(stream: topology.Stream, replicas: int = 1) -> StreamConfig:
    """The configuration of an event stream as `topology` says."""
    return StreamConfig(
        name=stream.name,
        subjects=list(stream.subjects),
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.MEMORY if stream.storage == "memory" else StorageType.FILE,
        max_age=stream.max_age.total_seconds() if stream.max_age else 0,
        max_bytes=stream.max_bytes or -1,
        num_replicas=replicas,
        duplicate_window=120,
        allow_direct=True,
        allow_msg_schedules=True if stream.schedules else None,
        allow_msg_ttl=True if stream.schedules else None,
        allow_rollup_hdrs=stream.schedules,
    )


def bucket_config(bucket: topology.Bucket, replicas: int = 1) -> StreamConfig:
    """The stream under a key-value bucket: history 1, a time to live per record, no limit of size."""
    return StreamConfig(
        name=f"KV_{bucket.name}",
        description=bucket.holds,
        subjects=[f"$KV.{bucket.name}.>"],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        max_msgs_per_subject=1,
        num_replicas=replicas,
        duplicate_window=120,
        allow_direct=True,
        allow_rollup_hdrs=True,
        allow_msg_ttl=True,
        deny_delete=True,
    )


def configs(replicas: int = 1) -> list[StreamConfig]:
    """All streams, those under the buckets included."""
    return [stream_config(stream, replicas) for stream in topology.STREAMS] + [
        bucket_config(bucket, replicas) for bucket in topology.BUCKETS
    ]


def differences(wanted: StreamConfig, found: StreamConfig) -> list[str]:
    """What an existing stream lacks; more than wanted (age, size, replicas) is an operator's choice and no difference."""
    problems = []
    missing = set(wanted.subjects or ()) - set(found.subjects or ())
    if missing:
        problems.append(f"lacks the subjects {', '.join(sorted(missing))}")
    for name in ("retention", "storage"):
        if getattr(found, name) != getattr(wanted, name):
            problems.append(f"has {name} {_word(getattr(found, name))}, not {_word(getattr(wanted, name))}")
    for name in ("allow_direct", "allow_msg_schedules", "allow_msg_ttl", "allow_rollup_hdrs"):
        if getattr(wanted, name) and not getattr(found, name):
            problems.append(f"does not have {name}")
    for name, unit in (("max_age", " s"), ("max_bytes", " bytes"), ("num_replicas", "")):
        if _limit(name, found) < _limit(name, wanted):
            problems.append(f"has {name} {getattr(found, name)}{unit}, below {getattr(wanted, name)}{unit}")
    if wanted.max_msgs_per_subject == 1 and found.max_msgs_per_subject != 1:
        problems.append(f"has max_msgs_per_subject {found.max_msgs_per_subject}, not 1")
    return problems


async def check(bus: Bus, names: Optional[Iterable[str]] = None) -> list[Difference]:
    """Every difference from `topology`, the server's version included; all streams, or those named."""
    problems = []
    version = bus.client.connected_server_version
    if (version.major, version.minor) < topology.NEEDED_SERVER:
        needed = ".".join(map(str, topology.NEEDED_SERVER))
        problems.append(Difference("server", f"is version {version}, and {needed} or newer is needed"))
    only = None if names is None else set(names)
    for wanted in configs():
        if only is not None and wanted.name not in only:
            continue
        found = await _found(bus, str(wanted.name))
        if found is None:
            problems.append(Difference(str(wanted.name), "does not exist"))
        else:
            problems.extend(Difference(str(wanted.name), problem) for problem in differences(wanted, found))
    return problems


async def apply(bus: Bus, replicas: int = 1) -> list[str]:
    """Creates what is missing and mends what differs, keeping what an operator raised. Answers with a line for each change.

    Safe to run again and by several at once. Raises Unavailable while the server is away.
    """
    done = []
    try:
        for wanted in configs(replicas):
            name = str(wanted.name)
            found = await _found(bus, name)
            if found is None:
                await bus.js.add_stream(wanted)
                done.append(f"created {name}")
            elif problems := differences(wanted, found):
                await bus.js.update_stream(_mended(wanted, found))
                done.append(f"updated {name}: it {'; '.join(problems)}")
    except TRANSIENT as error:
        raise Unavailable(f"the streams could not be applied: {error or type(error).__name__}") from error
    return done


async def wait_for(bus: Bus, names: Iterable[str], report: Callable[[str], None]) -> None:
    """Returns when the named streams are as they must be. Until then calls `report(sentence)` and asks again, backing off
    from 0.2 s to 5 s."""
    names = list(names)
    pause = 0.2
    while True:
        try:
            problems = await check(bus, names)
        except TRANSIENT as error:
            problems = [Difference("server", f"does not answer: {error or type(error).__name__}")]
        if not problems:
            return
        sentence = "; ".join(f"{problem.stream} {problem.problem}" for problem in problems)
        report(f"{sentence} (run `fleet streams apply`)")
        await asyncio.sleep(pause)
        pause = min(pause * 2, 5)


async def _found(bus: Bus, name: str) -> Optional[StreamConfig]:
    try:
        return (await bus.js.stream_info(name)).config
    except nats.js.errors.NotFoundError:
        return None


def _mended(wanted: StreamConfig, found: StreamConfig) -> StreamConfig:
    raised: dict[str, Any] = {
        name: max((getattr(found, name), getattr(wanted, name)), key=_unlimited_last)
        for name in ("max_age", "max_bytes")
    }
    subjects = sorted(set(found.subjects or ()) | set(wanted.subjects or ()))
    replicas = max(found.num_replicas or 1, wanted.num_replicas or 1)
    return wanted.evolve(subjects=subjects, num_replicas=replicas, **raised)


def _limit(name: str, config: StreamConfig) -> float:
    return _unlimited_last(getattr(config, name))


def _unlimited_last(value: Optional[float]) -> float:
    return float("inf") if value is None or value <= 0 else value


def _word(value: Any) -> str:
    return str(getattr(value, "value", value))
