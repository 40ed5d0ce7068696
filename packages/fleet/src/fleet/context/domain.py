"""What an agent may see of a story, packed into its budget of tokens. Pure: facts in, blocks out.

Who sees what. Every role sees its story, its task with the requirements, the decisions that the request requires and those
that the task depends on; beside them every decision of the same story by a role in VISIBLE_ROLES. In every phase the same.

Order of importance, which is also the order of the blocks: story, task, requirements, required decisions (oldest first),
other decisions that the task depends on, other visible decisions (both newest first).
"""

import dataclasses
import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import get_args

import msgspec

from fleet.deliberation.plan_rules import check_plan
from fleet_wire import events, ids
from fleet_wire.errors import Invalid
from fleet_wire.redaction import redact

VISIBLE_ROLES: Mapping[str, frozenset[str]] = {role: frozenset({"ARCHITECT"}) for role in ids.ROLES}
"""By the role that asks: the roles whose decisions it sees in its story without depending on them."""
PHASES: tuple[str, ...] = get_args(events.StoryPhase)
LEAST_BUDGET, GREATEST_BUDGET = 64, 1_000_000
BYTES_PER_TOKEN = 3
CUT = "[cut]"
"""Ends a text that the budget shortened."""


@dataclasses.dataclass(frozen=True)
class ContextRequest:
    """What is asked for; made by `checked`, so that its fields are valid. `required` is sorted and without repetition."""

    story_id: str
    plan_id: str
    task_id: str
    role: str
    phase: str
    token_budget: int
    required: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class StoryHead:
    """A story's version in the graph. `born` tells its node from one of the same id in another, or emptied, database."""

    story_id: str
    born: str
    version: int


@dataclasses.dataclass(frozen=True)
class Story:
    story_id: str
    title: str
    brief: str
    acceptance: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Task:
    """`key` names its node: task ids are unique only in their plan."""

    plan_id: str
    task_id: str
    title: str
    description: str
    requirements: tuple[str, ...] = ()
    acceptance: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return task_key(self.plan_id, self.task_id)


@dataclasses.dataclass(frozen=True)
class Decision:
    """Plan and story are empty for one that an ad-hoc deliberation made. `kind` is council for a deliberation's; a person's,
    `decided_by` them, is an override or a constraint and has no deliberation and no winner. One that was overruled says
    by which; `relies_on_superseded` names the overruled ones that it depends on, directly or through others."""

    decision_id: str
    deliberation_id: str
    story_id: str
    plan_id: str
    task_id: str
    role: str
    protocol: str
    winner: str
    title: str
    content: str
    rationale: str
    score: float
    margin: float
    decided_at: dt.datetime
    kind: str = "council"
    decided_by: str = ""
    superseded_by: str = ""
    relies_on_superseded: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the graph holds for a request, all of one version of the story."""

    head: StoryHead
    story: Story
    task: Task
    required: tuple[Decision, ...] = ()
    depended_on: tuple[Decision, ...] = ()
    visible: tuple[Decision, ...] = ()


class Block(msgspec.Struct, frozen=True):
    """A piece of context. `kind` is story, task, requirement or decision; `tokens` counts title and text."""

    kind: str
    source_id: str
    title: str
    text: str
    tokens: int


class Context(msgspec.Struct, frozen=True):
    """The answer: what the agent sees, what was left out or cut, and the story's version it was read at."""

    blocks: tuple[Block, ...]
    tokens: int
    omitted: tuple[str, ...]
    version: int
    hash: str


class How(msgspec.Struct, frozen=True):
    """What it took to decide. `flips` of the `verdicts`' pairs were judged differently in the two orders."""

    numbers: dict[str, float] = {}
    chosen_because: str = ""
    verdicts: int = 0
    flips: int = 0
    skipped: tuple[events.SkippedPhase, ...] = ()
    calls: int = 0


def how(event: events.DeliberationCompleted) -> How:
    """What it took to decide."""
    return How(event.numbers, event.chosen_because, event.verdicts, event.flips, tuple(event.skipped), event.calls)


def task_key(plan_id: str, task_id: str) -> str:
    """Id of a task's node."""
    return f"{plan_id}/{task_id}"


def proposal_key(deliberation_id: str, agent_id: str) -> str:
    """Id of a proposal's node."""
    return f"{deliberation_id}/{agent_id}"


def check_key(deliberation_id: str, agent_id: str, name: str) -> str:
    """Id of the node of one check of a proposal."""
    return f"{proposal_key(deliberation_id, agent_id)}/{name}"


def checked(
    story_id: str,
    plan_id: str,
    task_id: str,
    role: str,
    phase: str,
    token_budget: int,
    required: Iterable[str],
) -> ContextRequest:
    """The request; raises Invalid naming the first field that is wrong."""
    for field, value in (("story_id", story_id), ("plan_id", plan_id), ("task_id", task_id)):
        ids.check_id(field, value)
    ids.check_role("role", role)
    if phase not in PHASES:
        raise Invalid(f"phase must be one of {', '.join(PHASES)}, not {phase[:80]!r}")
    if not LEAST_BUDGET <= token_budget <= GREATEST_BUDGET:
        raise Invalid(f"token_budget must be from {LEAST_BUDGET} to {GREATEST_BUDGET}, not {token_budget}")
    wanted = tuple(sorted({ids.check_id("required_decision_ids", value) for value in required}))
    return ContextRequest(story_id, plan_id, task_id, role, phase, token_budget, wanted)


def tokens(*texts: str) -> int:
    """Tokens of the texts together, estimated from above: UTF-8 bytes / 3, rounded up.

    Prose and code run at about 4 bytes a token in the vocabularies of current models. Text made of rare symbols can take
    more tokens than this: no estimate without the model's own vocabulary is a bound for those.
    """
    return -(-sum(len(text.encode()) for text in texts) // BYTES_PER_TOKEN)


def hydrated(request: ContextRequest, facts: Facts) -> Context:
    """The context for a request. Deterministic: the same facts give the same bytes.

    The budget is never exceeded. Optional decisions are left out whole, a less relevant one may stand where a more relevant
    one did not fit. Where even the rest does not fit, texts are cut in proportion to their length: those of the required
    decisions first, then the story's, then the task's. All that was left out or cut is in `omitted`. Raises Invalid where
    not even the titles fit.
    """
    required = sorted(facts.required, key=lambda decision: (decision.decided_at, decision.decision_id))
    whole = [_task_blocks(facts.task), [_story_block(facts.story)], [_decision_block(item) for item in required]]
    task, story, needed = _fitted(whole, request.token_budget)
    blocks = [*story, *task, *needed]
    cut = [new.source_id for old, new in zip([*whole[1], *whole[0], *whole[2]], blocks, strict=True) if old != new]
    omitted = list(cut)
    room = request.token_budget - sum(block.tokens for block in blocks)
    for decision in _optional(facts):
        block = _decision_block(decision)
        if cut or block.tokens > room:
            omitted.append(block.source_id)
        else:
            blocks.append(block)
            room -= block.tokens
    return Context(
        blocks=tuple(blocks),
        tokens=sum(block.tokens for block in blocks),
        omitted=tuple(dict.fromkeys(omitted)),
        version=facts.head.version,
        hash=hash_of(blocks),
    )


def searched(text: str) -> str:
    """A text as it is compared in a search: without regard to case."""
    return text.casefold()


def hash_of(blocks: Sequence[Block]) -> str:
    """SHA-256 in hex over the JSON array of the blocks' kinds, sources, titles and texts."""
    return _digest([[block.kind, block.source_id, block.title, block.text] for block in blocks])


def fingerprint(request: ContextRequest) -> str:
    """What the cache knows a request by: SHA-256 in hex of all of it."""
    return _digest(request)


def check_event(event: events.Event) -> None:
    """Raises Invalid for an event whose parts contradict each other; the types alone cannot see that."""
    if isinstance(event, events.PlanApproved):
        check_plan(event)
    elif isinstance(event, events.DeliberationCompleted):
        _check_completed(event)


def update_of(
    changed: Iterable[str],
    version: int,
    story_id: str,
    plan_id: str = "",
    deliberation_id: str = "",
    superseded: Iterable[str] = (),
    flagged: Iterable[str] = (),
) -> events.ContextUpdated:
    """The event that tells of a write. The same write gives the same event, and so the same message id."""
    names = sorted(set(changed))
    digest = _digest([names, deliberation_id, version])
    return events.ContextUpdated(
        story_id=story_id,
        plan_id=plan_id,
        deliberation_id=deliberation_id,
        changed=names,
        version=version,
        hash=digest,
        superseded=list(superseded),
        flagged=list(flagged),
    )


def _optional(facts: Facts) -> list[Decision]:
    seen = {decision.decision_id for decision in facts.required}
    found = []
    for decision in chain(_newest_first(facts.depended_on), _newest_first(facts.visible)):
        if decision.decision_id not in seen:
            seen.add(decision.decision_id)
            found.append(decision)
    return found


def _newest_first(decisions: Iterable[Decision]) -> list[Decision]:
    by_id = sorted(decisions, key=lambda decision: decision.decision_id)
    return sorted(by_id, key=lambda decision: decision.decided_at, reverse=True)


def _story_block(story: Story) -> Block:
    return _block("story", story.story_id, story.title, _joined(story.brief, _listed("Acceptance", story.acceptance)))


def _task_blocks(task: Task) -> list[Block]:
    text = _joined(task.description, _listed("Acceptance", task.acceptance))
    return [
        _block("task", task.key, task.title, text),
        *(
            _block("requirement", task.key, f"Requirement {number}", requirement)
            for number, requirement in enumerate(task.requirements, 1)
        ),
    ]


def _decision_block(decision: Decision) -> Block:
    rationale = f"Rationale: {decision.rationale}" if decision.rationale else ""
    text = _joined(f"Decided by the {decision.role} council.", decision.content, rationale)
    return _block("decision", decision.decision_id, decision.title, text)


def _block(kind: str, source_id: str, title: str, text: str) -> Block:
    """The one place where blocks are made of what is known, so that none holds a secret."""
    return _counted(kind, source_id, redact(title), redact(text))


def _counted(kind: str, source_id: str, title: str, text: str) -> Block:
    return Block(kind, source_id, title, text, tokens(title, text))


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def _listed(heading: str, items: Sequence[str]) -> str:
    return "\n".join((f"{heading}:", *(f"- {item}" for item in items))) if items else ""


def _fitted(levels: list[list[Block]], budget: int) -> list[list[Block]]:
    """The blocks within the budget; where they must be cut, those of the last level are cut first."""
    least = sum(_least(block) for level in levels for block in level)
    if least > budget:
        raise Invalid(
            f"token_budget of {budget} does not hold the titles of the story, the task and what is required: "
            f"at least {least} are needed"
        )
    fitted: list[list[Block]] = []
    room = budget
    for number, level in enumerate(levels):
        rest = sum(_least(block) for later in levels[number + 1 :] for block in later)
        done = _shared(level, room - rest)
        room -= sum(block.tokens for block in done)
        fitted.append(done)
    return fitted


def _shared(level: list[Block], room: int) -> list[Block]:
    """The blocks of one level within `room`: whole, or each with its share of what the titles leave."""
    full = sum(block.tokens for block in level)
    if full <= room:
        return level
    least = sum(_least(block) for block in level)
    return [
        _cut(block, _least(block) + (block.tokens - _least(block)) * (room - least) // (full - least))
        for block in level
    ]


def _least(block: Block) -> int:
    return min(block.tokens, tokens(block.title, CUT))


def _cut(block: Block, room: int) -> Block:
    if block.tokens <= room:
        return block
    kept = room * BYTES_PER_TOKEN - len(block.title.encode()) - len(CUT)
    text = block.text.encode()[:kept].decode("utf-8", "ignore")
    return _counted(block.kind, block.source_id, block.title, text + CUT)


def _check_completed(event: events.DeliberationCompleted) -> None:
    if event.decision_id != ids.decision_id(event.deliberation_id):
        raise Invalid(f"decision_id must be {ids.decision_id(event.deliberation_id)}, not {event.decision_id}")
    if bool(event.plan_id) != bool(event.story_id):
        raise Invalid("plan_id and story_id: both or none must be given")
    ranked = [entry.agent_id for entry in event.ranking]
    dissenting = [entry.agent_id for entry in event.dissent]
    for field, names in (("ranking", ranked), ("dissent", dissenting)):
        if len(set(names)) != len(names):
            raise Invalid(f"{field}: an agent stands twice")
    for field, names in (("winner", [event.winner]), ("dissent", dissenting)):
        if not set(names) <= set(ranked):
            raise Invalid(f"{field}: {', '.join(sorted(set(names) - set(ranked)))} is not in the ranking")


def _digest(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()
