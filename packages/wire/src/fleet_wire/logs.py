"""Logs for people (console) and machines (JSON), with the trace's id in every line and never a secret."""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

from fleet_wire import tracing
from fleet_wire.redaction import redact

SECRET_WORDS = ("password", "token", "secret", "creds", "authorization")

_PASSWORD_IN_URL = re.compile(r"(?<=://)[^/\s\"']+@")


def configure(service: str, level: str = "INFO", fmt: str = "console") -> None:
    """Sets up structlog and the standard library's logging alike, to standard error. Called once, by main."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace,
        _hide_secrets,
        structlog.processors.format_exc_info if fmt == "json" else _keep,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if fmt == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            exception_formatter=structlog.dev.plain_traceback,  # the default draws local variables too: slow, and prompts
        )
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer, _hide_passwords],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for chatty in ("nats", "neo4j", "grpc", "httpx", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
    structlog.contextvars.bind_contextvars(service=service)


def _add_trace(logger: Any, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    trace_id = tracing.trace_id()
    if trace_id:
        line.setdefault("trace_id", trace_id)
    return line


def _hide_secrets(logger: Any, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in line.items():
        line[key] = _hidden(key, value)
    return line


def _hidden(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {inner: _hidden(str(inner), kept) for inner, kept in value.items()}
    if isinstance(value, (str, bytes)) and any(word in key.lower() for word in SECRET_WORDS):
        return "***"
    return value


def hide_passwords(text: str) -> str:
    """The text with what stands before the @ of each URL taken out."""
    return _PASSWORD_IN_URL.sub("***@", text)


def _hide_passwords(logger: Any, method: str, line: Any) -> str:
    """On the rendered line, so that messages and tracebacks of libraries are covered too."""
    return redact(hide_passwords(str(line)))


def _keep(logger: Any, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return line
