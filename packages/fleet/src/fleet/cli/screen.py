"""The demo's display: a live table on a terminal; plain lines, or JSON lines, everywhere else."""

import time
from collections.abc import Callable
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fleet.cli import safe
from fleet.cli.lines import Tails
from fleet.cli.progress import Progress, TaskView, steps_table
from fleet.steps import STEPS

REFRESH_SECONDS = 0.25
"""Four pictures a second are enough for the eye, and leave the cores to the model."""


class Screen(Protocol):
    """Shows progress as it changes."""

    def say(self, sentence: str) -> None:
        """One line of news."""

    def show(self, progress: Progress, tails: Tails) -> None:
        """What is known now; may be called often."""

    def close(self) -> None:
        """Leaves the last picture on the terminal."""


class LiveScreen:
    """For a terminal. Draws what is new, at most every REFRESH_SECONDS."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._drawn_at = 0.0
        self._drawn: tuple[Progress, int] | None = None
        self._last: tuple[Progress, Tails] | None = None

    def say(self, sentence: str) -> None:
        self._console.print(Text(safe.line(sentence)), soft_wrap=True)

    def show(self, progress: Progress, tails: Tails) -> None:
        self._last = (progress, tails)
        is_new = self._drawn is None or self._drawn[0] is not progress or self._drawn[1] != tails.version
        if is_new and time.monotonic() - self._drawn_at >= REFRESH_SECONDS:
            self._draw()

    def close(self) -> None:
        if self._live is not None:
            self._draw()
            self._live.stop()
            self._live = None

    def _draw(self) -> None:
        if self._last is None:
            return
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(picture(*self._last, width=self._console.width), refresh=True)
        self._drawn_at = time.monotonic()
        self._drawn = (self._last[0], self._last[1].version)


class LineScreen:
    """For a log: one line for each thing that is new. `write` gets (kind, values) and prints or encodes them."""

    def __init__(self, write: Callable[[str, dict[str, Any]], None]) -> None:
        self._write = write
        self._before: Progress | None = None

    def say(self, sentence: str) -> None:
        self._write("info", {"text": sentence})

    def show(self, progress: Progress, tails: Tails) -> None:
        if self._before is not None:
            for kind, values in news(self._before, progress):
                self._write(kind, values)
        self._before = progress

    def close(self) -> None:
        """Every line has been written already."""


def news(before: Progress, after: Progress) -> list[tuple[str, dict[str, Any]]]:
    """What the second says and the first did not, as (kind, values)."""
    found: list[tuple[str, dict[str, Any]]] = []
    for old, new in zip(before.tasks, after.tasks, strict=True):
        for step in STEPS:
            if step.name in new.times and step.name not in old.times:
                seconds = after.seconds(new, step.name)
                found.append(("step", {"task_id": new.task_id, "step": step.name, "seconds": seconds}))
        for number, agent in enumerate(sorted(new.ended - old.ended), len(old.ended) + 1):
            values = {"task_id": new.task_id, "agent_id": agent, "number": number, "seats": len(new.seats) or None}
            found.append(("answer", values))
        for phase in new.later:
            if phase not in old.later:
                found.append(("phase", {"task_id": new.task_id, "phase": phase, "protocol": new.protocol}))
        if new.failure and not old.failure:
            found.append(("failure", {"task_id": new.task_id, "why": new.failure}))
    return found


def plain(kind: str, values: dict[str, Any]) -> str:
    """A line of `news` for people, without control codes."""
    match kind:
        case "info":
            words = values["text"]
        case "step":
            seconds = values["seconds"]
            when = "       " if seconds is None else f"{seconds:6.2f}s"
            words = f"{when}  {values['task_id']}: {values['step']}"
            return safe.safe(words, lines=False)
        case "answer":
            count = f"{values['number']} of {values['seats'] or '?'}"
            words = f"         {values['task_id']}: {values['agent_id']} has ended, {count}"
            return safe.safe(words, lines=False)
        case "phase":
            words = f"         {values['task_id']}: {values['protocol']} is at {values['phase']}"
            return safe.safe(words, lines=False)
        case "failure":
            words = f"         {values['task_id']}: {values['why']}"
            return safe.safe(words, lines=False)
        case _:
            words = f"{kind}: {values}"
    return safe.line(words, 1000)


def picture(progress: Progress, tails: Tails, width: int) -> RenderableType:
    """The table of the eight steps, a bar for each task, and the last line of each agent that writes."""
    return Group(steps(progress), Text(""), _bars(progress), Text(""), _writing(progress, tails, width))


def steps(progress: Progress) -> Table:
    """The eight steps with their seconds since approval, a column for each task."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("step")
    for task in progress.tasks:
        table.add_column(safe.text(task.task_id), justify="right")
    for step, seconds in steps_table(progress):
        cells = (Text("·", style="dim") if value is None else Text(f"{value:.2f} s") for value in seconds)
        table.add_row(Text(f"{step.number} {step.name}"), *cells)
    return table


def _bars(progress: Progress) -> Table:
    grid = Table.grid(padding=(0, 2))
    for task in progress.tasks:
        seats = len(task.seats)
        bar = ProgressBar(total=seats or 1, completed=len(task.ended), width=24)
        grid.add_row(safe.text(task.task_id), task.role, bar, Text(f"{len(task.ended)}/{seats or '?'}"), _state(task))
    return grid


def _state(task: TaskView) -> Text:
    if task.failure:
        return Text(safe.line(task.failure, 80), style="red")
    if task.complete:
        return Text(f"{safe.line(task.winner)} wins", style="green")
    last: list[str] = [step.name for step in STEPS if step.name in task.times]
    words = last[-1] if last else "waits"
    if task.later and not task.decision_id:
        words += ", " + ", ".join(f"{safe.line(phase, 20)} {len(jobs)}" for phase, jobs in task.later.items())
    return Text(words, style="dim")


def _writing(progress: Progress, tails: Tails, width: int) -> Table:
    grid = Table.grid(padding=(0, 2))
    for task in progress.tasks:
        if task.decision_id or task.failure:
            continue
        for agent in task.seats:
            name = safe.line(agent, 24)
            last = tails.last_line(task.deliberation_id, agent, max(20, width - 32))
            if last and (agent not in task.ended or task.later):
                grid.add_row(Text(name, style="cyan"), Text(last, no_wrap=True))
    return grid
