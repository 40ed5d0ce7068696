"""LangGraph: three nodes from START in parallel, joined by one that brings the answers together.

`told["postgres"]` or `told["sqlite"]` gives it a checkpointer, and then each step is saved before the next begins
(`durability="sync"`), as https://docs.langchain.com/oss/python/langgraph/durable-execution has it for what must not be lost.
"""

import contextlib
import itertools
import operator
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Annotated, Any, TypedDict

import httpx
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from openai import DefaultAioHttpClient

from bench.load import Call
from bench.model_server import MODEL
from bench.subjects import AGENTS, QUESTION, check

CONNECTIONS = 20


class State(TypedDict):
    """What the graph passes on."""

    question: str
    answers: Annotated[list[str], operator.add]
    decision: str


@contextlib.asynccontextmanager
async def opened(url: str, told: dict[str, str]) -> AsyncIterator[Call]:
    """The compiled graph, with the checkpointer that was asked for."""
    model = ChatOpenAI(
        model=MODEL,
        base_url=f"{url}/v1",
        api_key="none",  # type: ignore[arg-type]
        max_retries=0,
        http_async_client=DefaultAioHttpClient(limits=httpx.Limits(max_connections=None)),
    )

    def agent(system: str) -> Callable[[State], Coroutine[Any, Any, dict[str, list[str]]]]:
        async def node(state: State) -> dict[str, list[str]]:
            answer = await model.ainvoke([SystemMessage(system), HumanMessage(state["question"])])
            return {"answers": [str(answer.content)]}

        return node

    def decide(state: State) -> dict[str, str]:
        return {"decision": max(state["answers"], key=state["answers"].count)}

    builder = StateGraph(State)
    builder.add_node("decide", decide)
    for name, system in AGENTS:
        builder.add_node(name, agent(system))
        builder.add_edge(START, name)
    builder.add_edge([name for name, _ in AGENTS], "decide")
    builder.add_edge("decide", END)

    async with _checkpointer(told) as saver:
        graph = builder.compile(checkpointer=saver)
        numbers = itertools.count()

        async def deliberate() -> None:
            start: State = {"question": QUESTION, "answers": [], "decision": ""}
            if saver is None:
                final = await graph.ainvoke(start)
            else:
                thread = {"configurable": {"thread_id": f"thread-{next(numbers)}"}}
                final = await graph.ainvoke(start, thread, durability="sync")
            check(final["answers"])

        yield deliberate


@contextlib.asynccontextmanager
async def _checkpointer(told: dict[str, str]) -> AsyncIterator[Any]:
    if "postgres" in told:
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
        from psycopg.rows import dict_row
        from psycopg_pool import AsyncConnectionPool

        how = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        async with AsyncConnectionPool(
            told["postgres"], kwargs=how, min_size=CONNECTIONS, max_size=CONNECTIONS, open=False, timeout=120
        ) as pool:
            saver = AsyncPostgresSaver(pool)  # type: ignore[arg-type]
            await saver.setup()
            yield saver
    elif "sqlite" in told:
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

        async with AsyncSqliteSaver.from_conn_string(told["sqlite"]) as saver:
            await saver.setup()
            yield saver
    else:
        yield None
