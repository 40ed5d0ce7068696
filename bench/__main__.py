"""`make bench`: measures, saves a table and a plot to bench/results/, and prints the ratio to each peer."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from bench import budget as budgets
from bench import child, machine, report
from bench.measure import Bench, Say
from bench.starting import NAMES, OURS, started
from fleet.local import serve

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "bench" / "results"
PYTHON = REPOSITORY / ".venv-bench" / "bin" / "python"
EXECUTORS = {
    "newest": REPOSITORY / ".venv-executor-newest" / "bin" / "python",
    "reference": REPOSITORY / ".venv-executor" / "bin" / "python",
}
"""The executor's Python and Ray: the newest, as the others have the newest Python, or those of the reference line."""
QUIET_LOAD = 0.5
"""Runnable processes, by the kernel's average of a minute, above which a run is warned of."""


def main() -> int:
    """The exit code: 0 where all that was asked for was measured."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute instead of ten: a look, not a figure")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of the table")
    parser.add_argument("--only", default=",".join(NAMES), help=f"of {', '.join(NAMES)}; comma between")
    parser.add_argument("--protocol", default="vote", help="of the deliberations of this system (default vote)")
    parser.add_argument(
        "--executor", choices=EXECUTORS, default="newest", help="whose Python and Ray the executor has (default newest)"
    )
    parser.add_argument("--fsync", action="store_true", help="sync every commit to disk: NATS, PostgreSQL")
    parser.add_argument(
        "--profile", metavar="PARTS", help="no table, but where these parts spend their time under load"
    )
    parser.add_argument("--timeline", action="store_true", help="no table, but each message of one deliberation")
    parser.add_argument("--seconds", type=float, default=15, help="of a profile (default 15)")
    given = parser.parse_args()
    if unknown := set(given.only.split(",")) - set(NAMES):
        parser.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(NAMES)}")
    if not os.access(EXECUTORS[given.executor], os.X_OK):
        parser.error(f"--executor {given.executor}: there is no {EXECUTORS[given.executor]}, see scripts/setup")
    os.environ["FLEET_EXECUTOR_PYTHON"] = str(EXECUTORS[given.executor])
    RESULTS.mkdir(exist_ok=True)
    try:
        return uvloop.run(_profile(given) if given.profile or given.timeline else _bench(given))
    except child.Broken as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


async def _bench(given: argparse.Namespace) -> int:
    begun = time.monotonic()

    def say(sentence: str) -> None:
        print(f"[{time.monotonic() - begun:4.0f} s] {sentence}", file=sys.stderr, flush=True)

    facts = machine.facts(
        {
            "executor": (serve.executor_python(), machine.EXECUTOR),
            "libraries": (PYTHON, machine.LIBRARIES),
        }
    )
    if float(str(facts["load"])) > QUIET_LOAD:
        say(
            f"NOTE: the machine's load is {facts['load']} before the run: figures taken beside other work are worth little"
        )
    wanted = [name for name in NAMES if name in given.only.split(",")]
    with tempfile.TemporaryDirectory(prefix="bench-logs-") as logs:
        async with started(wanted, PYTHON, Path(logs), given.fsync, given.protocol, say) as running:
            bench = Bench(running.subjects, budgets.QUICK if given.quick else budgets.FULL, say)
            await bench.warm_up()
            await bench.idle()
            await bench.rounds()
            await bench.in_flight()
            for subject in running.subjects:
                if subject.name == OURS:
                    await bench.kept(subject, running.kept)
            results = report.values(bench, facts, running.durability, [*running.notes, *_method(given)])
            say("stops everything")
    _save(results, say)
    print(json.dumps(results, indent=1) if given.json else report.markdown(results))
    say("done")
    found = results["subjects"]
    return 0 if set(wanted) == set(found) and not any(row["failed"] for row in found.values()) else 1


def _method(given: argparse.Namespace) -> list[str]:
    """What the figures mean; stands under every table."""
    return [
        "One deliberation is three agents in parallel, each with one model call of 200 ms and 32 tokens. Overhead is the "
        "latency less the p50 of the bare calls of the same kind: streamed for this system, answered whole for the others.",
        f"This system runs protocol {given.protocol} with NATS, Valkey, the graph, Ray, executor, context and orchestrator; "
        "planning and the dashboard are not on the way and are stopped. From `planning.plan.approved` published to "
        "`orchestration.deliberation.completed` received from the stream.",
        "CPU and memory are sums over all processes of what is measured, PostgreSQL and infrastructure included. Left out "
        "are the model server and, for this system, the process that publishes plans and waits for the ends; a library is "
        "called in its own process, which is counted.",
        "Kept deliberations are made by running them at full speed, with all that comes before them in the run.",
    ]


def _save(results: dict[str, Any], say: Say) -> None:
    name = f"bench-{results['machine']['date'].replace(':', '').replace('+0000', 'Z')}"
    (RESULTS / f"{name}.json").write_text(json.dumps(results, indent=1))
    (RESULTS / f"{name}.md").write_text(report.markdown(results))
    drawn = subprocess.run(
        [PYTHON, "-m", "bench.plot", RESULTS / f"{name}.json", RESULTS / f"{name}.svg"],
        cwd=REPOSITORY,
        env={**os.environ, "MPLCONFIGDIR": tempfile.gettempdir()},
        capture_output=True,
        text=True,
        check=False,
    )
    if drawn.returncode:
        say(f"no plot: {drawn.stderr.strip().splitlines()[-1:]}")
    say(f"saved {RESULTS / name}.md, .json and .svg")


async def _profile(given: argparse.Namespace) -> int:
    from bench import profile

    with tempfile.TemporaryDirectory(prefix="bench-logs-") as logs:
        async with child.model_server(Path(sys.executable), Path(logs) / "model.log") as url:
            if given.timeline:
                await profile.timeline(url, given.protocol)
                return 0
            return await profile.parts(url, given.protocol, given.profile, given.seconds, PYTHON, RESULTS)


if __name__ == "__main__":
    raise SystemExit(main())
