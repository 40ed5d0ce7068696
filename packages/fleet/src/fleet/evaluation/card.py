"""The report card: what each configuration solved and spent, and which differences that shows. Pure."""

import datetime as dt
from collections.abc import Iterable, Sequence

from msgspec import Struct

from fleet.evaluation import stats

BASELINE = "single"


class Attempt(Struct, frozen=True, kw_only=True):
    """One task put to one configuration. `solved` is what the ground truth said of the decision; without a decision it is
    False, and `failure` says why. `detail` is what the ground truth said of a wrong one. `protocol` is what was run, which
    `auto` chooses."""

    task_id: str
    configuration: str
    deliberation_id: str
    solved: bool
    protocol: str = ""
    failure: str = ""
    detail: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    calls: int = 0
    seconds: float = 0.0
    flips: int = 0
    verdicts: int = 0
    skipped: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """Of prompts and answers, really spent."""
        return self.prompt_tokens + self.completion_tokens


class About(Struct, frozen=True, kw_only=True):
    """What makes two evaluations the same, so that one goes on where it was: `tasks` is a fingerprint of them all."""

    tasks: str
    task_file: str
    model: str
    endpoint: str
    budget_tokens: int
    timeout_seconds: float
    seed: int


class Row(Struct, frozen=True, kw_only=True):
    """One configuration over all tasks. Intervals are of 95 %: Wilson's of the share, the bootstrap's of the means."""

    configuration: str
    tasks: int
    solved: int
    share: float
    share_interval: tuple[float, float]
    failed: int
    tokens: int
    tokens_mean: float
    tokens_interval: tuple[float, float]
    calls: int
    seconds_mean: float
    seconds_interval: tuple[float, float]
    flips: int
    verdicts: int
    skipped: dict[str, int]


class Comparison(Struct, frozen=True, kw_only=True):
    """A configuration against the baseline, on the same tasks. `more` and `fewer` are the tasks that only the one or only the
    other solved; the interval is of the difference, and holds for all comparisons of the card together."""

    configuration: str
    baseline: str
    more: int
    fewer: int
    difference: float
    interval: tuple[float, float]
    p_value: float
    shown: bool
    words: str


class Card(Struct, frozen=True, kw_only=True):
    """The report."""

    about: About
    made_at: dt.datetime
    level: float
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]


def card(about: About, names: Sequence[str], attempts: Iterable[Attempt], now: dt.datetime) -> Card:
    """The card of the configurations, in the order of their names, over the tasks that all of them have tried."""
    by_name: dict[str, dict[str, Attempt]] = {name: {} for name in names}
    for one in attempts:
        if one.configuration in by_name:
            by_name[one.configuration][one.task_id] = one
    common = sorted(set.intersection(*(set(tried) for tried in by_name.values()))) if by_name else []
    tried = {name: [found[task_id] for task_id in common] for name, found in by_name.items()}
    baseline = BASELINE if BASELINE in tried else next(iter(tried), "")
    others = [name for name in names if name != baseline]
    level = stats.LEVEL / max(1, len(others))
    return Card(
        about=about,
        made_at=now,
        level=stats.LEVEL,
        rows=tuple(_row(name, tried[name], about.seed) for name in names),
        comparisons=tuple(_comparison(name, baseline, tried, level) for name in others),
    )


def markdown(found: Card) -> str:
    """The card for people."""
    about = found.about
    tasks = found.rows[0].tasks if found.rows else 0
    lines = [
        f"# Evaluation of {_cell(about.model)} on {_cell(about.task_file)}",
        "",
        f"{found.made_at:%Y-%m-%d %H:%M} UTC · {tasks} tasks · endpoint {_cell(about.endpoint)} · seed {about.seed}",
        "",
        f"Each deliberation could spend up to {about.budget_tokens:,} tokens, whatever its configuration; what it really spent"
        " stands in its row. Right is what passes the task's own tests in the sandbox.",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|" + "|".join(" --- " for _ in HEADINGS) + "|",
        *("| " + " | ".join(map(_cell, cells(row))) + " |" for row in found.rows),
        "",
        "Solved: with Wilson's interval. Tokens and seconds: the mean of a task, with the bootstrap's interval. All of 95 %.",
        "",
        *(f"- {_cell(one.words)}" for one in found.comparisons),
    ]
    if found.comparisons:
        lines += [
            "",
            "Compared task by task, by the exact form of McNemar's test. Its intervals are wide enough that the chance of any"
            f" false difference on this card is at most {found.level:.0%} (Bonferroni).",
        ]
    return "\n".join(lines) + "\n"


HEADINGS = (
    "configuration",
    "solved",
    "95 %",
    "tokens a task",
    "95 %",
    "seconds a task",
    "95 %",
    "calls",
    "flips",
    "failed",
)


def cells(row: Row) -> tuple[str, ...]:
    """A row as text, under HEADINGS."""
    low, high = row.share_interval
    flips = f"{row.flips} of {row.verdicts // 2} pairs" if row.verdicts else "none"
    return (
        row.configuration,
        f"{row.solved}/{row.tasks}",
        f"{low:.0%} to {high:.0%}",
        f"{row.tokens_mean:,.0f}",
        "{:,.0f} to {:,.0f}".format(*row.tokens_interval),
        f"{row.seconds_mean:.1f}",
        "{:.1f} to {:.1f}".format(*row.seconds_interval),
        str(row.calls),
        flips,
        str(row.failed) if row.failed else "none",
    )


def _row(name: str, tried: Sequence[Attempt], seed: int) -> Row:
    solved = sum(one.solved for one in tried)
    tokens_mean, tokens_interval = stats.mean_interval([float(one.tokens) for one in tried], seed)
    seconds_mean, seconds_interval = stats.mean_interval([one.seconds for one in tried], seed)
    skipped: dict[str, int] = {}
    for one in tried:
        for phase in one.skipped:
            skipped[phase] = skipped.get(phase, 0) + 1
    return Row(
        configuration=name,
        tasks=len(tried),
        solved=solved,
        share=solved / len(tried) if tried else 0.0,
        share_interval=stats.wilson(solved, len(tried)),
        failed=sum(bool(one.failure) for one in tried),
        tokens=sum(one.tokens for one in tried),
        tokens_mean=tokens_mean,
        tokens_interval=tokens_interval,
        calls=sum(one.calls for one in tried),
        seconds_mean=seconds_mean,
        seconds_interval=seconds_interval,
        flips=sum(one.flips for one in tried),
        verdicts=sum(one.verdicts for one in tried),
        skipped=skipped,
    )


def _comparison(name: str, baseline: str, tried: dict[str, list[Attempt]], level: float) -> Comparison:
    mine, theirs = tried[name], tried[baseline]
    found = stats.compare([one.solved for one in mine], [one.solved for one in theirs], level)
    low, high = found.interval
    spent, base = sum(one.tokens for one in mine), sum(one.tokens for one in theirs)
    times = f", with {spent / base:.1f} times the tokens" if base else ""
    split = f"{found.more} tasks solved only by it, {found.fewer} only by {baseline}"
    figures = f"{found.difference:+.0%}, interval {low:+.0%} to {high:+.0%}, p = {found.p_value:.3f}"
    verdict = f"solves {'more' if found.difference > 0 else 'fewer'}" if found.shown else "no difference shown"
    words = f"{name} against {baseline}: {verdict} ({figures}; {split}){times}"
    return Comparison(
        configuration=name,
        baseline=baseline,
        more=found.more,
        fewer=found.fewer,
        difference=found.difference,
        interval=found.interval,
        p_value=found.p_value,
        shown=found.shown,
        words=words,
    )


def _cell(text: str) -> str:
    """A text that stays one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
