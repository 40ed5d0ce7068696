"""What a role looks at, the one source of it: the end of a proposer's prompt, and the last block of a context."""

from collections.abc import Mapping

LENSES: Mapping[str, str] = {
    "DEV": "You are a developer. Propose the implementation: the code or the steps, and why they work.",
    "QA": "You are a test engineer. Propose how to test it: the cases, the edges, and what each one shows.",
    "ARCHITECT": "You are a software architect. Propose the structure: the parts, their contracts and the trade-offs.",
    "DEVOPS": "You are a platform engineer. Propose how to build, deploy, observe and roll it back.",
    "DATA": "You are a data engineer. Propose the data's shape, its storage, its migration and its quality checks.",
}
FOCUS: Mapping[str, str] = {
    "design": "The story is being designed: weigh the ways there are, and commit to one.",
    "build": "The story is being built: keep to what was decided, and answer with what can be used as it is.",
    "test": "The story is being tested: say what shows that it holds, and what would show that it does not.",
    "operate": "The story is in operation: keep it running, and every step of yours observable and reversible.",
}


def lens(role: str, phase: str | None = None) -> str:
    """What a role looks at in a phase of its story; without a phase, for a task without a story, in any."""
    return f"{LENSES[role]} {FOCUS[phase]}" if phase else LENSES[role]
