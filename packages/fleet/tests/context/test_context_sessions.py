"""What a session has seen, on a real Valkey."""

import datetime as dt
from collections.abc import AsyncIterator, Callable

import pytest_asyncio
import valkey.asyncio

from fleet.context.domain import Scope
from fleet.context.sessions import Seen, Sessions

SCOPE = Scope(kinds=("task", "milestone"), affects=("QA",))
SEEN = Seen("born-1", 3, SCOPE, dt.datetime(2026, 3, 1, 12, tzinfo=dt.timezone.utc))


@pytest_asyncio.fixture
async def sessions(valkey_url: str) -> AsyncIterator[Sessions]:
    held = Sessions(valkey_url, 100)
    yield held
    await held.close()


@pytest_asyncio.fixture
async def client(valkey_url: str) -> AsyncIterator[valkey.asyncio.Valkey]:
    connection: valkey.asyncio.Valkey = valkey.asyncio.Valkey.from_url(valkey_url)
    yield connection
    await connection.aclose()


async def test_a_session_knows_the_last_look_of_each_role_at_each_story(
    sessions: Sessions, unique: Callable[[str], str]
) -> None:
    session = unique("session")
    assert await sessions.last(session, "s1", "DEV") is None
    await sessions.saw(session, "s1", "DEV", SEEN)
    later = Seen("born-1", 4, SCOPE, SEEN.at + dt.timedelta(seconds=1))
    await sessions.saw(session, "s2", "DEV", later)
    assert await sessions.last(session, "s1", "DEV") == SEEN
    assert await sessions.last(session, "s2", "DEV") == later
    assert await sessions.last(session, "s2", "QA") is None
    assert await sessions.last(unique("session"), "s1", "DEV") is None


async def test_a_session_times_out_and_each_use_keeps_it_as_long_again(
    sessions: Sessions, client: valkey.asyncio.Valkey, unique: Callable[[str], str]
) -> None:
    session = unique("session")
    await sessions.saw(session, "s1", "DEV", SEEN)
    assert 0 < await client.ttl(f"fleet:session:{session}") <= 100
    await client.expire(f"fleet:session:{session}", 5)
    await sessions.saw(session, "s2", "DEV", SEEN)
    assert await client.ttl(f"fleet:session:{session}") > 5


async def test_a_lost_or_corrupt_session_is_as_one_that_never_was(
    sessions: Sessions, client: valkey.asyncio.Valkey, unique: Callable[[str], str]
) -> None:
    session = unique("session")
    await sessions.saw(session, "s1", "DEV", SEEN)
    await client.hset(f"fleet:session:{session}", "s1:DEV", "{not json")
    assert await sessions.last(session, "s1", "DEV") is None
    await client.set(f"fleet:session:{session}", "another kind of value")
    assert await sessions.last(session, "s1", "DEV") is None
    await sessions.saw(session, "s1", "DEV", SEEN)
    assert await sessions.last(session, "s1", "DEV") == SEEN


async def test_without_a_server_nothing_is_known_and_nothing_fails() -> None:
    away = Sessions("valkey://127.0.0.1:1", 100)
    await away.saw("session", "s1", "DEV", SEEN)
    assert await away.last("session", "s1", "DEV") is None
    await away.close()
