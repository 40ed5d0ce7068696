"""What the settings make of the local stack: which parts run here and where, and what each is told of the others."""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Mapping

from fleet.local import serve
from fleet.local.home import Home
from fleet.local.parts import Part, PartMaker, Then, given_part
from fleet.local.ports import HOST, PORTS, Choice, choose
from fleet_wire.errors import Invalid

MODEL_NAME = "SmolLM2-135M-Instruct"
DATABASE = "neo4j"
ADDRESSES = {
    "planning": "PLANNING_ADDRESS",
    "orchestrator": "ORCHESTRATOR_ADDRESS",
    "context": "CONTEXT_ADDRESS",
    "ray-executor": "RAY_EXECUTOR_ADDRESS",
}
"""The setting with the address of each gRPC service; on one machine it also says where the service listens."""
REPLACED_BY = {
    "nats": "NATS_URL",
    "graph": "NEO4J_URI",
    "valkey": "VALKEY_URL",
    "model": "VLLM_URL",
    "ray": "RAY_ADDRESS",
}
"""The setting that replaces a part."""
GRAPH = ("NEO4J_URI", "NEO4J_USER", "NEO4J_PASSWORD", "NEO4J_PASSWORD_FILE", "NEO4J_DATABASE")
TOKEN = ("FLEET_ADMIN_TOKEN", "FLEET_ADMIN_TOKEN_FILE")
KEPT = ("LOG_LEVEL", "LOG_FORMAT", "OTEL_EXPORTER_OTLP_ENDPOINT", "DELIBERATION_TIMEOUT_SECONDS")
SMALL_MODEL = {"AGENT_MAX_TOKENS": "160", "CONTEXT_TOKEN_BUDGET": "1024"}
"""What the orchestrator is told for the small model of the stack, unless given: on two cores it writes 50 tokens a second,
and prompt and answer together must fit the model server's context."""
NOT_FOR_ALL = {
    *REPLACED_BY.values(),
    *ADDRESSES.values(),
    *GRAPH,
    *TOKEN,
    *SMALL_MODEL,
    *("NATS_CREDS", "VLLM_MODEL", "GRPC_PORT", "MONITORING_PORT", "BIND_HOST", "VIRTUAL_ENV", "PYTHONHOME"),
}
"""Settings that only some processes may know, or that would mean another thing to each."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """All parts, and the settings with which others find them."""

    parts: tuple[Part, ...]
    env: Mapping[str, str]


def replaced(environment: Mapping[str, str]) -> set[str]:
    """The parts that settings replace. Raises Invalid for a setting that lacks another."""
    names = {name for name, setting in REPLACED_BY.items() if environment.get(setting)}
    if "graph" in names and not (environment.get("NEO4J_PASSWORD") or environment.get("NEO4J_PASSWORD_FILE")):
        raise Invalid("NEO4J_URI is set, so NEO4J_PASSWORD (or NEO4J_PASSWORD_FILE) must be set too")
    return names


def choose_ports(environment: Mapping[str, str], choice: Choice, report: Callable[[str], None]) -> dict[str, int]:
    """A port for each part that runs here."""
    without = replaced(environment)
    wanted = tuple(port for port in PORTS if port.name in ADDRESSES or port.name.split("-")[0] not in without)
    return choose(wanted, given_ports(environment), choice, report)


def stack_settings(
    environment: Mapping[str, str], at: Mapping[str, int], secret: Callable[[str], str]
) -> dict[str, str]:
    """The settings with which every command and service finds the stack. `secret` gives a kept random one by its name."""
    without = replaced(environment)
    here = {
        "NATS_URL": f"nats://{HOST}:{at.get('nats')}",
        "VALKEY_URL": f"valkey://{HOST}:{at.get('valkey')}",
        "VLLM_URL": f"http://{HOST}:{at.get('model')}",
        "NEO4J_URI": f"bolt://{HOST}:{at.get('graph')}",
    }
    env = {name: environment.get(name) or address for name, address in here.items()}
    env["VLLM_MODEL"] = environment.get("VLLM_MODEL") or ("" if "model" in without else MODEL_NAME)
    env.update({setting: f"{HOST}:{at[name]}" for name, setting in ADDRESSES.items()})
    env["MONITORING_PORT"] = str(at["monitoring"])
    if "graph" in without:
        env.update({name: environment[name] for name in GRAPH if environment.get(name)})
    else:
        env.update(NEO4J_USER="root", NEO4J_PASSWORD=secret("graph-password"), NEO4J_DATABASE=DATABASE)
    given_token = {name: environment[name] for name in TOKEN if environment.get(name)}
    env.update(given_token or {"FLEET_ADMIN_TOKEN": secret("admin-token")})
    if environment.get("NATS_CREDS"):
        env["NATS_CREDS"] = environment["NATS_CREDS"]
    return env


def lay_out(
    home: Home,
    environment: Mapping[str, str],
    at: Mapping[str, int],
    temporary: str,
    streams: Callable[[str, str | None], Then],
    only: Collection[str] | None = None,
) -> Layout:
    """The stack for an environment, on the chosen ports: all parts, or, with `only`, those, which must do without the others.
    Raises Invalid for what is not installed."""
    without = replaced(environment)
    env = stack_settings(environment, at, home.secret)
    ray_address = environment.get("RAY_ADDRESS") or f"{HOST}:{at['ray']}"
    plain = {name: value for name, value in environment.items() if name not in NOT_FOR_ALL}
    make = PartMaker(home, plain, env, at)
    parts = []
    for name, setting in REPLACED_BY.items():
        if only is not None and name not in only:
            continue
        if name in without:
            part = given_part(name, environment[setting])
        elif name == "ray":
            part = make.ray(serve.executor_python(environment), temporary)
        else:
            part = {"nats": make.nats, "graph": make.graph, "valkey": make.valkey, "model": make.model}[name]()
        if name == "nats":
            part = dataclasses.replace(part, then=streams(env["NATS_URL"], env.get("NATS_CREDS")))
        parts.append(part)

    def told(*names: str) -> dict[str, str]:
        return {name: env[name] for name in names if name in env}

    small = {} if "model" in without else SMALL_MODEL
    tuned = {name: value for name in SMALL_MODEL if (value := environment.get(name) or small.get(name))}
    kept = {name: environment[name] for name in KEPT if environment.get(name)}
    common = {**kept, **told("NATS_URL", "NATS_CREDS")}
    graph, valkey, model = told(*GRAPH), told("VALKEY_URL"), told("VLLM_URL", "VLLM_MODEL")
    peers = told(*ADDRESSES.values())
    ray = {"RAY_ADDRESS": ray_address}
    parts += [
        # It waits for Ray by itself, and has its imports done when Ray is there.
        make.service("ray-executor", {**common, **model, **ray}, ("nats",)),
        make.service("planning", {**common, **graph}, ("nats", "graph")),
        make.service("context", {**common, **graph, **valkey, **model}, ("nats", "graph", "valkey")),
        make.service("orchestrator", {**common, **tuned, **peers}, ("nats",)),
        # Needs no Ray, but is large: what all wait for is Ray, which comes up sooner without it beside.
        make.service("monitoring", {**common, **graph, **valkey, **model, **peers, **told(*TOKEN)}, ("nats", "ray")),
    ]
    if only is not None:
        parts = [
            dataclasses.replace(part, after=tuple(name for name in part.after if name in only))
            for part in parts
            if part.name in only
        ]
    return Layout(tuple(parts), env)


def given_ports(environment: Mapping[str, str]) -> dict[str, int]:
    """Ports of our services that a setting names. Raises Invalid where it names another machine."""
    given = {}
    for name, setting in ADDRESSES.items():
        value = environment.get(setting)
        if value:
            host, _, port = value.rpartition(":")
            if host not in (HOST, "localhost") or not port.isdigit():
                raise Invalid(f"{setting} must be {HOST}:PORT for a service of the local stack, not {value[:80]!r}")
            given[name] = int(port)
    number = environment.get("MONITORING_PORT")
    if number:
        with contextlib.suppress(ValueError):
            given["monitoring"] = int(number)
        if not 0 < given.get("monitoring", 0) < 65536:
            raise Invalid(f"MONITORING_PORT must be a port, not {number[:80]!r}")
    return given
