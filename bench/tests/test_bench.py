"""What the benchmark's figures rest on: the model server's latency and answer, and how loads are counted."""

import asyncio
import json
import math
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from bench import child, load, model_server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[str]:
    async with child.model_server(Path(sys.executable), tmp_path / "log") as url:
        yield url


async def test_a_whole_answer_takes_the_latency_and_names_its_usage(server: str) -> None:
    async with httpx.AsyncClient() as client:
        begun = time.perf_counter()
        answer = (await client.post(f"{server}/v1/chat/completions", json={"messages": []})).json()
        assert time.perf_counter() - begun >= model_server.LATENCY_SECONDS
    assert answer["choices"][0]["message"]["content"] == model_server.TEXT
    assert answer["usage"]["completion_tokens"] == model_server.TOKENS


async def test_a_streamed_answer_comes_token_by_token_over_the_latency(server: str) -> None:
    pieces: list[tuple[float, str]] = []
    events = []
    begun = time.perf_counter()
    async with (
        httpx.AsyncClient() as client,
        client.stream("POST", f"{server}/v1/chat/completions", json={"stream": True}) as response,
    ):
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                events.append(event)
                if event["choices"] and (text := event["choices"][0]["delta"].get("content")):
                    pieces.append((time.perf_counter() - begun, text))
            elif line:
                assert line == "data: [DONE]"
    assert "".join(text for _, text in pieces) == model_server.TEXT
    assert len(pieces) == model_server.TOKENS
    assert events[-1]["usage"]["completion_tokens"] == model_server.TOKENS
    assert pieces[-1][0] - pieces[0][0] > model_server.LATENCY_SECONDS / 2
    assert pieces[-1][0] >= model_server.LATENCY_SECONDS


async def test_a_prompt_that_speaks_of_streaming_is_not_streamed(server: str) -> None:
    async with httpx.AsyncClient() as client:
        messages = [{"role": "user", "content": 'write {"stream": true}'}]
        answer = await client.post(f"{server}/v1/chat/completions", json={"messages": messages})
    assert answer.json()["object"] == "chat.completion"


async def test_a_request_that_comes_in_pieces_and_one_behind_it_are_both_answered(server: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.rsplit(":", 1)[1]))
    body = b'{"messages": []}'
    request = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    writer.write(request[:30])
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.write(request[30:])
    assert await reader.readexactly(len(model_server.WHOLE)) == model_server.WHOLE
    writer.write(b"GET /health HTTP/1.1\r\n\r\nGET /v1/models HTTP/1.1\r\n\r\n")
    expected = model_server.HEALTH + model_server.MODELS
    assert await reader.readexactly(len(expected)) == expected
    writer.close()


async def test_a_counted_load_makes_that_many_calls_and_no_more_at_once() -> None:
    running = most = made = 0

    async def call() -> None:
        nonlocal running, most, made
        running, made = running + 1, made + 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1

    outcome = await load.run(call, load.Load(at_once=7, count=40))
    assert (made, most, len(outcome.latencies)) == (40, 7, 40)


async def test_a_call_that_fails_is_counted_as_failed_and_not_timed() -> None:
    numbers = iter(range(10))

    async def call() -> None:
        if next(numbers) % 2:
            raise ValueError("odd")

    outcome = await load.run(call, load.Load(at_once=1, count=10))
    assert len(outcome.latencies) == 5
    assert outcome.failures == ["ValueError: odd"] * 5


async def test_the_rate_of_a_timed_load_leaves_out_its_beginning() -> None:
    async def call() -> None:
        await asyncio.sleep(0.01 if time.perf_counter() - begun > 0.2 else 0.2)

    begun = time.perf_counter()
    outcome = await load.run(call, load.Load(at_once=1, seconds=1))
    assert outcome.rate > len(outcome.latencies) / outcome.seconds


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert load.percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert load.percentile([float(number) for number in range(1, 101)], 0.99) == 99.0
    assert math.isnan(load.percentile([], 0.5))
