"""An OpenAI-compatible server in a test, in the model's place: it keeps every prompt that reaches it and answers at once."""

import asyncio
import contextlib
import dataclasses
import json
import re
from collections.abc import AsyncIterator
from typing import Any

_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_VERDICT = '{"reason": "It says what it does.", "winner": "first"}'


@dataclasses.dataclass
class RecordingModel:
    """`prompts` are the messages of each call so far, in the order in which they came."""

    name: str
    prompts: list[list[dict[str, str]]] = dataclasses.field(default_factory=list)
    connections: set[asyncio.StreamWriter] = dataclasses.field(default_factory=set)

    def _answer(self, asked: dict[str, Any]) -> str:
        """A verdict where a form is asked for, else a text that no other call gets."""
        self.prompts.append(asked["messages"])
        return (
            _VERDICT if "response_format" in asked else f"Proposal number {len(self.prompts)}: store it, then say so."
        )

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, with one request after another."""
        self.connections.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                writer.write(self._response(head.split(b" ", 2)[1], body))
                await writer.drain()
        writer.close()

    def _response(self, path: bytes, body: bytes) -> bytes:
        if path != b"/v1/chat/completions":
            known = {b"/v1/models": {"object": "list", "data": [{"id": self.name, "object": "model"}]}, b"/health": {}}
            status = b"200 OK" if path in known else b"404 Not Found"
            return _http(status, b"application/json", json.dumps(known.get(path, {})).encode())
        text = self._answer(json.loads(body))
        chunks = [
            {"choices": [{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 10}},
        ]
        lines = [json.dumps({"object": "chat.completion.chunk", "model": self.name, **chunk}) for chunk in chunks]
        return _http(b"200 OK", b"text/event-stream", "".join(f"data: {it}\n\n" for it in [*lines, "[DONE]"]).encode())


def _http(status: bytes, kind: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (status, kind, len(body), body)


@contextlib.asynccontextmanager
async def recording_model(name: str, port: int) -> AsyncIterator[RecordingModel]:
    """Listens on a loopback port while the block runs. Connections end with it: who kept one would go on asking this one."""
    model = RecordingModel(name)
    server = await asyncio.start_server(model.serve, "127.0.0.1", port)
    try:
        yield model
    finally:
        server.close()
        for writer in model.connections:
            writer.close()
