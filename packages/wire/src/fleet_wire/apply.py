"""Creates and checks what `topology` says: the same code serves `fleet streams apply`, its Kubernetes Job and each service."""

import asyncio
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Optional

import nats.js.errors
import structlog
from nats.js.api import RetentionPolicy, StorageType, StreamConfig

from fleet_wire import topology
from fleet_wire.bus import TRANSIENT, Bus, reason_of
from fleet_wire.errors import Precondition, Unavailable

log = structlog.get_logger(__name__)

FLAGS = ("allow_direct", "allow_msg_schedules", "allow_msg_ttl", "allow_rollup_hdrs")
NAME_IN_USE = 10058


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
    for name in FLAGS:
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
        running = f"{version.major}.{version.minor}.{version.patch}"
        problems.append(Difference("server", f"is version {running}, and {needed} or newer is needed"))
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

    Safe to run again and by several at once. Raises Unavailable while the server is away, and Precondition for what cannot
    be mended in place (another storage or retention, a stream that holds the same subjects).
    """
    done = []
    for wanted in configs(replicas):
        try:
            line = await _apply_one(bus, wanted)
        except TRANSIENT as error:
            raise Unavailable(f"the streams could not be applied: {reason_of(error)}") from error
        except nats.js.errors.APIError as error:
            raise Precondition(
                f"{wanted.name} cannot be made what it must be: {error.description}. Save what it holds and remove what is "
                "in the way, then apply again."
            ) from error
        if line:
            done.append(line)
    return done


async def _apply_one(bus: Bus, wanted: StreamConfig) -> Optional[str]:
    name = str(wanted.name)
    found = await _found(bus, name)
    if found is None:
        try:
            await bus.js.add_stream(wanted)
        except nats.js.errors.BadRequestError as error:
            if error.err_code != NAME_IN_USE:
                raise
            found = await _found(bus, name)  # somebody else was first
        else:
            return f"created {name}"
    problems = differences(wanted, found) if found else []
    if not found or not problems:
        return None
    await bus.js.update_stream(_mended(wanted, found))
    return f"updated {name}: it {'; '.join(problems)}"


async def wait_for(bus: Bus, names: Iterable[str], report: Callable[[str], None]) -> None:
    """Returns when the named streams are as they must be. Until then calls `report(sentence)` and asks again, backing off
    from 0.2 s to 5 s."""
    names = list(names)
    pause = 0.2
    while True:
        try:
            problems = await check(bus, names)
        except TRANSIENT as error:
            problems = [Difference("server", f"does not answer: {reason_of(error)}")]
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
    raised.update((name, True) for name in FLAGS if getattr(wanted, name))
    if wanted.max_msgs_per_subject:
        raised["max_msgs_per_subject"] = wanted.max_msgs_per_subject
    ours = wanted.subjects or ()
    # The server refuses subjects of one stream that overlap: a narrower one is in ours already.
    extra = [subject for subject in found.subjects or () if not any(covers(wide, subject) for wide in ours)]
    return found.evolve(
        subjects=sorted({*ours, *extra}),
        num_replicas=max(found.num_replicas or 1, wanted.num_replicas or 1),
        retention=wanted.retention,
        storage=wanted.storage,
        **raised,
    )


def covers(wide: str, subject: str) -> bool:
    """Whether every subject that the second pattern matches is matched by the first."""
    ours, others = wide.split("."), subject.split(".")
    for place, token in enumerate(ours):
        if token == ">":
            return len(others) > place
        if place >= len(others) or others[place] == ">" or (token not in ("*", others[place])):
            return False
    return len(ours) == len(others)


def _limit(name: str, config: StreamConfig) -> float:
    return _unlimited_last(getattr(config, name))


def _unlimited_last(value: Optional[float]) -> float:
    return float("inf") if value is None or value <= 0 else value


def _word(value: Any) -> str:
    return str(getattr(value, "value", value))
