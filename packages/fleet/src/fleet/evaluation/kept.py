"""What an evaluation leaves in files: its attempts as they are made, so that it can go on where it was, and its report."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec
from msgspec import Struct

from fleet.evaluation.card import About, Attempt, Card, markdown
from fleet_wire.errors import Invalid, Precondition


class Report(Struct, frozen=True, kw_only=True):
    """The file: what was evaluated, every attempt, how often each was begun, by configuration and task, and, at the end, the
    card."""

    about: About
    attempts: tuple[Attempt, ...] = ()
    begun: dict[str, dict[str, int]] = {}
    card: Card | None = None


class Attempts:
    """The attempts of one evaluation, in memory and in its file."""

    def __init__(
        self,
        place: Path,
        about: About,
        attempts: Collection[Attempt] = (),
        begun: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
    ) -> None:
        self._place = place
        self._about = about
        self._begun = {configuration: dict(counts) for configuration, counts in begun.items()}
        self._found = {(one.task_id, one.configuration): one for one in attempts}

    @classmethod
    def load(cls, place: Path, about: About) -> "Attempts":
        """Those of an evaluation that was begun before; none for a new one. Raises Precondition where the file holds another
        evaluation, Invalid where it is none or cannot be written."""
        if not os.access(place.absolute().parent, os.W_OK):
            raise Invalid(f"{place} cannot be written: is its folder there?")
        if not place.exists():
            return cls(place, about)
        try:
            report = msgspec.json.decode(place.read_bytes(), type=Report)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Invalid(
                f"{place} is there and is no report of an evaluation ({error}): give another --out"
            ) from error
        if report.about != about:
            raise Precondition(f"{place} holds another evaluation: give another --out, or remove it")
        return cls(place, about, report.attempts, report.begun)

    def has(self, task_id: str, configuration: str) -> bool:
        """Whether it was made before."""
        return (task_id, configuration) in self._found

    def begin(self, task_id: str, configuration: str) -> int:
        """Notes that it is begun; answers how often it was, from 1. One that was cut off is begun again as another: time and
        calls that an interruption cost are no merit or fault of a configuration."""
        counts = self._begun.setdefault(configuration, {})
        counts[task_id] = counts.get(task_id, 0) + 1
        self._save()
        return counts[task_id]

    def add(self, attempt: Attempt) -> None:
        """Keeps it, in the file too."""
        self._found[attempt.task_id, attempt.configuration] = attempt
        self._save()

    def finish(self, card: Card) -> None:
        """Adds the card to the file, and writes it as Markdown beside it."""
        self._save(card)
        markdown_path(self._place).write_text(markdown(card), encoding="utf-8")

    def of(self, task_ids: Collection[str], configurations: Collection[str]) -> list[Attempt]:
        """Those of these tasks and configurations."""
        return [one for one in self._found.values() if one.task_id in task_ids and one.configuration in configurations]

    def _save(self, card: Card | None = None) -> None:
        attempts = tuple(self._found.values())
        write(self._place, Report(about=self._about, attempts=attempts, begun=self._begun, card=card))


def markdown_path(place: Path) -> Path:
    """Where the report stands as Markdown."""
    return place.with_suffix(".md")


def write(place: Path, report: Report) -> None:
    """Whole or not at all."""
    draft = place.with_name(f"{place.name}.{os.getpid()}.new")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    draft.replace(place)
