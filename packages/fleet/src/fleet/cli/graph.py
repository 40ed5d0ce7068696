"""`fleet graph …`: the whole memory as a file, out of one graph database and into another. Speaks with the database itself."""

import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import IO, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fleet.bolt import Graph
from fleet.cli import client, safe
from fleet.cli.client import DONE
from fleet.cli.options import AsJson
from fleet.graphfile import exporting, form, importing
from fleet.settings import GraphSettings
from fleet_wire.errors import Conflict, Invalid
from fleet_wire.settings import load

app = typer.Typer(help="Carry the whole memory out of a graph database, or into one.", no_args_is_help=True)

STANDARD_OUTPUT = "-"
HINTS: client.Hints = {Conflict: "nothing was kept"}

Bar = Callable[[int], None]


@app.command()
def export(
    output: Annotated[str, typer.Option(metavar="FILE", help="Where to; - is standard output.")] = STANDARD_OUTPUT,
    as_json: AsJson = False,
) -> None:
    """Write the memory of the database at NEO4J_URI as JSON lines. The same memory gives the same bytes.

    With --json what was written is told as JSON, on standard error where the lines go to standard output. Ends with 1, and leaves
    no file, where the memory is written meanwhile.

    Examples:  fleet graph export --output memory.jsonl
               fleet graph export | gzip > memory.jsonl.gz
    """

    async def main() -> int:
        async with _graph() as graph:
            found = await exporting.size(graph)
            with _progress("export", found.lines) as passed, _output(output) as file:
                end = await exporting.exported(graph, file.write, passed)
        if found.unpublished:
            _say(
                f"not in the file: {found.unpublished} events that planning has not published yet; "
                "a plan among them that was approved is taken up from its record"
            )
        told = {"file": output, **_told(end)}
        stream = sys.stderr if output == STANDARD_OUTPUT else sys.stdout
        print(safe.json_line(told) if as_json else f"{_sums(end)} in {safe.line(output)}", file=stream)
        return DONE

    client.run(main, HINTS)


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="What `fleet graph export` wrote.")],
    merge: Annotated[bool, typer.Option("--merge", help="Into a memory that is there: add what it lacks.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring a file into the database at NEO4J_URI, which must have no memory yet. Stop planning and context before.

    The file is read through first: one that was cut off or changed is refused before anything is written. What a crash cut
    off is made good by the same command. Nothing that is there is overwritten: with --merge it is counted where it differs.

    Examples:  fleet graph import memory.jsonl
               NEO4J_URI=bolt://graph:7687 NEO4J_PASSWORD_FILE=secret fleet graph import memory.jsonl --dry-run
    """

    async def main() -> int:
        file = form.checked(path)
        async with _graph() as graph:
            with _progress("import", file.end.lines - 1) as passed:
                counts = await importing.imported(graph, file, merge, dry_run, passed)
        if as_json:
            told = {"added": counts.added, "same": counts.same, "differing": counts.differing, "named": counts.named}
            print(safe.json_line({"file": str(path), "dry_run": dry_run, **told, **_told(file.end)}))
            return DONE
        print(f"{safe.line(str(path))}: {_sums(file.end)}")
        print(f"{'to be added' if dry_run else 'added'}: {counts.added}; there already: {counts.same}")
        if counts.differing:
            print(f"there with other values, which stay: {counts.differing}")
            more = ["…"] if counts.differing > len(counts.named) else []
            print("\n".join(f"  {safe.line(name)}" for name in [*counts.named, *more]))
        return DONE

    client.run(main, HINTS)


@contextlib.asynccontextmanager
async def _graph() -> AsyncIterator[Graph]:
    graph = Graph(load(GraphSettings))
    try:
        yield graph
    finally:
        await graph.close()


@contextlib.contextmanager
def _output(name: str) -> Iterator[IO[bytes]]:
    """Standard output, or a file that is there only when the block ends well; nobody else may read it."""
    if name == STANDARD_OUTPUT:
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    place = Path(name)
    try:
        file = tempfile.NamedTemporaryFile(dir=place.parent, prefix=f".{place.name}.", delete=False)  # noqa: SIM115
    except OSError as error:
        raise Invalid(f"--output {name}: {error.strerror}") from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(place)
    except OSError as error:
        raise Invalid(f"--output {name}: {error.strerror}") from error
    finally:
        Path(file.name).unlink(missing_ok=True)


@contextlib.contextmanager
def _progress(what: str, total: int) -> Iterator[Bar]:
    """A bar on a terminal; nothing elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = safe.console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        row = bar.add_task(what, total=total)
        yield lambda count: bar.advance(row, count)


def _told(end: form.End) -> dict[str, object]:
    return {"nodes": end.nodes, "relations": end.relations, "sha256": end.sha256}


def _sums(end: form.End) -> str:
    return f"{sum(end.nodes.values())} nodes and {sum(end.relations.values())} relations"


def _say(sentence: str) -> None:
    print(safe.line(sentence, 400), file=sys.stderr)
