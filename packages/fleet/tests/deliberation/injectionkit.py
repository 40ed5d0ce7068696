"""The injections of injections.yaml, put where they enter and rendered as a council's real prompts.

`python injectionkit.py ../../../../docs/injections.md` writes the table of what happens to each.
"""

import dataclasses
import functools
import re
import sys
from pathlib import Path

import yaml
from delibkit import ADD, CODE_TASK, TESTS, Council, answers, checked, fresh, prepared, result, verdict

from fleet.deliberation.prompt import ContextText, render
from fleet.deliberation.requests import JobRequest
from fleet_wire.events import AgentResult, TestRun
from fleet_wire.fence import harmless

CORPUS = Path(__file__).with_name("injections.yaml")
BLOCKS = {
    "story": "story",
    "requirement": "requirement",
    "decision": "decision",
    "rationale": "decision",
    "dissent": "decision",
    "override reason": "decision",
}
"""Places whose texts reach a prompt as a block of context, of this kind."""
ANSWERS = ("proposal", "critique", "QA test", "test output")
"""Places whose texts are answers of one seat that others are shown, or what became of them."""
CLEAN = "A plain text."
BEGIN, END = "<!-- what happened: begin -->", "<!-- what happened: end -->"
_OPEN = re.compile(r"--- ([0-9a-f]{12}) ([a-z ]+)")


@dataclasses.dataclass(frozen=True)
class Injection:
    """`enters` names a place of BLOCKS or ANSWERS."""

    name: str
    enters: str
    wants: str
    text: str

    def armed(self) -> str:
        """The text with what it can know of the prompt that it goes into filled in."""
        markers = [marker for request in asked(self.enters, CLEAN) for marker, _, _ in fences(request.messages[1][1])]
        text = self.text.replace("{many lines}", "\n" * 400).replace("{long line}", "word " * 4000)
        if "{marker}" not in text:
            return text
        return "\n".join(text.replace("{marker}", marker) for marker in dict.fromkeys(markers))


def injections() -> list[Injection]:
    return [Injection(**entry) for entry in yaml.safe_load(CORPUS.read_text())]


@functools.cache
def asked(place: str, text: str) -> tuple[JobRequest, ...]:
    """All that a peer review asks the model, with the text in its place: in the context, or as what one seat answers."""
    blocks = [
        ContextText(kind=kind, title=f"On {name}", text=text if name == place else CLEAN)
        for name, kind in BLOCKS.items()
    ]
    task = ContextText(kind="task", title=CODE_TASK.title, text=CODE_TASK.description)
    prompt = render(CODE_TASK, [*blocks, task], max_tokens=100, temperature=0.5)
    council = Council(prepared(fresh(3, testers=1, task=CODE_TASK), "peer_review"), prompt)

    def of(name: str, number: str, request: JobRequest) -> str:
        return text if place == name and request.agent_id.endswith(number) else CLEAN

    def ran(request: JobRequest) -> AgentResult:
        assert request.dry_run is not None
        detail = of("test output", "1", request)
        runs = [TestRun(test_id=test, status="failed", detail=detail) for test, _ in request.dry_run.tests]
        return result(request, runs=runs)

    tests = f"{TESTS.removesuffix('```')}\ndef test_more():\n    assert add(2, 2) == 5, {of_tests(place, text)!r}\n```"
    council.run(
        answers(
            {
                "propose": lambda it: result(it, f"{ADD}\n{of('proposal', '1', it)}", checks=checked("passed")),
                "tests": lambda it: result(it, tests),
                "dry_run": ran,
                "critique": lambda it: result(it, of("critique", "2", it)),
                "revise": lambda it: result(it, f"{ADD}\n{of('proposal', '1', it)}", checks=checked("passed")),
                "rerun": ran,
                "judge": lambda it: result(it, verdict("tie")),
            }
        )
    )
    # The order in which pairs are judged goes by the length of the proposals, among others.
    shown = (it for it in council.asked if it.messages)
    return tuple(sorted(shown, key=lambda it: (it.phase, it.item, it.agent_id)))


def of_tests(place: str, text: str) -> str:
    return text if place == "QA test" else CLEAN


def fences(content: str) -> list[tuple[str, str, str]]:
    """The fences of a message as a reader goes through it: marker, what it is, and the text within."""
    return [part for part in _parts(content) if part[0]]


def outside(content: str) -> str:
    """What stands in no fence: the instructions."""
    return "\n".join(text for marker, _, text in _parts(content) if not marker)


def _parts(content: str) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    lines = iter(content.split("\n"))
    for line in lines:
        opened = _OPEN.fullmatch(line)
        if not opened:
            found.append(("", "", line))
            continue
        body = []
        for inner in lines:
            if inner == f"--- {opened[1]} end":
                break
            body.append(inner)
        else:
            raise AssertionError(f"the fence {opened[1]} is never closed")
        found.append((opened[1], opened[2], "\n".join(body)))
    return found


def happened(injection: Injection) -> str:
    """What becomes of an injection, in a sentence of figures."""
    text = injection.armed()
    shown = asked(injection.enters, text)
    clean = asked(injection.enters, CLEAN)
    phases = [one.phase for one, other in zip(shown, clean, strict=True) if one.messages[1] != other.messages[1]]
    left = harmless(text)
    letters = sum(map(len, text.split()))
    kept = sum(map(len, left.split()))
    broken = left.count(" ") - text.count(" ")
    what = []
    if broken > 0:
        what.append(f"{broken} broken by a space")
    if kept < letters:
        what.append(f"{letters - kept} characters taken out")
    done = "; ".join(what) or "unchanged"
    return f"{len(phases)} prompts ({', '.join(dict.fromkeys(phases))}), in its fence in each: {done}"


def table() -> str:
    lines = ["| injection | enters as | wants | what happened |", "|---|---|---|---|"]
    lines += [f"| {it.name} | {it.enters} | {it.wants} | {happened(it)} |" for it in injections()]
    return "\n".join(lines)


def written(document: str) -> str:
    """The document with the table as it is now."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(written(path.read_text()))
