"""The service as a process, with the page as browsers see it: over NiceGUI's socket, and in Chromium where there is one."""

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import time
import uuid
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import monitoring_kit as kit
import pytest
import realparts
import socketio

from fleet_wire import apply
from fleet_wire import bus as bus_module
from fleet_wire.bus import Bus

INSTALL_SECONDS = 120
"""For the package lists, and again for the package."""
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


def installed_chromium() -> str | None:
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def chromium() -> str:
    """The browser; Debian's is installed where it is missing and can be. Skips where it cannot."""
    apt = shutil.which("apt-get")
    if installed_chromium() is None and apt and os.geteuid() == 0:
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in ([apt, "update", "-qq"], [apt, "install", "-qq", "-y", "--no-install-recommends", "chromium"]):
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(command, env=env, capture_output=True, timeout=INSTALL_SECONDS, check=False)
    found = installed_chromium()
    if found is None:
        reason = "the page was not looked at: no Chromium, and apt-get could not install it (set CHROMIUM)"
        warnings.warn(reason, stacklevel=1)
        pytest.skip(reason)
    return found


@pytest.fixture
async def own_bus(own_nats: realparts.Nats) -> AsyncIterator[Bus]:
    connection = await bus_module.connect(own_nats.url, "tests")
    await apply.apply(connection)
    yield connection
    await connection.close()


async def get(url: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        return await client.get(url)


async def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Waits until the condition, which may be a coroutine function, holds."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if await answer if asyncio.iscoroutine(answer) else answer:
            return
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.1)


async def watchers(url: str) -> int:
    return int((await get(f"{url}/healthz")).json()["watchers"])


class Browser:
    """What a browser does: fetches the page, then shakes hands over the socket. `updates` is all the text it was sent."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._socket = socketio.AsyncClient(reconnection=False)
        self._socket.on("update", self._on_update)
        self.updates: list[str] = []

    async def open(self) -> None:
        page = (await get(self._url)).text
        found = re.search(r"client_id['\"]?\s*[:=]\s*['\"]([0-9a-f-]{36})", page)
        assert found, page[:2000]
        query = f"client_id={found[1]}&next_message_id=0&implicit_handshake=true"
        query += f"&document_id={uuid.uuid4()}&tab_id={uuid.uuid4()}&old_tab_id=null"
        await self._socket.connect(
            f"{self._url}?{query}", socketio_path="/_nicegui_ws/socket.io", transports=["websocket"]
        )

    async def close(self) -> None:
        await self._socket.disconnect()

    def _on_update(self, message: object) -> None:
        self.updates.append(str(message))

    def was_sent(self, text: str) -> bool:
        return any(text in update for update in self.updates)


async def test_browsers_see_events_live_and_leave_nothing_behind(
    own_nats: realparts.Nats, own_bus: Bus, tmp_path: Path
) -> None:
    with kit.dashboard(tmp_path, NATS_URL=own_nats.url) as (url, process):
        page = (await get(url)).text
        assert not re.findall(r"(?:src|href)=[\"']?(?:https?:)?//[^\"' >]+", page), "the page loads from elsewhere"
        one, two = Browser(url), Browser(url)
        await one.open()
        await two.open()
        await until(lambda: _is(watchers(url), 2))
        await own_bus.publish(kit.approved(title="A task of <i>mine</i>"))
        await own_bus.publish(kit.started())
        await own_bus.publish_core(kit.chunk(0, "streamed words"))
        for browser in (one, two):
            await until(lambda browser=browser: browser.was_sent("A task of &lt;i&gt;mine&lt;/i&gt;"))
            await until(lambda browser=browser: browser.was_sent("streamed words"))
        assert not one.was_sent("<i>mine")
        sent = len(one.updates)
        await asyncio.sleep(3)
        assert len(one.updates) - sent <= 15, "updates are few"
        await until(lambda: len(one.updates) > sent)  # ages count up
        await one.close()
        await until(lambda: _is(watchers(url), 1))
        await own_bus.publish(kit.started("d2"))
        await until(lambda: two.was_sent("d2"))
        started = time.monotonic()
        assert process.stop() == 0, process.text()[-3000:]
        assert time.monotonic() - started < 8
        assert "Traceback" not in process.text()


async def _is(answer: Awaitable[int], wanted: int) -> bool:
    return await answer == wanted


async def test_a_socket_from_another_site_is_refused(own_nats: realparts.Nats, tmp_path: Path) -> None:
    with kit.dashboard(tmp_path, NATS_URL=own_nats.url) as (url, _):
        path = "/_nicegui_ws/socket.io/?EIO=4&transport=polling"
        async with httpx.AsyncClient(trust_env=False) as client:
            other = await client.get(url + path, headers={"Origin": "https://evil.example"})
            own = await client.get(url + path, headers={"Origin": url})
        assert other.status_code == 400
        assert own.status_code == 200


async def test_it_is_up_without_nats_says_so_and_goes_live_when_it_comes(
    own_nats: realparts.Nats, own_bus: Bus, tmp_path: Path
) -> None:
    own_nats.process.kill()
    with kit.dashboard(tmp_path, NATS_URL=own_nats.url) as (url, process):
        answer = await get(f"{url}/readyz")
        assert answer.status_code == 503
        assert "nats: no NATS server answers at" in answer.json()["reason"]
        deliberations = (await get(f"{url}/api/deliberations")).json()
        assert deliberations["source"]["state"] == "unreachable"
        own_nats.process.start()
        await apply.apply(own_bus)

        async def ready() -> bool:
            return (await get(f"{url}/readyz")).status_code == 200

        await until(ready)
        own_nats.process.kill()
        await until(lambda: _not(ready()))
        assert process.stop() == 0, process.text()[-3000:]


async def _not(answer: Awaitable[bool]) -> bool:
    return not await answer


@pytest.mark.timeout(480)
async def test_chromium_shows_the_page_and_runs_nothing_that_events_bring(
    chromium: str, own_nats: realparts.Nats, own_bus: Bus, tmp_path: Path
) -> None:
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    async with kit.serving(kit.Orchestrator()) as port:
        env = {"NATS_URL": own_nats.url, "ORCHESTRATOR_ADDRESS": f"127.0.0.1:{port}"}
        with kit.dashboard(tmp_path, **env) as (url, _):
            for event in (kit.approved(title=evil), kit.started(), kit.result(content=evil), kit.completed(title=evil)):
                await own_bus.publish(event)
            await own_bus.client.publish("context.updated", evil.encode())
            await until(lambda: _sees(url, "dec-d1"))
            await until(lambda: _sees_councils(url))
            command = [chromium, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"]
            dump = [*command, "--virtual-time-budget=8000", "--window-size=1500,1400", "--dump-dom", url]
            ran = await asyncio.to_thread(
                subprocess.run, dump, capture_output=True, text=True, timeout=120, check=False
            )
            dom = ran.stdout
            assert "<title>SWE AI Fleet</title>" in dom, dom[:2000] + ran.stderr[-2000:]
            for words in ("dec-d1", kit.AGENTS[0], "unreachable", "malformed:", "&lt;img src=x", "1.2.3"):
                assert words in dom, words
            assert '<img src="x"' not in dom
            assert "CONSOLE" not in "".join(line for line in ran.stderr.splitlines() if "Refused" in line), ran.stderr
            await until(lambda: _is(watchers(url), 0))


async def _sees(url: str, words: str) -> bool:
    return words in (await get(f"{url}/api/deliberations")).text


async def _sees_councils(url: str) -> bool:
    return (await get(f"{url}/api/councils")).json()["councils"] is not None
