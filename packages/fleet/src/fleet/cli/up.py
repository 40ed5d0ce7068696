"""`fleet up`: the whole fleet on this machine, until Ctrl-C."""

import sys
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fleet.cli import client, safe
from fleet.local.running import Change, PartFailed, State
from fleet.local.stack import Stack, running_stack

STYLES = {
    State.READY: "green",
    State.STARTING: "yellow",
    State.ENDED: "red",
    State.STOPPED: "dim",
    State.WAITING: "dim",
}


def up(
    free_ports: Annotated[
        bool, typer.Option("--free-ports", help="Listen on free ports instead of the usual ones.")
    ] = False,
) -> None:
    """Start the local stack in this folder and keep it running until Ctrl-C, which stops every process of it.

    Data, logs and addresses are kept in .fleet (or FLEET_HOME). A part is replaced by a setting: NATS_URL, NEO4J_URI (with
    NEO4J_USER, NEO4J_PASSWORD, NEO4J_DATABASE), VALKEY_URL, VLLM_URL (with VLLM_MODEL) and RAY_ADDRESS. Other `fleet`
    commands in this folder find the stack by themselves.

    Examples:  fleet up
               fleet up --free-ports
               VLLM_URL=http://gpu-box:8000 VLLM_MODEL=Qwen/Qwen3-8B fleet up
    """

    async def main() -> int:
        screen = Screen(safe.console())
        with screen:
            try:
                async with running_stack(free_ports=free_ports, report=screen.changed, say=screen.say) as stack:
                    screen.started(stack)
                    await stack.until_ended()
            except PartFailed as failure:
                screen.say(str(failure))
                print(safe.safe(failure.tail), file=sys.stderr, flush=True)
                return client.REFUSED
        return client.DONE

    # Ctrl-C is how it is meant to end.
    client.run(main, on_interrupt=client.DONE)


class Screen:
    """The parts as they come up: a table that changes in a terminal, a line for each change elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun = time.monotonic()
        self._changes: dict[str, Change] = {}
        self._live = Live(console=console, transient=False, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> "Screen":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._end_table()
        print("stopped", file=sys.stderr, flush=True)

    def changed(self, change: Change) -> None:
        before = self._changes.get(change.name)
        self._changes[change.name] = change
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
        elif before is None or before.state is not change.state:
            self.say(sentence(change))

    def say(self, sentence: str) -> None:
        """One line on what happens; above the table where there is one."""
        self._console.print(safe.text(safe.line(sentence)), soft_wrap=True)

    def started(self, stack: Stack) -> None:
        """All is ready: from here on only what changes is told."""
        self._end_table()
        self.say(
            f"the fleet is up after {time.monotonic() - self._begun:.1f} s; logs are in {stack.log_path('nats').parent}"
        )
        self.say(f"dashboard: {stack.dashboard}")
        if "FLEET_ADMIN_TOKEN" in stack.env:
            self.say(f"admin token (FLEET_ADMIN_TOKEN): {stack.env['FLEET_ADMIN_TOKEN']}")
        self.say("Ctrl-C stops it")

    def _end_table(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _table(self) -> Table:
        table = Table(box=None, show_header=False, pad_edge=False)
        for change in self._changes.values():
            table.add_row(
                Text(change.name, "bold"),
                Text(change.state, STYLES[change.state]),
                Text(f"{change.seconds:5.1f} s" if change.seconds else "", "dim"),
                safe.text(safe.line(change.detail, 80), "dim"),
            )
        return table


def sentence(change: Change) -> str:
    """A change in a line."""
    if change.state is State.READY:
        if change.given:
            return f"{change.name} is given by a setting, and ready"
        return f"{change.name} is ready after {change.seconds:.1f} s"
    return f"{change.name} is {change.state}" + (f": {change.detail}" if change.detail else "")
