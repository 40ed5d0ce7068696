"""`fleet serve`: one service in this process, as in a container."""

import sys
from typing import Annotated

import typer

from fleet.local import serve
from fleet_wire.errors import Invalid


def serve_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"One of {', '.join(serve.SERVICES)}.")],
) -> None:
    """Run one service in this process until it is told to stop (Ctrl-C or SIGTERM).

    It is configured by environment variables alone; a bad or missing one ends it with one sentence and exit code 2. The
    ray-executor runs on the Python of FLEET_EXECUTOR_PYTHON, or of .venv-executor.

    Examples:  fleet serve planning
               NATS_URL=nats://broker:4222 GRPC_PORT=50155 fleet serve orchestrator
    """
    try:
        code = serve.serve(name)
    except Invalid as error:
        print(error, file=sys.stderr)
        code = 2
    raise typer.Exit(code)
