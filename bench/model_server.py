"""A model server of constant latency, in place of vLLM: every answer is the same prose and takes the same time.

`POST /v1/chat/completions` answers after LATENCY_SECONDS, or, with `"stream": true`, with TOKENS tokens spread evenly over that
time, each at its own moment by the clock, so that late timers do not add up. `/v1/models`, `/metrics` and `/health` answer at
once. Speaks just enough HTTP/1.1 for the clients here, straight on the event loop, since what it costs is taken from those it
measures. `python -m bench.model_server PORT` prints a line when it listens.
"""

import asyncio
import json
import re
import sys

import uvloop

LATENCY_SECONDS = 0.2
TOKENS = 32
MODEL = "constant-latency"
TEXT = (
    "Start with the smallest change that works, watch how it behaves for a week, write down what surprised you, "
    "and only then decide whether the larger step is really worth its cost."
)
PROMPT_TOKENS = 256
"""What `usage` says of every prompt, whose length is not looked at."""

_STREAMED = re.compile(rb'"stream"\s*:\s*true')
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_USAGE = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": TOKENS, "total_tokens": PROMPT_TOKENS + TOKENS}
_COMMON = {"id": "chatcmpl-0", "created": 1, "model": MODEL}


def tokens() -> list[str]:
    """The answer in TOKENS pieces that join to it."""
    words = TEXT.split(" ")
    assert len(words) >= TOKENS
    pieces = [word if number == 0 else f" {word}" for number, word in enumerate(words)]
    return [*pieces[: TOKENS - 1], "".join(pieces[TOKENS - 1 :])]


def _response(body: bytes, kind: bytes = b"application/json", status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (status, kind, len(body), body)


def _chunk(data: bytes) -> bytes:
    event = b"data: %b\n\n" % data
    return b"%x\r\n%b\r\n" % (len(event), event)


def _event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return _chunk(json.dumps({**_COMMON, "object": "chat.completion.chunk", "choices": [choice]}).encode())


def _whole() -> bytes:
    message = {"role": "assistant", "content": TEXT}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return _response(
        json.dumps({**_COMMON, "object": "chat.completion", "choices": [choice], "usage": _USAGE}).encode()
    )


def _streamed() -> list[bytes]:
    """What is written at once, and then at each token's moment."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    events = [_event({"content": piece}) for piece in tokens()]
    usage = {**_COMMON, "object": "chat.completion.chunk", "choices": [], "usage": _USAGE}
    end = _event({}, "stop") + _chunk(json.dumps(usage).encode()) + _chunk(b"[DONE]") + b"0\r\n\r\n"
    return [head + _event({"role": "assistant", "content": ""}), *events[:-1], events[-1] + end]


WHOLE = _whole()
STREAMED = _streamed()
MODELS = _response(json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode())
HEALTH = _response(b"{}")
NOT_FOUND = _response(b'{"error": {"message": "not here"}}', status=b"404 Not Found")


class Server(asyncio.Protocol):
    """One connection; requests on it are answered one after another."""

    open_calls = 0

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.WriteTransport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            length = _LENGTH.search(head)
            size = end + 4 + (int(length[1]) if length else 0)
            if len(self._buffer) < size:
                return
            body, self._buffer = self._buffer[end + 4 : size], self._buffer[size:]
            self._answer(head.split(b" ", 2)[1], body)

    def _answer(self, path: bytes, body: bytes) -> None:
        if path == b"/v1/chat/completions":
            Server.open_calls += 1
            now = self._loop.time()
            if _STREAMED.search(body):
                self._transport.write(STREAMED[0])
                self._loop.call_at(now + LATENCY_SECONDS / TOKENS, self._next, now, 1)
            else:
                self._loop.call_at(now + LATENCY_SECONDS, self._end, WHOLE)
        elif path == b"/metrics":
            text = (
                f'vllm:num_requests_running{{model_name="{MODEL}"}} {Server.open_calls}\n'
                f'vllm:num_requests_waiting{{model_name="{MODEL}"}} 0\n'
            )
            self._transport.write(_response(text.encode(), b"text/plain; version=0.0.4"))
        else:
            self._transport.write({b"/v1/models": MODELS, b"/health": HEALTH}.get(path, NOT_FOUND))

    def _next(self, begun: float, number: int) -> None:
        if self._transport.is_closing():
            Server.open_calls -= 1
        elif number == TOKENS:
            self._end(STREAMED[number])
        else:
            self._transport.write(STREAMED[number])
            number += 1
            self._loop.call_at(begun + LATENCY_SECONDS * number / TOKENS, self._next, begun, number)

    def _end(self, data: bytes) -> None:
        Server.open_calls -= 1
        if not self._transport.is_closing():
            self._transport.write(data)


async def serve(port: int) -> None:
    """Listens on loopback until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", port, backlog=4096)
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
