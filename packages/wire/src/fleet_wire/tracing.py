"""W3C trace context through NATS headers and gRPC metadata, so that one plan is one trace across all services.

An event published outside any trace starts one whose ids are derived from the message id: a repeated publish belongs to
the same trace.
"""

import contextlib
import functools
import hashlib
from collections.abc import Iterator, Mapping
from typing import Optional

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_PROPAGATOR = TraceContextTextMapPropagator()


def traceparent(seed: str) -> str:
    """The current trace as a `traceparent` header; a new one derived from `seed` where there is none."""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:  # as the propagator writes it, which makes a mapping and looks for a state too
        return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
    digest = hashlib.sha256(seed.encode()).hexdigest()
    return f"00-{digest[:32]}-{digest[32:48]}-01"


@contextlib.contextmanager
def continued(headers: Optional[Mapping[str, str]]) -> Iterator[None]:
    """Runs the block inside the trace that the headers name, if they name one."""
    named = headers or {}
    state = "tracestate" in named
    token = otel_context.attach(_PROPAGATOR.extract(dict(named)) if state else _named(named.get("traceparent", "")))
    try:
        yield
    finally:
        otel_context.detach(token)


@functools.lru_cache(maxsize=1024)
def _named(traceparent: str) -> otel_context.Context:
    """The trace of a header as it is most often: all messages of a plan bring the same one."""
    return _PROPAGATOR.extract({"traceparent": traceparent})


def trace_id() -> str:
    """The current trace's id in hex; empty outside a trace."""
    current = trace.get_current_span().get_span_context()
    return format(current.trace_id, "032x") if current.is_valid else ""
