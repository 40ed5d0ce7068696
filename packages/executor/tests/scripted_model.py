"""A model server that does what a test tells it, over real HTTP. It runs in a thread of its own, so that tests of any loop,
and processes of any environment, can ask it."""

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from typing import Any, Optional

from aiohttp import web

MODEL = "scripted"


def piece(text: Optional[str] = None, finish: Optional[str] = None, **more: Any) -> bytes:
    """An event of a streamed answer."""
    delta = {} if text is None else {"content": text}
    body = {"model": MODEL, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}
    return f"data: {json.dumps(body)}\n\n".encode()


USAGE = {"prompt_tokens": 12, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}}
TAIL = [
    piece(None, "stop"),
    f"data: {json.dumps({'model': MODEL, 'choices': [], 'usage': USAGE})}\n\n".encode(),
    b"data: [DONE]\n\n",
]


class ScriptedModel:
    """`script` holds what the next calls get: a status, None to end the connection without a word, or a list of bytes to send
    and of seconds (numbers), or events of threading, to wait for. A list that does not end with TAIL is cut off hard. With
    nothing left, it repeats the last message of the prompt, word by word; `[slow N]` in it makes that take N seconds."""

    def __init__(self) -> None:
        self.script: list[Any] = []
        self.asked: list[dict[str, Any]] = []
        self.peers: list[Any] = []
        """The address that each call came from: one connection has one."""
        self.streaming = 0
        self.waiting: Optional[float] = None
        """What /metrics says of requests that wait; None where there is no such page."""
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._started.wait(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/v1/chat/completions", self._chat)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)  # of calls that are left
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port: int = runner.addresses[0][1]
        self._started.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": MODEL}]})

    async def _metrics(self, request: web.Request) -> web.Response:
        if self.waiting is None:
            return web.Response(status=404)
        name = "vllm:num_requests_waiting"
        return web.Response(text=f'# TYPE {name} gauge\n{name}{{engine="0",model_name="{MODEL}"}} {self.waiting}\n')

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        assert request.transport is not None
        self.asked.append(body)
        self.peers.append(request.transport.get_extra_info("peername"))
        behaviour = self.script.pop(0) if self.script else list(_echo(body["messages"][-1]["content"]))
        if behaviour is None:
            request.transport.abort()
            return web.Response()
        if isinstance(behaviour, int):
            return web.Response(status=behaviour, text="the model says no")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.streaming += 1
        try:
            for step in behaviour:
                if isinstance(step, bytes):
                    await response.write(step)
                elif isinstance(step, threading.Event):
                    await asyncio.to_thread(step.wait, 60)
                else:
                    await asyncio.sleep(step)
        except ConnectionError:
            return response
        finally:
            self.streaming -= 1
        if behaviour[-1:] != TAIL[-1:] and request.transport is not None:
            request.transport.abort()
        return response


def _echo(text: str) -> Iterator[Any]:
    slow = re.search(r"\[slow ([\d.]+)\]", text)
    words = text.split(" ")
    for number, word in enumerate(words):
        if slow:
            yield float(slow[1]) / len(words)
        yield piece(word if number == 0 else f" {word}")
    yield from TAIL
