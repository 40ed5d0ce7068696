"""A decision and what stands around it as a Mermaid flowchart. What people and models wrote is data there: see `label`."""

from collections.abc import Iterable

from fleet.cli import safe
from fleet_wire.gen.context.v1 import context_pb2

LABEL_CHARACTERS = 80
_PLAIN = frozenset(" ,-/")
"""Beside letters and digits, what means nothing to Mermaid within quotes: but a `-` that begins the text begins a list. Entities
are resolved after Markdown is read."""


def label(text: str) -> str:
    """The text as a quoted label: one line, cut, and all that Mermaid, Markdown or HTML could read as its numeric entity."""
    line = safe.line(text, LABEL_CHARACTERS)
    entities = (
        one if one.isalnum() or (one in _PLAIN and (place or one != "-")) else f"#{ord(one)};"
        for place, one in enumerate(line)
    )
    return f'"{"".join(entities)}"'


def why(answer: context_pb2.ExplainDecisionResponse) -> str:
    """The explained decision with its proposals and their checks, what it depended on, what has depended on it, what took whose
    place, and what it affects and binds. Arrows are the relations of the graph."""
    drawing = _Drawing()
    decision = answer.decision
    own = drawing.decision(decision.decision_id, decision.title, decision.decided_by, decision.superseded_by)
    for one in (*answer.bases, *answer.dependents, *answer.supersedes, *answer.superseded_by):
        drawing.decision(one.decision_id, one.title, one.decided_by, one.superseded_by)
    dissenting = {entry.agent_id for entry in answer.dissent}
    for proposal in sorted(answer.proposals, key=lambda proposal: (proposal.rank, proposal.agent_id)):
        checks = _checks(proposal.checks)
        name = drawing.node(f"{proposal.agent_id}, score {proposal.score:.3f}", checks, shape=("([", "])"))
        if proposal.agent_id == decision.winner:
            drawing.arrow(name, "SUPPORTS", own)
        elif proposal.agent_id in dissenting:
            drawing.arrow(name, "DISSENTS", own, line="-.->")
        else:
            drawing.arrow(name, f"rank {proposal.rank}", own, line="---")
    for one in answer.bases:
        drawing.arrow(own, "DEPENDS_ON", drawing.of[one.decision_id])
    for one in answer.dependents:
        drawing.arrow(drawing.of[one.decision_id], "DEPENDS_ON", drawing.of.get(one.through, own))
    for one in answer.supersedes:
        drawing.arrow(own, "SUPERSEDES", drawing.of[one.decision_id])
    for one in answer.superseded_by:
        drawing.arrow(drawing.of[one.decision_id], "SUPERSEDES", drawing.of.get(one.through, own))
    for relation, ids in (("AFFECTS", answer.affects), ("CONSTRAINS", answer.constrains)):
        for id in ids:
            drawing.arrow(own, relation, drawing.node(id, shape=("[/", "/]")))
    return drawing.text(own)


class _Drawing:
    """Its nodes have names of its own, so that no id is read as more than a text; `of` has those of the decisions."""

    def __init__(self) -> None:
        self.of: dict[str, str] = {}
        self._nodes: list[str] = []
        self._arrows: list[str] = []
        self._superseded: list[str] = []

    def node(self, *lines: str, shape: tuple[str, str] = ("[", "]")) -> str:
        name = f"n{len(self._nodes)}"
        text = "<br/>".join(label(line)[1:-1] for line in lines if line)
        self._nodes.append(f'    {name}{shape[0]}"{text}"{shape[1]}')
        return name

    def decision(self, decision_id: str, title: str, decided_by: str, superseded_by: str) -> str:
        if decision_id not in self.of:
            by = f"decided by {decided_by}" if decided_by else ""
            self.of[decision_id] = self.node(title, decision_id, by)
            if superseded_by:
                self._superseded.append(self.of[decision_id])
        return self.of[decision_id]

    def arrow(self, start: str, words: str, stop: str, line: str = "-->") -> None:
        self._arrows.append(f'    {start} {line}|"{words}"| {stop}')

    def text(self, own: str) -> str:
        classes = [
            f"    style {own} stroke-width:3px",
            *(f"    style {it} stroke-dasharray:4" for it in self._superseded),
        ]
        return "\n".join(["flowchart BT", *self._nodes, *self._arrows, *classes])


def _checks(found: Iterable[context_pb2.Check]) -> str:
    return ", ".join(f"{check.name} {check.status.replace('_', ' ')}" for check in found)
