"""`make bench-context`: fills a graph with 100,000 decisions, measures the context service on it, and saves the result."""

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

from bench import machine
from bench.context import budget as budgets
from bench.context import report
from bench.context.fill import fill
from bench.context.measure import measured
from bench.context.running import NEO4J_JAVA, NEO4J_PAGE_CACHE, STORES, running, why_not

RESULTS = Path(__file__).parents[1] / "results"


def main() -> int:
    """The exit code: 0 where all that was asked for was measured and nothing failed."""
    parser = argparse.ArgumentParser(prog="make bench-context", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small memory and short loads: a look, not a figure")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of the tables")
    parser.add_argument("--only", default=",".join(STORES), help=f"of {', '.join(STORES)}; comma between")
    parser.add_argument("--stories", type=int, help="of 50 decisions each, for another size of memory")
    parser.add_argument(
        "--data", type=Path, help="a folder that keeps what was filled, and is measured again the next time"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder for the results (default bench/results)")
    given = parser.parse_args()
    wanted = given.only.split(",")
    if unknown := set(wanted) - set(STORES):
        parser.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(STORES)}")
    # What is started inherits it: the aims are stated for two cores, the asking side included.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: budgets.CORES])
    try:
        return uvloop.run(_bench(given, wanted))
    except KeyboardInterrupt:
        return 130


async def _bench(given: argparse.Namespace, wanted: list[str]) -> int:
    begun = time.monotonic()

    def say(sentence: str) -> None:
        print(f"[{time.monotonic() - begun:4.0f} s] {sentence}", file=sys.stderr, flush=True)

    budget = budgets.QUICK if given.quick else budgets.FULL
    budget = dataclasses.replace(budget, stories=given.stories or budget.stories)
    results: dict[str, Any] = {"machine": machine.facts(), "stores": {}, "notes": _notes()}
    for store in wanted:
        if reason := why_not(store):
            say(f"SKIPPED {store}: {reason}")
            results["notes"].append(f"{store} was not measured: {reason}")
            continue
        kept = given.data and given.data / f"{store}-{budget.stories}"
        say(f"fills the graph on {store}" if kept is None or not kept.exists() else f"takes {kept}")
        async with running(store, lambda graph: fill(graph, budget.stories, say), kept) as parts:
            results["stores"][store] = await measured(parts, budget, say)
    _save(given.out, results, say)
    print(json.dumps(results, indent=1) if given.json else report.markdown(results))
    keys = (*report.AIMS, *report.LOADS)
    good = all(not row[key]["failed"] for row in results["stores"].values() for key in keys)
    return 0 if results["stores"] and good else 1


def _notes() -> list[str]:
    return [
        f"Everything ran on {budgets.CORES} cores: graph server, Valkey, NATS, the context service, and the process that asks.",
        "The embedded server runs as the local stack starts it (heap of 512 MiB), started anew after it was filled; Neo4j "
        f"Community runs with {' '.join(NEO4J_JAVA)} and a page cache of {NEO4J_PAGE_CACHE}. Their data lie in the system's "
        "temporary folder.",
        "GetContext is called over gRPC, each request with its task's two required decisions and a budget of 2,048 tokens.",
        "The graph was filled with the statements that the service writes with, 200 events in a transaction.",
    ]


def _save(folder: Path, results: dict[str, Any], say: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"context-{results['machine']['date'].replace(':', '').replace('+0000', 'Z')}"
    (folder / f"{name}.json").write_text(json.dumps(results, indent=1))
    (folder / f"{name}.md").write_text(report.markdown(results))
    say(f"saved {folder / name}.md and .json")


if __name__ == "__main__":
    raise SystemExit(main())
