"""The client of the model: the event stream, and every way a call can fail, over real HTTP."""

import asyncio
import contextlib
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import spec
from scripted_model import TAIL, ScriptedModel, piece
from stack import free_port

from fleet_executor import vllm
from fleet_executor.config import WorkerConfig
from fleet_executor.sse import MAX_EVENT_BYTES, SseError, SseParser
from fleet_executor.vllm import ModelClient, ModelError, model_session

Make = Callable[..., ModelClient]
PATIENT = 60.0
"""Seconds of a limit that a slow machine does not come to either."""
SILENT = 30
"""Seconds for which a model says nothing."""


def cut_up(body: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    return [body[start:end] for start, end in zip(places, places[1:])]


def parsed(chunks: list[bytes]) -> list[str]:
    parser = SseParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # texts are slow to make on a busy machine
@given(
    texts=st.lists(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\n")), max_size=5),
    cuts=st.lists(st.integers(min_value=0, max_value=10_000), max_size=20),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    comment=st.booleans(),
)
def test_events_come_out_the_same_wherever_the_bytes_are_cut(
    texts: list[str], cuts: list[int], end: str, comment: bool
) -> None:
    extra = f": ping{end}{end}event: x{end}" if comment else ""
    body = "".join(f"{extra}data: {text}{end}{end}" for text in texts) + f":{end}"
    assert parsed(cut_up(body.encode(), cuts)) == texts


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=10))
def test_garbage_is_refused_or_ignored_but_never_breaks_the_parser(chunks: list[bytes]) -> None:
    parser = SseParser()
    try:
        for chunk in chunks:
            for event in parser.feed(chunk):
                assert isinstance(event, str)
    except SseError:
        pass


def test_lines_of_data_are_joined_and_a_byte_order_mark_is_skipped() -> None:
    assert parsed([b"\xef\xbb\xbfdata: a\ndata:b\n\n"]) == ["a\nb"]


@pytest.mark.parametrize(
    ("body", "events"),
    [
        (b"data: a\n\ndata: b\n\n", ["a", "b"]),
        (b"data: a\n\ndata: b\ndata: c\n\n", ["a", "b\nc"]),
        (b"data: a\n\n: ping\n\ndata: b\n\n", ["a", "b"]),
        (b"data: a\n\nid: 7\ndata: b\n\n", ["a", "b"]),
        (b"data: a\n\n\n\ndata: b\n\n", ["a", "b"]),
        (b"data: a\n\ndata: b\n", ["a"]),
        (b"data: \n\ndata:  a\n\n", ["", " a"]),
    ],
)
def test_events_that_come_together_are_those_that_come_byte_by_byte(body: bytes, events: list[str]) -> None:
    assert parsed([body]) == parsed([bytes([byte]) for byte in body]) == events


def test_an_event_without_end_is_refused() -> None:
    parser = SseParser()
    with pytest.raises(SseError):
        for _ in range(MAX_EVENT_BYTES // 10_000 + 2):
            parser.feed(b"x" * 10_000)


@pytest.fixture
async def make(model: ScriptedModel) -> AsyncIterator[Make]:
    sessions = []
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    def build(**changes: Any) -> ModelClient:
        session = model_session()
        sessions.append(session)
        values = {
            "nats_url": "nats://-",
            "vllm_url": model.url,
            "first_token_seconds": PATIENT,
            "idle_seconds": PATIENT,
            **changes,
        }
        client = ModelClient(session, WorkerConfig(**values), sleep)
        client.pauses = pauses  # type: ignore[attr-defined]
        return client

    yield build
    for session in sessions:
        await session.close()


@pytest.mark.parametrize(("calls", "seconds"), [(6, 0.0125), (28, 0.025), (48, 0.05), (64, 0.1)])
async def test_many_answers_at_once_are_read_a_few_times_each_and_come_whole(
    make: Make, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch, calls: int, seconds: float
) -> None:
    reads = 0

    def counted(parser: SseParser, chunk: bytes) -> list[str]:
        nonlocal reads
        reads += 1
        return parser.feed(chunk)

    monkeypatch.setattr(vllm, "_fed", counted)
    client = make()
    model.script[:] = [[step for number in range(60) for step in (piece(f"{number} "), seconds / 5)] + TAIL] * calls
    begun = time.monotonic()
    answers = await asyncio.gather(*(client.complete(spec(), lambda text: None) for _ in range(calls)))
    elapsed = time.monotonic() - begun
    assert {answer.text for answer in answers} == {"".join(f"{number} " for number in range(60))}
    assert vllm.gather_seconds(calls) == seconds
    few = 62  # of the first or the last answer, which may be read alone
    assert reads <= calls * (elapsed / seconds + 3) + vllm.FEW * few
    assert reads < calls * 60 * 0.7


async def failure(client: ModelClient) -> tuple[ModelError, str]:
    shown: list[str] = []
    with pytest.raises(ModelError) as caught:
        await client.complete(spec(), shown.append)
    return caught.value, "".join(shown)


async def test_an_answer_comes_with_its_usage_and_piece_by_piece(make: Make, model: ScriptedModel) -> None:
    shown: list[str] = []
    is_shown = threading.Event()
    model.script.append([piece("one"), is_shown, piece(" two") + piece(" three"), *TAIL])

    def show(text: str) -> None:
        shown.append(text)
        is_shown.set()

    answer = await make().complete(spec(seed=2**64 - 1), show)
    assert (answer.text, shown) == ("one two three", ["one", " two three"])
    assert (answer.usage.prompt, answer.usage.completion, answer.usage.cached) == (12, 3, 8)
    assert answer.model == "scripted"
    assert 0 < answer.first_token_seconds < 5
    asked = model.asked[-1]
    assert asked["messages"] == [{"role": "user", "content": "one two three"}]
    assert (asked["model"], asked["max_tokens"], asked["temperature"]) == ("scripted", 64, 0.5)
    assert asked["seed"] == 2**31 - 1
    assert asked["stream"] is True
    assert asked["stream_options"] == {"include_usage": True}


async def test_a_model_that_is_set_is_not_asked_for(make: Make, model: ScriptedModel) -> None:
    await make(vllm_model="mine").complete(spec(), lambda text: None)
    assert model.asked[-1]["model"] == "mine"


async def test_calls_one_after_another_share_a_connection(make: Make, model: ScriptedModel) -> None:
    client = make()
    for _ in range(3):
        await client.complete(spec(), lambda text: None)
    assert len(model.peers) == 3 and len(set(model.peers)) == 1


async def test_a_connection_whose_answer_was_not_read_to_its_end_is_not_used_again(
    make: Make, model: ScriptedModel
) -> None:
    client = make(idle_seconds=0.4)
    model.script[:] = [[piece("whole"), piece(None, "stop"), SILENT], [piece("whole"), *TAIL, SILENT, *TAIL]]
    for _ in range(3):
        await client.complete(spec(), lambda text: None)
    assert len(set(model.peers)) == 3


async def test_a_kept_connection_that_ends_as_it_is_used_again_costs_no_attempt(
    make: Make, model: ScriptedModel
) -> None:
    client = make(attempts=1)
    await client.complete(spec(), lambda text: None)
    model.script[:] = [None]
    answer = await client.complete(spec(), lambda text: None)
    assert (answer.text, len(model.asked)) == ("one two three", 3)
    model.script[:] = [None, None]
    error, _ = await failure(client)
    assert (error.kind, error.retryable, len(model.asked)) == ("unreachable", True, 5)


async def test_nobody_there_is_unreachable(make: Make) -> None:
    client = make(vllm_url=f"http://127.0.0.1:{free_port()}", attempts=3)
    error, _ = await failure(client)
    assert (error.kind, error.retryable) == ("unreachable", True)
    assert len(client.pauses) == 2  # type: ignore[attr-defined]


async def test_an_error_before_the_first_token_is_tried_again(make: Make, model: ScriptedModel) -> None:
    model.script[:] = [500, 503, [b""]]
    answer = await make(attempts=4).complete(spec(), lambda text: None)
    assert answer.text == "one two three"
    assert len(model.asked) == 4


async def test_a_server_that_keeps_failing_is_given_up(make: Make, model: ScriptedModel) -> None:
    model.script[:] = [500] * 9
    error, _ = await failure(make(attempts=3))
    assert (error.kind, error.retryable, len(model.asked)) == ("http", True, 3)
    assert "500" in error.message and "the model says no" in error.message


async def test_a_refusal_is_not_tried_again(make: Make, model: ScriptedModel) -> None:
    model.script[:] = [400]
    error, _ = await failure(make())
    assert (error.kind, error.retryable, len(model.asked)) == ("http", False, 1)


async def test_a_redirect_is_not_followed(make: Make, model: ScriptedModel) -> None:
    model.script[:] = [307]
    error, _ = await failure(make())
    assert error.kind == "http" and "307" in error.message


async def test_a_stall_before_the_first_token_times_out_and_is_tried_again(make: Make, model: ScriptedModel) -> None:
    client = make(first_token_seconds=0.4)

    async def grow_patient(_: float) -> None:
        client._config = msgspec.structs.replace(client._config, first_token_seconds=PATIENT)

    client._sleep = grow_patient
    model.script[:] = [[b": wait\n\n", SILENT, *TAIL]]
    client.model = "scripted"  # so that the call stalls, and not the question for the name
    answer = await client.complete(spec(), lambda text: None)
    assert answer.text == "one two three"
    model.script[:] = [[SILENT, *TAIL], [SILENT, *TAIL]]
    error, _ = await failure(make(attempts=2, first_token_seconds=0.4))
    assert (error.kind, error.retryable) == ("timeout", True)


async def test_a_time_out_that_a_wait_keeps_for_itself_comes_again(
    make: Make, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make(attempts=1, first_token_seconds=0.4)
    monkeypatch.setattr(client, "_model", keeps_cancels)
    model.script[:] = [[SILENT, *TAIL]]
    error, _ = await failure(client)
    assert (error.kind, error.retryable, len(model.asked)) == ("timeout", True, 1)

    async def check(response: Any) -> None:
        await keeps_cancels()

    monkeypatch.setattr(client, "_check", check)
    model.script[:] = [[SILENT, *TAIL]]
    error, _ = await failure(client)
    assert (error.kind, error.retryable) == ("timeout", True)


async def keeps_cancels() -> str:
    """As `asyncio.wait_for` of Python 3.9 does with one that comes together with what it waits for."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(SILENT)
    return "scripted"


@pytest.mark.parametrize("is_told", [True, False])
async def test_a_cancel_that_comes_together_with_a_time_out_stops_the_call(
    is_told: bool, make: Make, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_told and sys.version_info < (3, 11):
        pytest.skip("NOT TESTED before Python 3.11: a task does not tell there who cancelled it")
    stopped: list[bool] = []
    look = vllm._Watch._look

    def look_as_somebody_cancels(watch: vllm._Watch) -> None:
        look(watch)
        if watch.late:
            stopped.append(is_told)
            asking.cancel()

    monkeypatch.setattr(vllm._Watch, "_look", look_as_somebody_cancels)
    model.script[:] = [[SILENT, *TAIL]]
    client = make(vllm_model="scripted", first_token_seconds=0.4)
    asking = asyncio.ensure_future(client.complete(spec(), lambda text: None, None, lambda: any(stopped)))
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert stopped and len(model.asked) <= 1


async def test_a_cancel_that_a_wait_keeps_for_itself_does_not_ask_the_model(
    make: Make, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, stopped = make(), threading.Event()
    monkeypatch.setattr(client, "_model", keeps_cancels)
    asking = asyncio.ensure_future(client.complete(spec(), lambda text: None, None, stopped.is_set))
    await asyncio.sleep(0)  # it waits for the name now
    stopped.set()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert model.asked == []


@pytest.mark.skipif(sys.version_info < (3, 11), reason="NOT TESTED here: a task does not tell who cancelled it")
async def test_a_time_out_leaves_no_cancel_behind(make: Make, model: ScriptedModel) -> None:
    task = asyncio.current_task()
    assert task is not None and sys.version_info >= (3, 11)
    model.script[:] = [[SILENT, *TAIL]]
    await failure(make(attempts=1, first_token_seconds=0.4))
    assert task.cancelling() == 0


async def test_a_model_that_thinks_before_it_speaks_is_not_late(make: Make, model: ScriptedModel) -> None:
    thought = f"data: {json.dumps({'choices': [{'delta': {'reasoning_content': 'hm'}}]})}\n\n".encode()
    model.script[:] = [[*(step for _ in range(4) for step in (thought, 0.4)), piece("done"), *TAIL]]
    answer = await make(first_token_seconds=1.5).complete(spec(), lambda text: None)
    assert (answer.text, len(model.asked)) == ("done", 1)


async def test_an_answer_that_said_it_was_finished_needs_no_good_bye(make: Make, model: ScriptedModel) -> None:
    model.script[:] = [[piece("whole"), piece(None, "stop"), SILENT]]
    answer = await make(idle_seconds=0.4).complete(spec(), lambda text: None)
    assert (answer.text, len(model.asked)) == ("whole", 1)


async def test_a_stall_between_tokens_times_out_while_the_first_might_still_come_and_is_not_begun_anew(
    make: Make, model: ScriptedModel
) -> None:
    model.script[:] = [[piece("half"), SILENT, *TAIL]]
    error, shown = await failure(make(idle_seconds=0.4))
    assert (error.kind, shown, len(model.asked)) == ("timeout", "half", 1)


async def test_an_answer_that_takes_too_long_altogether_times_out(make: Make, model: ScriptedModel) -> None:
    model.script[:] = [[step for _ in range(20) for step in (piece("x"), 0.1)] + [SILENT]]
    error, _ = await failure(make(total_seconds=0.5, attempts=1))
    assert error.kind == "timeout"


async def test_a_stream_that_breaks_off_is_unreachable_and_no_answer(make: Make, model: ScriptedModel) -> None:
    model.script[:] = [[piece("half of an"), 0.05]]
    error, shown = await failure(make())
    assert (error.kind, error.retryable, shown) == ("unreachable", True, "half of an")
    assert "broke off" in error.message


@pytest.mark.parametrize(
    "body",
    [b"data: {not json}\n\n", b'data: {"choices": 3}\n\n', b"data: [1]\n\n", b"data: \xff\xfe\n\n", b"data: 7\n\n"],
)
async def test_garbage_in_the_stream_is_malformed(body: bytes, make: Make, model: ScriptedModel) -> None:
    model.script[:] = [[body, *TAIL]]
    error, _ = await failure(make())
    assert (error.kind, error.retryable, len(model.asked)) == ("malformed", False, 1)


async def test_what_comes_with_a_bad_event_and_before_it_is_shown(make: Make, model: ScriptedModel) -> None:
    model.script.append([piece("one") + piece(" two") + b"data: {bad\n\n" + piece(" three"), *TAIL])
    error, shown = await failure(make())
    assert (error.kind, shown) == ("malformed", "one two")


async def test_nothing_counts_that_comes_after_the_last_word(make: Make, model: ScriptedModel) -> None:
    model.script.append([piece("one") + TAIL[-1] + piece(" two") + b"data: {bad\n\n", *TAIL])
    assert (await make().complete(spec(), lambda text: None)).text == "one"


@pytest.mark.parametrize("end", [b"data:[DONE]\n\n", b"data:  [DONE]\n\n", b"data: [DONE] \r\n\r\n"])
async def test_the_last_word_may_have_blanks_around_it(end: bytes, make: Make, model: ScriptedModel) -> None:
    model.script.append([piece("one"), end + b"data: {bad\n\n", *TAIL])
    assert (await make().complete(spec(), lambda text: None)).text == "one"


async def test_an_error_inside_the_stream_is_reported(make: Make, model: ScriptedModel) -> None:
    model.script[:] = [[f"data: {json.dumps({'error': {'message': 'out of memory'}})}\n\n".encode(), *TAIL]]
    error, _ = await failure(make())
    assert error.kind == "http" and "out of memory" in error.message


@pytest.mark.parametrize("body", [TAIL, [piece("  \n"), *TAIL]])
async def test_an_answer_without_text_is_empty(body: list[Any], make: Make, model: ScriptedModel) -> None:
    model.script[:] = [body]
    error, _ = await failure(make())
    assert (error.kind, error.retryable) == ("empty", False)


async def test_half_pairs_of_surrogates_are_joined(make: Make, model: ScriptedModel) -> None:
    model.script[:] = [[piece("a\ud83d"), piece("\ude00b\ud83d"), *TAIL]]
    answer = await make().complete(spec(), lambda text: None)
    assert answer.text == "a\U0001f600b\ufffd"


async def test_leaving_a_call_ends_it_at_the_server(make: Make, model: ScriptedModel) -> None:
    model.script[:] = [[piece("x"), SILENT]]
    asking = asyncio.ensure_future(make().complete(spec(), lambda text: None))
    await streaming(model, 1)
    asking.cancel()
    await streaming(model, 0)


async def streaming(model: ScriptedModel, count: int) -> None:
    for _ in range(1000):
        if model.streaming == count:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{model.streaming} calls are open, not {count}")
