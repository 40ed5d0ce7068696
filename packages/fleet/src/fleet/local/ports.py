"""Which port each part listens on: the contract's, or free ones."""

import dataclasses
import random
import socket
from collections.abc import Callable, Mapping
from typing import Literal

from fleet_wire.errors import Precondition

HOST = "127.0.0.1"
FREE_RANGE = range(20000, 32000)
"""Where free ports are taken from: below what Linux gives to outgoing connections, above what Ray keeps for its workers."""

Choice = Literal["standard", "free", "free_if_taken"]


@dataclasses.dataclass(frozen=True)
class Port:
    """A port that a part needs. `setting` is how a person replaces the part or moves it; `standard` None takes any."""

    name: str
    standard: int | None
    what: str
    setting: str = ""


PORTS = (
    Port("nats", 4222, "NATS", "NATS_URL"),
    Port("graph", 7687, "the graph server", "NEO4J_URI"),
    Port("graph-http", None, "the graph server's HTTP"),
    Port("valkey", 6379, "Valkey", "VALKEY_URL"),
    Port("model", 8000, "the model server", "VLLM_URL"),
    Port("ray", None, "the Ray head"),
    Port("ray-node", None, "the Ray node"),
    Port("ray-client", 10001, "Ray's client port", "RAY_ADDRESS"),
    Port("planning", 50053, "planning", "PLANNING_ADDRESS"),
    Port("orchestrator", 50055, "the orchestrator", "ORCHESTRATOR_ADDRESS"),
    Port("context", 50051, "context", "CONTEXT_ADDRESS"),
    Port("ray-executor", 50056, "the Ray executor", "RAY_EXECUTOR_ADDRESS"),
    Port("monitoring", 8080, "the dashboard", "MONITORING_PORT"),
)


def is_free(port: int) -> bool:
    """Whether this process could listen on it now, on loopback and on all addresses (Ray listens on all)."""
    for host in (HOST, "0.0.0.0"):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


def choose(
    wanted: tuple[Port, ...],
    given: Mapping[str, int],
    choice: Choice,
    report: Callable[[str], None],
    free: Callable[[int], bool] = is_free,
) -> dict[str, int]:
    """A port for each that is wanted; what is `given` by a setting stays. Raises Precondition naming every taken port and
    the setting that helps; with `free_if_taken` moves those and reports it."""
    ports: dict[str, int] = {}
    taken = []
    for port in wanted:
        fixed = given.get(port.name)
        number = fixed if fixed is not None else (None if choice == "free" else port.standard)
        if number is not None and (number in ports.values() or not free(number)):
            if choice == "standard" or fixed is not None:
                taken.append(_sentence(port, number, fixed is not None))
                continue
            report(f"port {number} ({port.what}) is taken: a free one is used instead")
            number = None
        ports[port.name] = _some_free({*ports.values(), *given.values()}, free) if number is None else number
    if taken:
        raise Precondition("; ".join(taken))
    return ports


def _sentence(port: Port, number: int, fixed: bool) -> str:
    if fixed:
        return f"port {number} for {port.what} is taken: {port.setting} must name a free one"
    return (
        f"port {number} for {port.what} is taken: end what listens there, set {port.setting} to use another, "
        "or run with --free-ports"
    )


def _some_free(not_these: set[int], free: Callable[[int], bool]) -> int:
    for _ in range(1000):
        number = random.choice(FREE_RANGE)
        if number not in not_these and free(number):
            return number
    raise Precondition(f"no free port was found from {FREE_RANGE.start} to {FREE_RANGE.stop - 1}")
