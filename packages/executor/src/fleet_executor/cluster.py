"""The adapter to Ray: the only file that imports it."""

import asyncio
import json
import logging
import os
import platform
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, TypeVar, Union

import msgspec
import ray
import ray.exceptions
import ray.util
import structlog
from ray._private import services, state
from ray._raylet import GcsClient
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fleet_executor.config import PREFIX, WorkerConfig, code_folders, code_hash, pool_hash, pool_name
from fleet_executor.jobs import ActorView, OpenJob
from fleet_executor.placing import placed
from fleet_executor.ports import ClusterStats, NodeStats, Used, in_thread
from fleet_executor.probe import probe
from fleet_executor.versions import Versions, differ, mismatch, sentence
from fleet_executor.worker import VLLMAgentJob
from fleet_wire.errors import Unavailable

log = structlog.get_logger(__name__)

NAMESPACE = "swe-ai-fleet"
RAY_ERRORS = (ray.exceptions.RayError, ConnectionError, OSError, RuntimeError, ValueError)
"""What Ray raises when a cluster, a node or an actor is not there, or does not want us."""
ACTOR_CALLS = 1000
"""Short calls that one actor serves at once."""
CALL_SECONDS = 5
SURVEY_SECONDS = 2
START_SECONDS = 120
"""For a new worker process on a busy machine, its code's download included."""

T = TypeVar("T")


class RayCluster:
    """See `ports.Cluster`. All of Ray's calls block, so each runs in a thread. Lives in the process of `driver`."""

    def __init__(self, address: str, config: WorkerConfig, pool_size: int) -> None:
        self.address = address
        self.ours = Versions(ray=ray.__version__, python=platform.python_version())
        self._config = config
        self._code = code_hash()
        self.pool = pool_name(pool_hash(self._code, config))
        self._size = pool_size
        self.actors: Sequence[str] = ()
        self._forget()

    async def connect(self) -> None:
        await self._ask(self._connect, None)
        log.info("Ray Executor connected", ray_address=self.address, ray=self.ours.ray, python=self.ours.python)

    async def disconnect(self) -> None:
        self._forget()
        await self._ask(ray.shutdown, 2)

    async def check(self) -> None:
        await self._ask(self._check, CALL_SECONDS)

    async def probe(self) -> Mapping[str, str]:
        return await self._ask(self._probe, None)

    async def make_pool(self) -> Sequence[str]:
        return await self._ask(self._make_pool, None)

    async def survey(self, drain: Optional[bool]) -> Mapping[str, ActorView]:
        return await self._ask(lambda: self._survey(drain), SURVEY_SECONDS + CALL_SECONDS)

    async def accept(self, actor: str, jobs: Union[Sequence[OpenJob], msgspec.Raw]) -> str:
        """The jobs may be encoded already."""
        body = msgspec.json.encode(jobs)
        return await self._ask(lambda: self._accept(actor, body), CALL_SECONDS * 2)

    async def cancel(self, actor: str, keys: Sequence[str]) -> None:
        await self._ask(lambda: self._cancel(actor, keys), CALL_SECONDS * 2)

    async def kill(self, actor: str) -> None:
        await self._ask(lambda: ray.kill(self._handle(actor), no_restart=True), CALL_SECONDS)
        self._drop(actor)

    async def renew(self, actor: str) -> None:
        await self._ask(lambda: self._renew(actor), CALL_SECONDS * 4)

    async def stats(self) -> ClusterStats:
        return await self._ask(self._stats, CALL_SECONDS * 4)

    async def _ask(self, work: Callable[[], T], seconds: Optional[float]) -> T:
        try:
            return await in_thread(work, seconds)
        except asyncio.TimeoutError as error:
            raise Unavailable(f"the Ray cluster at {self.address} did not answer within {seconds} s") from error
        except RAY_ERRORS as error:
            raise Unavailable(self._sentence(error)) from error

    def _sentence(self, error: Exception) -> str:
        text = str(error) or type(error).__name__
        refused = mismatch(text, self.address, self.ours)
        return refused or f"the Ray cluster at {self.address} cannot be used: {' '.join(text.split())[:500]}"

    @property
    def _is_client(self) -> bool:
        return self.address.startswith("ray://")

    def _forget(self) -> None:
        self._head: Optional[tuple[str, int]] = None
        self._handles: dict[str, Any] = {}
        self._asked: dict[str, Any] = {}
        self._silent_since: dict[str, float] = {}
        self._seen: dict[str, ActorView] = {}
        """What each actor said of itself last."""
        self._refused: set[str] = set()
        self._probed: set[str] = set()
        self._no_sandbox: dict[str, str] = {}
        self._checked: set[str] = set()

    def _drop(self, actor: str) -> None:
        for table in (self._handles, self._asked, self._silent_since, self._seen):
            table.pop(actor, None)
        self._checked.discard(actor)

    def _connect(self) -> None:
        if ray.is_initialized():
            ray.shutdown()
        self._head = self._find_head()
        self._check()
        options: dict[str, Any] = {
            "namespace": NAMESPACE,
            "log_to_driver": False,
            "runtime_env": {"py_modules": code_folders(), "excludes": ["**/__pycache__"]},
        }
        if not self._is_client:
            options.update(configure_logging=False, logging_level=logging.WARNING)
        host, port = self._head
        if not self._is_client:
            self._compare_versions(f"{host}:{port}")
        # Never without an address, and never `auto` again: Ray would start a cluster, or wait for a dead one.
        ray.init(self.address if self._is_client else f"{host}:{port}", **options)
        # Once a connection: Ray keeps, and sends, each of them anew.
        self._probe_task = ray.remote(num_cpus=0)(probe)
        self._free_task = ray.remote(num_cpus=0)(_free)
        self._end_task = ray.remote(num_cpus=0, max_retries=0)(_end)
        self._actor_class = ray.remote(VLLMAgentJob)

    def _find_head(self) -> tuple[str, int]:
        address = self.address[len("ray://") :] if self._is_client else self.address
        if address == "auto":
            address = services.canonicalize_bootstrap_address("auto") or ""
        host, _, port = address.rpartition(":")
        return host.strip("[]"), int(port)

    def _check(self) -> None:
        """The port first: what asks a dead cluster blocks, and after a minute Ray ends the process."""
        assert self._head is not None
        socket.create_connection(self._head, timeout=2).close()
        if ray.is_initialized():
            ray.nodes()

    def _compare_versions(self, head: str) -> None:
        """Before Ray does: an older client that meets a newer cluster looks for keys that are not there any more, and says
        nothing but ConnectionError after a while. Through Ray Client the server compares."""
        told = GcsClient(address=head).internal_kv_get(b"CLUSTER_METADATA", b"cluster", timeout=CALL_SECONDS)
        if told is None:
            return
        said = json.loads(told)
        theirs = Versions(ray=said["ray_version"], python=said["python_version"])
        if differ(theirs, self.ours):
            raise Unavailable(sentence(self.address, theirs, self.ours))

    def _probe(self) -> dict[str, str]:
        nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
        new = [node_id for node_id in nodes if node_id not in self._probed]
        refs = {}
        for node_id in new:
            there = NodeAffinitySchedulingStrategy(node_id, soft=False)
            refs[node_id] = self._probe_task.options(scheduling_strategy=there).remote(
                self._config.nats_creds, self._config.sandbox_python
            )
        problems = []
        for node_id, ref in refs.items():
            try:
                answer = ray.get(ref, timeout=START_SECONDS)
            except ray.exceptions.RayError as error:
                self._refused.add(node_id)
                problems.append(f"node {nodes[node_id]} cannot run our code: {' '.join(str(error).split())[-400:]}")
                continue
            if not answer["problems"] and answer["code"] != self._code:
                answer["problems"].append(
                    "runs another release of fleet_executor than was sent: remove it from its image"
                )
            problems.extend(f"node {nodes[node_id]} {problem}" for problem in answer["problems"])
            if answer["problems"]:
                self._refused.add(node_id)
            else:
                self._refused.discard(node_id)
                self._probed.add(node_id)
                self._no_sandbox[node_id] = answer["sandbox"]
                log.info("node probed", node=nodes[node_id], no_sandbox=answer["sandbox"], **answer["versions"])
        self._probed &= set(nodes)
        if problems:
            raise Unavailable("; ".join(problems))
        without = {node_id: reason for node_id, reason in self._no_sandbox.items() if reason}
        return {nodes[node_id]: reason for node_id, reason in without.items() if node_id in nodes}

    def _make_pool(self) -> list[str]:
        found = {name: self._last(name).node for name in self._named() if self._is_of_pool(name)}
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in self._refused]
        places = placed(self.pool, self._size, found, sorted(nodes))
        config = msgspec.json.encode(self._config)
        for name, node_id in places.make.items():
            self._handles[name] = self._actor_class.options(
                name=name,
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                max_restarts=-1,
                max_task_retries=-1,
                max_concurrency=ACTOR_CALLS,
                num_cpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),  # what is soft, Ray may miss
            ).remote(name, config)
        unchecked = [name for name in places.names if name not in self._checked]
        codes = ray.get([self._handle(name).code.remote() for name in unchecked], timeout=START_SECONDS)
        if any(code != self._code for code in codes):
            raise Unavailable(f"the pool {self.pool} runs other code than its name says")
        self._checked.update(unchecked)
        if unchecked or places.names != list(self.actors):
            log.info("pool of VLLMAgentJob", pool=self.pool, actors=len(places.names), made=len(places.make))
        self.actors = places.names
        return places.names

    def _is_of_pool(self, actor: str) -> bool:
        return actor.startswith(f"{self.pool}-")

    def _is_surplus(self, actor: str) -> bool:
        """Whether it is not to have jobs any more. Before the pool is looked at, all that are of it are needed."""
        return actor not in self.actors if self.actors else not self._is_of_pool(actor)

    def _accept(self, actor: str, body: bytes) -> str:
        taken = self._handle(actor).accept.remote(body, self._last(actor).incarnation)
        answer: str = ray.get(taken, timeout=CALL_SECONDS)
        return answer

    def _cancel(self, actor: str, keys: Sequence[str]) -> None:
        cancel = getattr(self._handle(actor), "cancel", None)
        if cancel is None:  # an actor of an earlier release: the end in the registry stands before what it brings
            return
        ray.get(cancel.remote(msgspec.json.encode(keys)), timeout=CALL_SECONDS)

    def _renew(self, actor: str) -> None:
        """By a task on its node: Ray's own `kill` asks the process to end, which one that is stuck may not do."""
        seen = self._last(actor)
        if not seen.pid or not any(node["Alive"] and node["NodeID"] == seen.node for node in ray.nodes()):
            return
        there = NodeAffinitySchedulingStrategy(seen.node, soft=False)
        ended = ray.get(self._end_task.options(scheduling_strategy=there).remote(seen.pid), timeout=CALL_SECONDS * 3)
        if self._last(actor) is seen:
            self._seen[actor] = msgspec.structs.replace(seen, pid=0)  # until it answers again
        if ended:
            log.warning("process of a silent VLLMAgentJob ended", actor=actor, pid=seen.pid)

    def _last(self, actor: str) -> ActorView:
        return self._seen.get(actor) or ActorView(name=actor)

    def _handle(self, actor: str) -> Any:
        if actor not in self._handles:
            self._handles[actor] = ray.get_actor(actor, namespace=NAMESPACE)
        return self._handles[actor]

    def _survey(self, drain: Optional[bool]) -> dict[str, ActorView]:
        measures = next((name for name in self.actors if name not in self._silent_since), None)
        for name in self._named():
            if name not in self._asked:
                told = None if drain is None else drain and self._is_surplus(name)
                try:
                    handle = self._handle(name)
                    # Those of earlier releases know no second argument.
                    asked_now = (told, True) if name == measures else (told,)
                    self._asked[name] = handle.survey.remote(*asked_now)
                except ValueError:  # it ended between the list and the look
                    continue
        asked = dict(self._asked)
        if not asked:
            return {}
        done, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=SURVEY_SECONDS)
        views = {}
        for name, ref in asked.items():
            if ref in done:
                self._asked.pop(name, None)
                try:
                    said = msgspec.json.decode(ray.get(ref))
                    views[name] = msgspec.convert({"name": name, **said}, ActorView)
                    self._silent_since.pop(name, None)
                    self._seen[name] = views[name]
                    continue
                except ray.exceptions.RayActorError as error:
                    log.warning("VLLMAgentJob does not answer", actor=name, reason=str(error).split("\n", 1)[0])
                    self._handles.pop(name, None)
            since = self._silent_since.setdefault(name, time.monotonic())
            views[name] = ActorView(name=name, silent_seconds=max(time.monotonic() - since, 0.001))
        gone = set(views) - set(self._named())
        for name in gone:
            self._drop(name)
        return {name: view for name, view in views.items() if name not in gone}

    @staticmethod
    def _named() -> list[str]:
        return [name for name in ray.util.list_named_actors() if name.startswith(PREFIX + "-")]

    def _stats(self) -> ClusterStats:
        free = ray.get(self._free_task.remote(), timeout=CALL_SECONDS * 3) if self._is_client else _free()
        nodes = []
        for node in ray.nodes():
            total, left = node["Resources"], free.get(node["NodeID"], {})
            amounts = {name: _used(total, left, key) for name, key in RESOURCES.items()} if node["Alive"] else {}
            nodes.append(
                NodeStats(
                    node_id=node["NodeID"],
                    address=node["NodeManagerAddress"],
                    alive=bool(node["Alive"]),
                    no_sandbox=self._no_sandbox.get(node["NodeID"], "not probed") if node["Alive"] else "it is dead",
                    **amounts,
                )
            )
        total, left = ray.cluster_resources(), ray.available_resources()
        sums = {name: _used(total, left, key) for name, key in RESOURCES.items()}
        # Ray lets no other Python or Ray in than its own: ours are the cluster's.
        return ClusterStats(nodes=nodes, ray_version=self.ours.ray, python_version=self.ours.python, **sums)


RESOURCES = {"cpus": "CPU", "gpus": "GPU", "memory_bytes": "memory"}


def _free() -> dict[str, dict[str, float]]:
    """What is not reserved, by node and resource. Through Ray Client it runs as a task: a client cannot ask this."""
    found: dict[str, dict[str, float]] = state.available_resources_per_node()
    return found


def _end(pid: int) -> bool:
    """Runs on the actor's node; answers with whether it ended the process, and leaves alone what else has its number now."""
    try:
        if not Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::VLLMAgentJob"):
            return False
        os.kill(pid, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return True


def _used(total: Mapping[str, float], left: Mapping[str, float], key: str) -> Used:
    """Ray leaves out what is used up altogether, so what is not listed as left is in use."""
    amount = float(total.get(key, 0))
    return Used(used=max(0.0, amount - float(left.get(key, 0))), total=amount)
