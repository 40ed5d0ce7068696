"""The driver: one worker a key, no wake lost, one key's failure holds up no other."""

import asyncio

import pytest

from fleet.orchestrator import driver as module
from fleet.orchestrator.driver import Driver, delay_seconds
from fleet_wire.errors import Unavailable


async def test_a_key_is_worked_on_by_one_at_a_time_and_no_wake_is_lost() -> None:
    driver = Driver()
    running = 0
    seen = 0
    wanted = 0

    async def step(key: str) -> None:
        nonlocal running, seen
        running += 1
        assert running == 1
        await asyncio.sleep(0)
        seen = wanted
        running -= 1

    driver.step = step
    for _ in range(300):
        wanted += 1
        driver.wake("a")
        for _ in range(wanted % 7):
            await asyncio.sleep(0)
    await driver.idle()
    assert seen == wanted


async def test_a_wake_at_the_very_end_of_a_step_starts_another() -> None:
    driver = Driver()
    calls = 0

    async def step(key: str) -> None:
        nonlocal calls
        calls += 1

    driver.step = step
    driver.wake("a")
    task = driver._running["a"]
    task.add_done_callback(lambda _: driver.wake("a"))
    await task
    await asyncio.sleep(0)
    await driver.idle()
    assert calls == 2


async def test_what_fails_in_passing_is_tried_again_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_DELAY_SECONDS", 0.05)
    driver = Driver(workers=1)
    tries: dict[str, int] = {}
    well = asyncio.Event()

    async def step(key: str) -> None:
        tries[key] = tries.get(key, 0) + 1
        if key == "away" and tries[key] < 4:
            raise Unavailable("not yet")
        if key == "broken" and tries[key] < 2:
            raise RuntimeError("nobody foresaw this")
        if key == "well":
            well.set()

    driver.step = step
    for key in ("away", "broken", "well"):
        driver.wake(key)
    await asyncio.wait_for(well.wait(), 1)
    assert tries["away"] < 4
    await driver.idle()
    assert tries == {"away": 4, "broken": 2, "well": 1}


def test_the_pause_doubles_up_to_the_longest() -> None:
    assert delay_seconds(1) <= 0.0625
    assert all(delay_seconds(tries) <= 5 * 1.25 for tries in range(1, 100))
    assert delay_seconds(50) >= 5 * 0.75


async def test_a_wake_ends_the_pause_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY_SECONDS", 3600.0)
    monkeypatch.setattr(module, "LONGEST_DELAY_SECONDS", 3600.0)
    driver = Driver()
    tries = 0
    failed = asyncio.Event()

    async def step(key: str) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            failed.set()
            raise Unavailable("not yet")

    driver.step = step
    driver.wake("a")
    await failed.wait()
    driver.wake("a")
    await asyncio.wait_for(driver.idle(), 20)
    assert tries == 2


async def test_many_wakes_make_no_busy_loop_of_a_step_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_DELAY_SECONDS", 3600.0)
    monkeypatch.setattr(module, "SHORTEST_DELAY_SECONDS", 3600.0)
    driver = Driver()
    tries = 0

    async def step(key: str) -> None:
        nonlocal tries
        tries += 1
        raise Unavailable("away")

    driver.step = step
    for _ in range(50):
        driver.wake("a")
        await asyncio.sleep(0)
    assert tries == 1
    stop = asyncio.Event()
    stop.set()
    await driver.run(stop)


async def test_a_wake_during_a_step_that_fails_ends_its_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY_SECONDS", 3600.0)
    monkeypatch.setattr(module, "LONGEST_DELAY_SECONDS", 3600.0)
    driver = Driver()
    tries = 0

    async def step(key: str) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            driver.wake(key)
            raise Unavailable("it was there a moment later")

    driver.step = step
    driver.wake("a")
    await asyncio.wait_for(driver.idle(), 20)
    assert tries == 2


async def test_a_key_that_pauses_is_hurried_and_one_at_rest_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY_SECONDS", 3600.0)
    monkeypatch.setattr(module, "LONGEST_DELAY_SECONDS", 3600.0)
    driver = Driver()
    seen: list[str] = []

    async def step(key: str) -> None:
        seen.append(key)
        if len(seen) == 1:
            raise Unavailable("it comes in a moment")

    driver.step = step
    driver.wake("pausing")
    async with asyncio.timeout(20):
        while not seen:  # noqa: ASYNC110
            await asyncio.sleep(0)
    driver.hurry("pausing")
    driver.hurry("at rest")
    await asyncio.wait_for(driver.idle(), 20)
    assert seen == ["pausing", "pausing"]
