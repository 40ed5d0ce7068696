"""Whether code parses: Python by its syntax tree (in the grammar of the worker's Python), JSON, YAML, TOML."""

from collections.abc import Sequence

from fleet_executor.checks import apart
from fleet_wire.answers import PYTHON, Block
from fleet_wire.events import Check

LANGUAGES = {**dict.fromkeys(PYTHON, "python"), "json": "json", "yaml": "yaml", "yml": "yaml", "toml": "toml"}


def check(blocks: Sequence[Block]) -> Check:
    """The share of fenced blocks in these languages that parse; it passes where all do. Other blocks are not looked at."""
    read = [(LANGUAGES[block.language], block.text) for block in blocks if block.language in LANGUAGES]
    if not read:
        return Check(name="parse", status="not_run", detail="no code block in Python, JSON, YAML or TOML")
    try:
        reasons = apart.parse(read)
    except apart.NotRead as error:
        return Check(name="parse", status="not_run", detail=str(error))
    known = [(language, reason) for (language, _), reason in zip(read, reasons) if reason is not None]
    if not known:
        return Check(
            name="parse", status="not_run", detail=f"no parser here for {', '.join({name for name, _ in read})}"
        )
    broken = [f"{language}: {reason}" for language, reason in known if reason]
    good = len(known) - len(broken)
    detail = "; ".join([f"{good} of {len(known)} blocks parse", *broken])[:500]
    return Check(name="parse", status="failed" if broken else "passed", score=good / len(known), detail=detail)
