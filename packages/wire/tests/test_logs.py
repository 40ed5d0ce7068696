import json
import subprocess
import sys

import pytest

from fleet_wire import logs

CODE = """
import logging, structlog
from fleet_wire import logs, tracing
logs.configure("planning", "INFO", {fmt!r})
log = structlog.get_logger("fleet.test")
with tracing.continued({{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}):
    log.info("plan.approved", plan_id="p1", admin_token="hunter2", headers={{"authorization": "hunter3"}}, tokens=12)
log.debug("not shown")
log.warning("url", url="nats://ann:hunter4@host:4222", password=b"hunter5")
logging.getLogger("library").warning("connecting to %s", "bolt://neo4j:hunter6@graph")
logging.getLogger("nats").info("chatter")
def connect(word):
    raise OSError("redis://:hunter7@cache is away")
try:
    connect("hun" + "ter8")
except OSError:
    log.exception("failed")
"""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nats://u:p1@a,nats://u:p2@b", "nats://***@a,nats://***@b"),
        ("valkey://user:p%40ss@host:6379/0", "valkey://***@host:6379/0"),
        ("bolt://neo4j:p@ss:word@host is away", "bolt://***@host is away"),
        ("nats://host:4222", "nats://host:4222"),
        ("http://host/v1 for ann@example.org", "http://host/v1 for ann@example.org"),
    ],
)
def test_a_url_is_shown_without_what_lets_one_in(text: str, shown: str) -> None:
    assert logs.hide_passwords(text) == shown


def lines(fmt: str) -> "list[str]":
    done = subprocess.run([sys.executable, "-c", CODE.format(fmt=fmt)], check=True, capture_output=True, text=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_json_lines_carry_level_service_logger_time_and_trace() -> None:
    approved, url, library, failed = (json.loads(line) for line in lines("json"))
    assert approved["event"] == "plan.approved"
    assert (approved["level"], approved["service"], approved["logger"]) == ("info", "planning", "fleet.test")
    assert approved["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert approved["timestamp"].endswith("Z")
    assert (approved["plan_id"], approved["tokens"]) == ("p1", 12)
    assert "trace_id" not in url
    assert (library["event"], library["service"]) == ("connecting to bolt://***@graph", "planning")
    assert "OSError" in failed["exception"]


def test_no_secret_is_in_any_line() -> None:
    for fmt in ("json", "console"):
        text = "\n".join(lines(fmt))
        assert "hunter" not in text, fmt
        assert "***" in text
        assert "nats://***@host:4222" in text


def test_the_console_says_what_happened_in_words() -> None:
    text = "\n".join(lines("console"))
    assert "plan.approved" in text
    assert "connecting to" in text
    assert "not shown" not in text
    assert "chatter" not in text
