"""The command `fleet`. Each command's module is imported only when it is run, so that help is quick."""

import dataclasses
import importlib
import re
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

Command = Any
Context = Any
"""Those of click, which Typer brings along in newer releases and depends on in older ones."""


@dataclasses.dataclass(frozen=True)
class Lazy:
    """Where a command is (`module:name` of a function or of a Typer app), and its line in the list of commands.

    `uses_stack` tells whether it is completed by the addresses of the stack that runs in this folder.
    """

    where: str
    line: str
    uses_stack: bool = True

    def load(self, name: str) -> Command:
        module, attribute = self.where.split(":")
        found = getattr(importlib.import_module(module), attribute)
        app = typer.Typer(rich_markup_mode=None)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name)(found)
        command = typer.main.get_group(app).commands[name]
        _keep_examples(command)
        return command


def _keep_examples(command: Command) -> None:
    """Help is re-wrapped by paragraph; examples keep their lines (the mark is click's)."""
    if command.help:
        command.help = re.sub(r"^(?=Examples?:)", "\b\n", command.help, flags=re.MULTILINE)
    for inner in getattr(command, "commands", {}).values():
        _keep_examples(inner)


COMMANDS = {
    "up": Lazy("fleet.cli.up:up", "Start the local stack in this folder and keep it running.", uses_stack=False),
    "demo": Lazy("fleet.cli.demo:demo", "Run a plan through all eight steps and show each of them."),
    "status": Lazy("fleet.cli.status:status", "Show where every part is, and whether it is ready."),
    "watch": Lazy("fleet.cli.watch:watch", "Follow events as they happen."),
    "story": Lazy("fleet.cli.story:app", "Create stories, and lead them from state to state."),
    "plan": Lazy("fleet.cli.plan:app", "Submit, look at, approve, reject and cancel plans."),
    "task": Lazy("fleet.cli.task:app", "Run a failed task of a plan again."),
    "council": Lazy("fleet.cli.council:app", "Make, list and remove councils."),
    "deliberate": Lazy("fleet.cli.deliberate:deliberate", "Put one question to one council."),
    "deliberation": Lazy("fleet.cli.deliberation:app", "List, watch and cancel deliberations."),
    "replay": Lazy("fleet.cli.replay:replay", "Decide a deliberation again under another protocol."),
    "eval": Lazy("fleet.cli.eval:evaluate", "Compare protocols on tasks with a known answer.", uses_stack=False),
    "decisions": Lazy("fleet.cli.decisions:app", "Find decisions and why they were taken, and decide otherwise."),
    "context": Lazy("fleet.cli.context:app", "Show what an agent sees of a story and may see, and add to it."),
    "graph": Lazy("fleet.cli.graph:app", "Carry the whole memory out of a graph database, or into one."),
    "streams": Lazy("fleet.cli.streams:app", "Create the NATS streams, or check them."),
    "serve": Lazy("fleet.cli.serve:serve_command", "Run one service in this process.", uses_stack=False),
}


class Commands(TyperGroup):
    """The commands by name. Lists them without importing them; what is run is imported then."""

    def list_commands(self, ctx: Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Context, cmd_name: str) -> Command:
        lazy = COMMANDS.get(cmd_name)
        return TyperCommand(cmd_name, help=lazy.line) if lazy else None

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Command, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name is None or command is None:
            return name, command, rest
        lazy = COMMANDS[name]
        if lazy.uses_stack and not ctx.resilient_parsing:
            from fleet.local.addresses import use_running_stack

            use_running_stack()
        return name, lazy.load(name), rest


app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"fleet {version('fleet')}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", callback=_version, is_eager=True
    ),
) -> None:
    """Councils of LLM agents deliberate on the tasks of a plan; this command starts them, feeds them and asks them.

    \b
    Examples:
      fleet up                          the whole fleet on this machine
      fleet demo                        see a plan go through all eight steps
      fleet plan submit examples/rate-limit.yaml
      fleet status --json
    """


if __name__ == "__main__":
    app()
