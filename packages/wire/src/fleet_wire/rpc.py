"""gRPC servers and clients as every service has them: health, reflection, deadlines, errors as statuses, one trace."""

import asyncio
import contextlib
import datetime as dt
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Optional, TypeVar

import grpc
import structlog
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from fleet_wire import errors, tracing
from fleet_wire.service import listen

log = structlog.get_logger(__name__)

STATUS_OF: Mapping[type[errors.FleetError], grpc.StatusCode] = {
    errors.Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.Precondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Conflict: grpc.StatusCode.ABORTED,
}
ERROR_OF: Mapping[grpc.StatusCode, type[errors.FleetError]] = {
    **{status: error for error, status in STATUS_OF.items()},
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.Unavailable,
    grpc.StatusCode.CANCELLED: errors.Unavailable,
}
CLIENT_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # services talk to each other, never through a company's proxy
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
)
SERVER_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)
ALIVE = "alive"
"""The health service's name for a process that answers, ready or not: a restart would not bring back what it waits for."""
LONGEST_DETAIL = 2000
"""Bytes of an error's text that a status carries: it travels as a header, up to three bytes for one, and headers above
8 KiB are refused."""

R = TypeVar("R")


class Readiness:
    """What a service still lacks, by name. Ready when nothing is; starts with whatever names it is given."""

    def __init__(self, *needed: str) -> None:
        self._missing = dict.fromkeys(needed, "not checked yet")
        self._listeners: list[Callable[[bool], None]] = []

    def report(self, name: str, reason: Optional[str]) -> None:
        """Something is missing for a reason, or, with None, there."""
        before, was = self.ready, self._missing.get(name)
        if reason is None:
            self._missing.pop(name, None)
        else:
            self._missing[name] = reason
        if reason != was:
            log.info("readiness", part=name, missing=reason, ready=self.ready)
        if before != self.ready:
            for listener in self._listeners:
                listener(self.ready)

    def reporter(self, name: str) -> Callable[[Optional[str]], None]:
        """`report` for one name."""
        return lambda reason: self.report(name, reason)

    def listen(self, listener: Callable[[bool], None]) -> None:
        """Calls the listener now, and at each change."""
        self._listeners.append(listener)
        listener(self.ready)

    @property
    def ready(self) -> bool:
        return not self._missing

    @property
    def reason(self) -> str:
        """One line on everything that is missing; empty when ready."""
        return "; ".join(f"{name}: {reason}" for name, reason in sorted(self._missing.items()))

    def require(self) -> None:
        """Raises Unavailable with the reason while not ready."""
        if not self.ready:
            raise errors.Unavailable(self.reason)


class _Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc, unused-ignore]
    """Turns FleetErrors into statuses and continues the caller's trace. What nobody foresaw is INTERNAL, and logged."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)
        if handler is not None and handler.unary_stream is not None:
            return _guarded_stream(handler, details.method)
        if handler is None or handler.unary_unary is None:
            return handler
        inner = handler.unary_unary

        async def guarded(request: Any, context: Any) -> Any:
            headers = {key: value for key, value in (details.invocation_metadata or ()) if isinstance(value, str)}
            with tracing.continued(headers):
                try:
                    return await inner(request, context)
                except errors.FleetError as error:
                    await context.abort(status_of(error), _detail(str(error)))
                except (grpc.aio.AbortError, asyncio.CancelledError):
                    raise
                except Exception as error:  # the caller gets a status, the operator the whole story
                    log.exception("call failed", method=details.method)
                    await context.abort(grpc.StatusCode.INTERNAL, _detail(f"{type(error).__name__}: {error}"))

        return grpc.unary_unary_rpc_method_handler(
            guarded, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )


def _guarded_stream(handler: Any, method: str) -> Any:
    """The same for an RPC that answers with a stream of ours; those of the libraries, which are no generators, are left alone."""
    inner = handler.unary_stream
    if not inspect.isasyncgenfunction(inner):
        return handler

    async def guarded(request: Any, context: Any) -> AsyncIterator[Any]:
        answers = inner(request, context)
        try:
            async for answer in answers:
                yield answer
        except errors.FleetError as error:
            await context.abort(status_of(error), _detail(str(error)))
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Exception as error:
            log.exception("call failed", method=method)
            await context.abort(grpc.StatusCode.INTERNAL, _detail(f"{type(error).__name__}: {error}"))
        finally:
            await answers.aclose()  # also when the client has left

    return grpc.unary_stream_rpc_method_handler(
        guarded, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
    )


def status_of(error: errors.FleetError) -> grpc.StatusCode:
    """The status of the error's class, or of the nearest one above it."""
    return next((STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF), grpc.StatusCode.UNKNOWN)


def _detail(text: str) -> str:
    return text.encode("utf-8", "replace")[:LONGEST_DETAIL].decode("utf-8", "ignore")


@contextlib.asynccontextmanager
async def server(
    address: str, add: Callable[[grpc.aio.Server], None], names: Iterable[str], readiness: Readiness
) -> AsyncIterator[int]:
    """Serves until the block ends, with health (NOT_SERVING until ready, ALIVE always) and reflection. Gives the port it
    listens on.

    `names` are the full service names; `address` is host:port, port 0 for a free one. Raises Unavailable where it is taken.
    """
    host, _, port_wanted = address.rpartition(":")
    listen(
        host.strip("[]"), int(port_wanted)
    ).close()  # gRPC says what is wrong with an address in a log of its own only
    grpc_server = grpc.aio.server(interceptors=(_Guard(),), options=SERVER_OPTIONS)
    add(grpc_server)
    service_names = list(names)
    health_servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, grpc_server)
    reflection.enable_server_reflection([*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME], grpc_server)
    try:
        port = grpc_server.add_insecure_port(address)
    except RuntimeError as error:
        raise errors.Unavailable(f"cannot listen on {address}: {error}") from error
    if port == 0:
        raise errors.Unavailable(f"cannot listen on {address}: the port is taken")
    loop = asyncio.get_running_loop()
    pending: set[asyncio.Task[None]] = set()

    def on_change(ready: bool) -> None:
        state = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *service_names):
            task = loop.create_task(health_servicer.set(name, state))
            pending.add(task)
            task.add_done_callback(pending.discard)

    readiness.listen(on_change)
    await health_servicer.set(ALIVE, health_pb2.HealthCheckResponse.SERVING)
    await grpc_server.start()
    try:
        yield port
    finally:
        await health_servicer.enter_graceful_shutdown()
        await grpc_server.stop(grace=5)


def channel(address: str) -> grpc.aio.Channel:
    """A channel to host:port that connects when it is used, and again whenever it must. It sends the current trace along with
    each call that is answered once."""
    made = grpc.aio.insecure_channel(address, options=CLIENT_OPTIONS)
    made.unary_unary = _traced(made.unary_unary)  # type: ignore[method-assign, unused-ignore]
    return made


def _traced(method: Callable[..., Any]) -> Callable[..., Any]:
    """What makes a channel's callables. An interceptor would do the same with a task more for each call."""

    def traced(*args: Any, **kwargs: Any) -> Callable[..., Any]:
        ask = method(*args, **kwargs)

        def call_traced(request: Any, **options: Any) -> Any:
            if tracing.trace_id():
                options["metadata"] = (*(options.get("metadata") or ()), ("traceparent", tracing.traceparent("")))
            return ask(request, **options)

        return call_traced

    return traced


async def call(request: Awaitable[R], whom: str) -> R:
    """Awaits a stub's call and raises what the other side meant: the FleetError of its status, Unavailable where it is away."""
    try:
        return await request
    except grpc.aio.AioRpcError as error:
        kind = ERROR_OF.get(error.code(), errors.FleetError)
        detail = error.details() or error.code().name
        if kind is errors.Unavailable:
            detail = f"{whom} does not answer: {detail}"
        raise kind(detail) from error


def timestamp(moment: Optional[dt.datetime]) -> Optional[Timestamp]:
    """The moment, which has a time zone, as a message's field takes it; None leaves the field unset."""
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment.astimezone(dt.timezone.utc))
    return stamp
