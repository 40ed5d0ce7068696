"""Whether a part is ready, asked as its users would: each check answers None, or in a sentence why not."""

import asyncio
import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

Check = Callable[[], Awaitable[str | None]]

SECONDS = 2.0
"""How long one question may take."""
_BOLT_HELLO = bytes.fromhex("6060b017") + bytes.fromhex("00000404" + "00000304" + "00000104" + "00000003")


def tcp(address: str) -> Check:
    """Somebody accepts connections."""

    async def check() -> str | None:
        return (await _exchange(address, b"", 0))[0]

    return check


def nats(url: str) -> Check:
    """A NATS server greets; of several, the first."""

    async def check() -> str | None:
        problem, answer = await _exchange(_host_port(url.split(",", maxsplit=1)[0], 4222), b"", 5)
        return problem or (None if answer == b"INFO " else "what listens there is no NATS server")

    return check


def valkey(url: str) -> Check:
    """A Valkey answers; that it wants a password first is an answer too."""

    async def check() -> str | None:
        if url.startswith(("valkeys://", "rediss://", "unix://")):
            return None  # only its users can tell
        problem, answer = await _exchange(_host_port(url, 6379), b"PING\r\n", 1)
        return problem or (None if answer in (b"+", b"-") else "what listens there is no Valkey")

    return check


def bolt(uri: str) -> Check:
    """A graph server agrees on a version of Bolt."""

    async def check() -> str | None:
        if "+s" in urlsplit(uri).scheme:
            return None  # only its users can tell
        problem, answer = await _exchange(_host_port(uri, 7687), _BOLT_HELLO, 4)
        return problem or (None if any(answer) else "what listens there does not speak Bolt 4 or 5")

    return check


def http(url: str) -> Check:
    """A GET is answered with 2xx."""

    async def check() -> str | None:
        return (await asyncio.to_thread(get, url))[0]

    return check


def not_asked(address: str) -> Check:
    """Taken as ready: others tell."""

    async def check() -> str | None:
        return None

    return check


def health(address: str) -> Check:
    """gRPC health v1 says SERVING."""

    async def check() -> str | None:
        import grpc  # a quarter of a second of imports that only those pay who ask
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        async with grpc.aio.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    return "unreachable"
                return f"health answers {error.code().name}"
        return None if answer.status == health_pb2.HealthCheckResponse.SERVING else "not ready"

    return check


def get(url: str) -> tuple[str | None, str]:
    """GETs an address without any proxy: what is wrong (None for 2xx) and the body."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=SECONDS) as answer:
            return None, answer.read(1_000_000).decode(errors="replace")
    except urllib.error.HTTPError as error:
        body = error.read(10_000).decode(errors="replace")
        return _reason(body) or f"answers {error.code}", body
    except (OSError, ValueError) as error:
        return "unreachable" if isinstance(error, OSError) else str(error), ""


def _reason(body: str) -> str:
    """The `reason` that our own services give as JSON."""
    with contextlib.suppress(json.JSONDecodeError, TypeError, KeyError):
        return str(json.loads(body)["reason"])
    return ""


def _host_port(url: str, default: int) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or default}"


async def _exchange(address: str, send: bytes, want: int) -> tuple[str | None, bytes]:
    """Connects, sends, and reads `want` bytes: what went wrong, or None, and what was read."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(SECONDS):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(send)
                return None, await reader.readexactly(want) if want else b""
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return "unreachable", b""
