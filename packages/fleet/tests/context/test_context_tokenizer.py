"""Tokens counted by the served model: by llama.cpp's real server, by one that answers as vLLM does, and by none."""

import asyncio
import contextlib
import dataclasses
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import realparts
import structlog.testing
from test_context_packing import FULL, asked

from fleet.context import handlers
from fleet.context.tokenizer import ESTIMATE, FIRST_PAUSE, LONGEST_PAUSE, Tokenizer, estimate
from fleet_wire.errors import Unavailable

Answer = Callable[[dict[str, Any]], tuple[int, object]]


def as_vllm(body: dict[str, Any]) -> tuple[int, object]:
    """A token a word; special ones only where they are asked for."""
    words = len(body["prompt"].split()) + body["add_special_tokens"]
    return 200, {"count": words, "max_model_len": 2048, "tokens": [7] * words, "token_strs": None}


def as_llama(body: dict[str, Any]) -> tuple[int, object]:
    return 200, {"tokens": [7] * (len(body["content"].split()) + body["add_special"] + body["parse_special"])}


@dataclasses.dataclass
class Served:
    """A model server on loopback whose `/tokenize` answers with what `answer` makes of the request's body."""

    url: str
    answer: Answer
    asked: list[dict[str, Any]] = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def serving(answer: Answer) -> Iterator[Served]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._say(200, {"data": [{"id": "the-model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            served.asked.append(body)
            self._say(*served.answer(body))

        def log_message(self, *_: object) -> None:
            """Says nothing."""

        def _say(self, status: int, value: object) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Served(f"http://127.0.0.1:{server.server_port}", answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.asynccontextmanager
async def tokenizer(url: str | None, model: str = "") -> Any:
    made = Tokenizer(url, model, seconds=30)
    await made.check()
    yield made
    await made.close()


def test_an_estimate_is_a_third_of_the_utf8_bytes_rounded_up() -> None:
    assert [estimate(text) for text in ("", "a", "abc", "abcd", "äöü", "日本")] == [0, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("answer", [as_vllm, as_llama])
async def test_both_servers_answers_are_read_and_no_special_token_is_counted(answer: Answer) -> None:
    with serving(answer) as served:
        async with tokenizer(served.url) as counter:
            assert counter.name == "the-model"
            assert await counter.count(["one two", "", "one two three", "one two"]) == [2, 0, 3, 2]
        assert {body["model"] for body in served.asked} == {"the-model"}


async def test_llama_cpp_counts_as_its_model_reads(tmp_path: Path) -> None:
    with realparts.model_server(tmp_path, "small") as url:
        async with tokenizer(url) as counter:
            assert counter.name == "small"
            prose, code = "The quick brown fox jumps over the lazy dog.", "def f(x):\n    return x + 1\n"
            found = await counter.count([prose, code, "<|im_end|>"])
            assert 8 < found[0] < 12 and 8 < found[1] < 16 and found[2] > 1, found
            context = await handlers.counted(asked(), FULL, counter)
            assert context.tokenizer == "small"
            assert [block.tokens for block in context.blocks] == await counter.count(
                [f"{block.title}\n{block.text}" if block.title else block.text for block in context.blocks]
            )


async def test_a_text_is_asked_for_once() -> None:
    with serving(as_vllm) as served:
        async with tokenizer(served.url, "given") as counter:
            await handlers.counted(asked(), FULL, counter)
            before = len(served.asked)
            again = await handlers.counted(asked(1999), FULL, counter)
            assert (len(served.asked), again.tokenizer) == (before, "given")


@pytest.mark.parametrize(
    "answer",
    [
        lambda body: (404, {"detail": "Not Found"}),
        lambda body: (200, {"tokens": []}),
        lambda body: (200, []),
        lambda body: (200, {"count": "many"}),
    ],
)
async def test_a_server_without_such_an_answer_is_no_tokenizer(answer: Answer) -> None:
    with serving(answer) as served:
        async with tokenizer(served.url) as counter:
            assert counter.name == ESTIMATE
            assert (await handlers.counted(asked(), FULL, counter)).tokenizer == ESTIMATE


async def test_a_server_that_goes_away_is_waited_for_once_and_used_again_when_it_is_back() -> None:
    with serving(as_vllm) as served, structlog.testing.capture_logs() as lines:
        async with tokenizer(served.url) as counter:
            served.answer = lambda body: (503, {})
            context = await handlers.counted(asked(), FULL, counter)
            assert context == await handlers.counted(asked(), FULL, Tokenizer(None))
            before = len(served.asked)
            with pytest.raises(Unavailable):
                await counter.count(["another text"])
            assert (await handlers.counted(asked(), FULL, counter)).tokenizer == ESTIMATE
            assert len(served.asked) == before
            await counter.check()
            served.answer = as_vllm
            await counter.check()
            assert (await handlers.counted(asked(), FULL, counter)).tokenizer == "the-model"
    assert [line["log_level"] for line in lines] == ["info", "warning", "info"]


async def test_a_text_that_the_server_refuses_is_estimated_and_asked_for_once() -> None:
    long = dataclasses.replace(FULL, task=dataclasses.replace(FULL.task, description="refused"))
    with serving(as_vllm) as served:
        async with tokenizer(served.url) as counter:
            served.answer = lambda body: (400, {}) if "refused" in body["prompt"] else as_vllm(body)
            assert (await handlers.counted(asked(), long, counter)).tokenizer == ESTIMATE
            assert (counter.name, (await handlers.counted(asked(), FULL, counter)).tokenizer) == ("the-model",) * 2
            before = len(served.asked)
            assert (await handlers.counted(asked(), long, counter)).tokenizer == ESTIMATE
            assert len(served.asked) == before


async def test_a_server_that_was_late_is_left_alone_and_then_asked_for_what_it_was_late_with() -> None:
    now, quick = [0.0], threading.Event()

    def slow(body: dict[str, Any]) -> tuple[int, object]:
        if "slow" in body["prompt"]:
            quick.wait(20)
        return as_vllm(body)

    with serving(slow) as served:
        counter = Tokenizer(served.url, "", seconds=1, clock=lambda: now[0])
        await counter.check()
        with pytest.raises(Unavailable):
            await counter.count(["slow text"])
        asked_then = len(served.asked)
        for pause in (FIRST_PAUSE, 2 * FIRST_PAUSE):
            now[0] += pause - 1
            await counter.check()
            assert (len(served.asked), counter.name) == (asked_then, ESTIMATE)
            now[0] += 1
            await counter.check()
            assert counter.name == ESTIMATE
            asked_then = len(served.asked)
        quick.set()
        now[0] += LONGEST_PAUSE
        await counter.check()
        assert (counter.name, await counter.count(["slow text"])) == ("the-model", [2])
        await counter.close()


async def test_a_server_that_is_lost_between_two_counts_leaves_no_context_half_estimated() -> None:
    long = dataclasses.replace(FULL, task=dataclasses.replace(FULL.task, description="word " * 3000))
    with serving(as_vllm) as served:
        async with tokenizer(served.url) as counter:
            served.answer = lambda body: (503, {}) if "[cut]" in body["prompt"] else as_vllm(body)
            found = await handlers.counted(asked(500), long, counter)
            assert found == await handlers.counted(asked(500), long, Tokenizer(None))
            assert (found.tokenizer, found.tokens <= 500) == (ESTIMATE, True)


async def test_without_an_address_tokens_are_estimated_and_nothing_is_said_of_it() -> None:
    with structlog.testing.capture_logs() as lines:
        async with tokenizer(None) as counter:
            assert counter.name == ESTIMATE
    assert lines == []


async def test_many_contexts_at_once_are_counted_at_once() -> None:
    with serving(as_vllm) as served:
        async with tokenizer(served.url) as counter:
            texts = [f"text number {number}" for number in range(100)]
            assert await asyncio.gather(*(counter.count([text]) for text in texts)) == [[3]] * 100
