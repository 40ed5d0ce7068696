import json
import re
from typing import Any

import pytest

from fleet_wire import asyncapi, events, topology

DOCUMENT = asyncapi.document()
ROOT = {"asyncapi", "id", "info", "servers", "defaultContentType", "channels", "operations", "components"}
CHANNEL = {"address", "messages", "title", "summary", "description", "servers", "parameters", "tags", "bindings"}
OPERATION = {"action", "channel", "title", "summary", "description", "tags", "bindings", "messages", "reply"}
MESSAGE = {"headers", "payload", "contentType", "name", "title", "summary", "description", "tags", "examples"}


def references(value: Any) -> "list[str]":
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for inner in value.values() for found in references(inner)]
    return [found for inner in value for found in references(inner)] if isinstance(value, list) else []


def resolved(reference: str) -> Any:
    value: Any = DOCUMENT
    assert reference.startswith("#/")
    for part in reference[2:].split("/"):
        value = value[part]
    return value


def test_it_has_the_shape_of_asyncapi_3() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert set(DOCUMENT) <= ROOT
    assert {"title", "version"} <= set(DOCUMENT["info"])
    for channel in DOCUMENT["channels"].values():
        assert set(channel) <= CHANNEL
        assert set(channel.get("parameters", {})) == set(re.findall(r"{(\w+)}", channel["address"]))
    for operation in DOCUMENT["operations"].values():
        assert set(operation) <= OPERATION
        assert operation["action"] in ("send", "receive")
        channel = resolved(operation["channel"]["$ref"])
        for message in operation["messages"]:
            assert message["$ref"].startswith(operation["channel"]["$ref"] + "/messages/")
            assert message["$ref"].split("/")[-1] in channel["messages"]
    for message in DOCUMENT["components"]["messages"].values():
        assert set(message) <= MESSAGE
        assert {"headers", "payload"} <= set(message)


def test_every_reference_leads_somewhere() -> None:
    found = references(DOCUMENT)
    assert len(found) > 50
    for reference in found:
        assert isinstance(resolved(reference), dict), reference


@pytest.mark.parametrize("kind", events.TYPES, ids=lambda kind: kind.TYPE)
def test_every_event_has_its_subject_stream_and_fields(kind: "type[events.Event]") -> None:
    channel = DOCUMENT["channels"][kind.__name__]
    assert channel["address"].startswith(kind.TYPE)
    stream = asyncapi.stream_of(kind)
    assert stream in topology.STREAMS
    assert f"stream {stream.name} " in channel["description"]
    message = resolved(channel["messages"][kind.__name__]["$ref"])
    assert message["name"] == kind.TYPE
    schema = resolved(message["payload"]["$ref"])
    renamed = {"from_state": "from", "to_state": "to"}
    assert set(schema["properties"]) == {renamed.get(name, name) for name in kind.__struct_fields__}


def test_parameters_are_what_the_subject_is_made_of() -> None:
    result = events.AgentResult(
        job_id="j",
        deliberation_id="d",
        task_id="t1",
        agent_id="a1",
        role="QA",
        phase="p",
        attempt=1,
        status="completed",
    )
    chunk = events.TokenChunk(deliberation_id="d1", agent_id="a1", job_id="j", attempt=1, seq=0, text="")
    for event in (
        result,
        chunk,
        events.DeadlineReached(deliberation_id="d1"),
        events.StoryCreated(story_id="s", title="", brief=""),
    ):
        address = DOCUMENT["channels"][type(event).__name__]["address"]
        assert re.sub(r"{(\w+)}", lambda found, of=event: getattr(of, found[1]), address) == event.subject()  # type: ignore[misc]


def test_headers_are_those_the_bus_sends() -> None:
    from fleet_wire.bus import Bus

    sent = Bus.headers(type("Bare", (), {"source": "fleet/test"})(), events.DeadlineReached(deliberation_id="d"))
    headers = resolved("#/components/schemas/Headers")
    assert set(headers["properties"]) == set(sent)
    for name, value in sent.items():
        rule = headers["properties"][name]
        assert re.match(rule.get("pattern", ""), value)
        assert value == rule.get("const", value)


def test_the_text_is_yaml_of_the_document() -> None:
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(asyncapi.text()) == DOCUMENT == json.loads(json.dumps(DOCUMENT))
