"""The NATS of the manifests, as three real servers: their configuration is the ConfigMap's, with this machine's addresses."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from manifests import CONFIG

from fleet_wire import apply, events
from fleet_wire.bus import connect

SERVER = Path(sys.executable).parent / "nats-server"
PASSWORD = "Example0Example0Example0"


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def test_the_servers_configuration_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "nats.conf"
    file.write_text(CONFIG["nats.conf"])
    environment = {**os.environ, "POD_NAME": "nats-0", "NATS_PASSWORD": PASSWORD}
    done = subprocess.run([SERVER, "-t", "-c", file], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_configuration_says_the_ports_of_the_config() -> None:
    text = CONFIG["nats.conf"]
    assert re.findall(r"^port: (\d+)", text, re.MULTILINE) == [CONFIG["NATS_PORT"]]
    assert re.findall(r"^http_port: (\d+)", text, re.MULTILINE) == [CONFIG["NATS_MONITOR_PORT"]]
    assert re.findall(r"^  port: (\d+)", text, re.MULTILINE) == [CONFIG["NATS_CLUSTER_PORT"]]
    assert set(re.findall(r"nats-\d\..*:(\d+)", text)) == {CONFIG["NATS_CLUSTER_PORT"]}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[list[int], list["subprocess.Popen[bytes]"]]]:
    ports = free_ports(9)
    clients, routes, monitors = ports[:3], ports[3:6], ports[6:]
    processes = []
    for number in range(3):
        text = CONFIG["nats.conf"].replace("/data", str(tmp_path / f"data-{number}"))
        text = text.replace(f"port: {CONFIG['NATS_PORT']}", f"listen: 127.0.0.1:{clients[number]}", 1)
        text = text.replace(f"http_port: {CONFIG['NATS_MONITOR_PORT']}", f"http: 127.0.0.1:{monitors[number]}")
        text = text.replace(f"  port: {CONFIG['NATS_CLUSTER_PORT']}", f"  listen: 127.0.0.1:{routes[number]}")
        text = re.sub(r"nats-(\d)\.\S+", lambda found: f"127.0.0.1:{routes[int(found[1])]}", text)
        file = tmp_path / f"nats-{number}.conf"
        file.write_text(text)
        environment = {**os.environ, "POD_NAME": f"nats-{number}", "NATS_PASSWORD": PASSWORD}
        with (tmp_path / f"log-{number}").open("wb") as log:
            processes.append(subprocess.Popen([SERVER, "-c", file], env=environment, stdout=log, stderr=log))
    yield clients, processes
    for process in processes:
        process.kill()
        process.wait()


async def test_streams_are_kept_three_times_and_outlive_the_loss_of_a_node(
    cluster: tuple[list[int], list["subprocess.Popen[bytes]"]],
) -> None:
    clients, processes = cluster
    bus = await connect(",".join(f"nats://fleet:{PASSWORD}@127.0.0.1:{port}" for port in clients), "test")
    deadline = asyncio.get_running_loop().time() + 30
    while True:
        try:
            await apply.apply(bus, replicas=3)
            break
        except (apply.Unavailable, apply.Precondition) as error:  # the servers elect their leader
            assert asyncio.get_running_loop().time() < deadline, error
            await asyncio.sleep(0.2)
    assert await apply.check(bus) == []
    for name in ("PLANNING_EVENTS", "VLLM_STREAMING", "KV_deliberations"):
        assert (await bus.js.stream_info(name)).config.num_replicas == 3
    await bus.publish(events.StoryCreated(story_id="s1", title="", brief=""))
    leader = (await bus.js.stream_info("PLANNING_EVENTS")).cluster
    assert leader is not None and leader.leader is not None
    os.kill(processes[int(leader.leader[-1])].pid, signal.SIGKILL)
    await bus.publish(events.StoryCreated(story_id="s2", title="", brief=""))
    assert (await bus.js.stream_info("PLANNING_EVENTS")).state.messages == 2
    await bus.close()
