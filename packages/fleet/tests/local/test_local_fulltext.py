"""The full-text index that only the embedded server's HTTP API makes."""

import asyncio
import os
from pathlib import Path

import pytest
import realparts

from fleet.bolt import Graph
from fleet.context.search import EMBEDDED_INDEX
from fleet.local import home as homes
from fleet.local.fulltext import make_index
from fleet.local.parts import PartMaker
from fleet.settings import GraphSettings
from fleet_wire.errors import Unavailable

LOOK_UP = "CALL db.index.fulltext.queryNodes($index, 'rate') YIELD node RETURN node"


async def test_the_stacks_graph_has_it_when_it_is_ready(tmp_path: Path) -> None:
    home = homes.at(tmp_path)
    at = {"graph": realparts.free_port(), "graph-http": realparts.free_port()}
    told = {
        "NEO4J_URI": f"bolt://{realparts.HOST}:{at['graph']}",
        "NEO4J_USER": "root",
        "NEO4J_PASSWORD": home.secret("graph-password"),
        "NEO4J_DATABASE": "neo4j",
    }
    part = PartMaker(home, dict(os.environ), told, at).graph()
    assert part.then is not None
    process = realparts.Process(list(part.argv), tmp_path / "graph.log", env=dict(part.env), cwd=part.cwd)
    with realparts.running(process):
        async with asyncio.timeout(60):
            while await part.ready() is not None:  # noqa: ASYNC110 (what it waits for is another process)
                await asyncio.sleep(0.1)
        await part.then()
        await part.then()
        graph = Graph(GraphSettings.model_validate({name.lower(): value for name, value in told.items()}))
        assert await graph.ask(LOOK_UP, index=EMBEDDED_INDEX) == []
        await graph.close()


def test_a_server_that_refuses_or_is_away_says_so(embedded: realparts.GraphServer) -> None:
    with pytest.raises(Unavailable, match="the graph server made no full-text index: "):
        make_index(embedded.http_url, "neo4j", "root", "a wrong password")
    with pytest.raises(Unavailable, match="made no full-text index"):
        make_index(f"http://{realparts.HOST}:{realparts.free_port()}", "neo4j", "root", realparts.PASSWORD)
