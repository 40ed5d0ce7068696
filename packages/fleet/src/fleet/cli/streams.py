"""`fleet streams`: creates the NATS streams and buckets, or says where they differ. The Kubernetes Job runs `apply`."""

import datetime as dt
from typing import Annotated

import typer

from fleet.cli import client, safe
from fleet.cli.client import DONE, REFUSED
from fleet_wire import apply as streams
from fleet_wire import bus as bus_module
from fleet_wire.settings import CommonSettings, load

app = typer.Typer(help="Create the NATS streams and buckets, or check them.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Wait = Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the NATS server.")]


@app.command()
def apply(
    replicas: Annotated[int, typer.Option(min=1, max=5, help="Copies of each stream in a NATS cluster.")] = 1,
    wait: Wait = 10,
    as_json: Json = False,
) -> None:
    """Create what is missing and mend what differs. Safe to run again: what an operator raised stays.

    Ends with 0 when all is as it must be, with 2 when the server of NATS_URL cannot be reached.

    Examples:  fleet streams apply
               NATS_URL=nats://broker:4222 fleet streams apply --replicas 3
    """

    async def main() -> int:
        bus = await _connect(wait)
        try:
            done = await streams.apply(bus, replicas)
        finally:
            await bus.close()
        if as_json:
            print(safe.json_line({"changes": done}))
        else:
            print("\n".join(safe.line(line) for line in done) or "all streams are as they must be")
        return DONE

    client.run(main)


@app.command()
def check(wait: Wait = 10, as_json: Json = False) -> None:
    """Say where the streams differ from what the services need, and change nothing.

    Ends with 0 when nothing differs, with 1 when something does, with 2 when the server of NATS_URL cannot be reached.

    Examples:  fleet streams check
               fleet streams check --json
    """

    async def main() -> int:
        bus = await _connect(wait)
        try:
            found = await streams.check(bus)
        finally:
            await bus.close()
        if as_json:
            print(safe.json_line({"differences": [{"stream": it.stream, "problem": it.problem} for it in found]}))
        else:
            lines = [safe.line(f"{it.stream} {it.problem}") for it in found]
            print("\n".join(lines) or "all streams are as they must be")
        return REFUSED if found else DONE

    client.run(main)


async def _connect(wait: float) -> bus_module.Bus:
    settings = load(CommonSettings)
    return await bus_module.connect(
        settings.nats_url, "cli-streams", settings.nats_creds, wait=dt.timedelta(seconds=wait)
    )
