"""A subject in a process of its own: `python -m bench.subject NAME`. Reads one line of JSON with what it is told, then loads,
one a line; answers each with a line on its standard output. Ends with its standard input.

The subjects are libraries, so the loop that calls them runs in their process and is counted with them.
"""

import asyncio
import dataclasses
import importlib
import json
import logging
import os
import sys

import uvloop

from bench import load


async def main(name: str) -> None:
    loop = asyncio.get_running_loop()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    logging.disable(logging.WARNING)  # CrewAI would log a warning with every call, and be slower for it
    told = json.loads(sys.stdin.readline())
    module = importlib.import_module(f"bench.subjects.{name}")
    async with module.opened(told["url"], told) as call:
        await call()
        print("{}", file=answers, flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            outcome = await load.run(call, load.Load(**json.loads(line)))
            print(json.dumps(dataclasses.asdict(outcome)), file=answers, flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
    os._exit(0)  # past whatever threads a library keeps
