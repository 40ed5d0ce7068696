"""Views as HTML. Pure. Every text goes through `_t`, which escapes it: what events and answers say is never markup."""

import datetime as dt
import html
from typing import Any

from fleet.describe import protocol

Json = dict[str, Any]

EVENTS_SHOWN = 60
RUNNING_SHOWN = 12
ENDED_SHOWN = 8
JOBS_SHOWN = 30


def _t(value: object) -> str:
    return html.escape(str(value), quote=True)


def age(seconds: float | None) -> str:
    """An age in words a person reads at a glance."""
    if seconds is None:
        return "never"
    if seconds < 60:
        return f"{int(seconds)} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def parts(rows: list[Json]) -> str:
    """Services or servers with their state, its age and its reason."""
    return f'<table class="parts">{"".join(_part(row) for row in rows)}</table>'


def councils(data: Json) -> str:
    found = data["councils"]
    if found is None:
        return stale(data)
    if not found:
        return stale(data) + '<p class="quiet">No council exists.</p>'
    return stale(data) + "".join(_council(council) for council in found)


def jobs(data: Json) -> str:
    found = data["jobs"]
    if found is None:
        return stale(data)
    if not found:
        return stale(data) + '<p class="quiet">No job runs.</p>'
    rows = "".join(
        f'<tr><td class="id">{_t(job["agent_id"])}</td><td>{_t(job["phase"])}</td>'
        f'<td title="{_t(job["job_id"])}">{_t(job["actor"] or "no actor yet")}</td>'
        f'<td class="num">{_t(_clock(job["accepted_at"]))}</td></tr>'
        for job in found[:JOBS_SHOWN]
    )
    more = f'<p class="quiet">and {len(found) - JOBS_SHOWN} more</p>' if len(found) > JOBS_SHOWN else ""
    return stale(data) + f'<table class="rows">{rows}</table>{more}'


def cluster(data: Json) -> str:
    found = data["cluster"]
    if found is None:
        return stale(data)
    gib, actors = 2**30, len(found["actors"])
    alive = sum(1 for node in found["nodes"] if node["alive"])
    facts = [
        ("Ray", f"{found['ray_version']} on Python {found['python_version']}"),
        ("nodes", f"{alive} of {len(found['nodes'])} alive"),
        ("CPUs", _amount(found["cpus"], 1, "")),
        ("GPUs", _amount(found["gpus"], 1, "")),
        ("memory", _amount(found["memory_bytes"], gib, " GiB")),
        ("sandbox", _sandbox(found["nodes"])),
        ("pool", f"{found['pool']}, {actors} actor{'' if actors == 1 else 's'}"),
    ]
    rows = "".join(f"<tr><td>{_t(name)}</td><td>{_t(value)}</td></tr>" for name, value in facts)
    return stale(data) + f'<table class="rows">{rows}</table>'


def live(feed: Json) -> str:
    """Whether the events come live, for the top of the page."""
    if feed["state"] == "ok":
        return '<span class="pill ready">live</span>'
    since = "not live yet" if feed["age_seconds"] is None else f"not live for {age(feed['age_seconds'])}"
    return f'<span class="pill unreachable">{_t(since)}</span> <span class="reason">{_t(feed["error"])}</span>'


def heading(shown: int, known: int, feed: Json) -> str:
    """Over the deliberations: how many of how many, and whether they are old."""
    count = f"{shown} of {known}" if shown < known else str(known)
    none = '<p class="quiet">No deliberation was seen.</p>' if not known and feed["state"] == "ok" else ""
    return f"<h2>Deliberations · {_t(count)}</h2>{stale({'source': feed})}{none}"


def stale(data: Json) -> str:
    """A banner where the source does not answer: what stands below it is old, or was never there."""
    origin = data["source"]
    if origin["state"] == "ok":
        return ""
    known = "nothing was ever known" if origin["age_seconds"] is None else f"shown: {age(origin['age_seconds'])} old"
    return f'<p class="stale"><b>unreachable</b> · {_t(known)}<br>{_t(origin["error"])}</p>'


def deliberation(one: Json) -> str:
    """A card: the eight steps with their times, the protocol's phases, and what each agent writes."""
    title = one["title"] or one["task_id"] or one["deliberation_id"]
    by = protocol(one["protocol"], one["numbers"]) if one["protocol"] else ""
    ids = " · ".join(_t(word) for word in (one["role"], by, one["task_id"], one["plan_id"]) if word)
    why = f'<div class="quiet">chosen by auto: {_t(one["chosen_because"])}</div>' if one["chosen_because"] else ""
    return (
        f'<div class="card {_t(one["state"])}"><div class="head"><b>{_t(title)}</b>{_pill(one["state"])}</div>'
        f'<div class="quiet">{ids} · <span class="id">{_t(one["deliberation_id"])}</span></div>'
        f"{why}{_steps(one['steps'])}{_phases(one)}{_outcome(one)}"
        f'<div class="agents">{"".join(_agent(agent) for agent in one["agents"])}</div></div>'
    )


def events(found: list[Json]) -> str:
    if not found:
        return '<p class="quiet">No event.</p>'
    return f'<table class="rows events">{"".join(_event(line) for line in found)}</table>'


def matches(line: Json, words: str) -> bool:
    """Whether an event line holds every word of the filter box."""
    text = " ".join(
        str(line[key] or "") for key in ("subject", "summary", "deliberation_id", "plan_id", "type")
    ).lower()
    return all(word in text for word in words.lower().split())


def _part(row: Json) -> str:
    of = "asked" if row["state"] != "unreachable" else "last answer"
    when = f"{of} {age(row['age_seconds'])} ago" if row["age_seconds"] is not None else "never answered"
    detail = f'<tr class="why"><td colspan="3" class="reason">{_t(row["reason"])}</td></tr>' if row["reason"] else ""
    return (
        f'<tr><td><b>{_t(row["name"])}</b><div class="quiet id">{_t(row["address"] or "here")}</div></td>'
        f'<td>{_pill(row["state"])}<div class="quiet">{_t(row["version"] or "")}</div></td>'
        f'<td class="num quiet">{_t(when)}</td></tr>{detail}'
    )


def _council(council: Json) -> str:
    agents = "".join(
        f'<span class="seat {_t(agent["state"])}" title="{_t(", ".join(agent["deliberation_ids"]))}">'
        f"{_t(agent['agent_id'])} <i>{_t(agent['state'])}</i></span>"
        for agent in council["agents"]
    )
    by = protocol(council["protocol"], council.get("numbers") or {})
    about = _t(f"{by} · quorum {council['quorum']}")
    return (
        f'<div class="council"><b>{_t(council["role"])}</b> <span class="quiet">{about}</span><div>{agents}</div></div>'
    )


def _steps(steps: list[Json]) -> str:
    known = [step["at"] for step in steps if step["at"]]
    first = min(known) if known else None
    cells = []
    for step in steps:
        at = step["at"]
        text = "—" if at is None else _clock(at) if at == first else _since(first, at)
        cells.append(
            f'<div class="step {"done" if at else "open"}" title="{_t(at or "not yet")}">'
            f"<i>{step['number']}</i> {_t(step['name'])}<b>{_t(text)}</b></div>"
        )
    return f'<div class="steps">{"".join(cells)}</div>'


def _phases(one: Json) -> str:
    cells = []
    for found in one["phases"]:
        ended, running = found["completed"] + found["failed"], found["running"]
        count = f"{ended} of {ended + running}" if running else str(ended)
        failed = f", {found['failed']} failed" if found["failed"] else ""
        state = "running" if running else "completed"
        words = f"{found['phase'].replace('_', ' ')} {count}{failed}"
        cells.append(f'<span class="pill {state}">{_t(words)}</span> ')
    for left in one["skipped"]:
        words = f"{left['phase'].replace('_', ' ')} skipped"
        cells.append(f'<span class="pill" title="{_t(left["reason"])}">{_t(words)}</span> ')
    return f'<div class="phases">{"".join(cells)}</div>' if cells else ""


def _spent(one: Json) -> str:
    """What a decision or a failure took, as far as its event says."""
    cached = f" ({one['cached_tokens']} cached)" if one["cached_tokens"] else ""
    words = [
        f"{one['flips']} flips in {one['verdicts']} verdicts" if one["verdicts"] else "",
        f"{one['calls']} calls" if one["calls"] else "",
        f"{one['tokens']} tokens{cached}" if one["tokens"] else "",
        f"{one['duration_seconds']:.1f} s" if one["duration_seconds"] is not None else "",
    ]
    return "".join(f" · {_t(word)}" for word in words if word)


def _outcome(one: Json) -> str:
    if one["state"] == "completed":
        score = "—" if one["score"] is None else f"{one['score']:.3f}"
        return (
            f'<div class="outcome"><b>{_t(one["decision_title"] or "decided")}</b> · winner '
            f'<span class="id">{_t(one["winner"])}</span> · score {_t(score)}{_spent(one)} · '
            f'<span class="id">{_t(one["decision_id"])}</span>{_flags(one)}</div>'
        )
    if one["state"] == "failed":
        return f'<div class="outcome bad">{_t(one["reason"])}{_spent(one)}</div>'
    return ""


def _flags(one: Json) -> str:
    """Whether the decision still stands, and stands on what still does."""
    relies = one["relies_on_superseded"]
    return (' <span class="pill failed">superseded</span>' if one["superseded"] else "") + (
        f' <span class="pill failed" title="{_t(", ".join(relies))}">relies on superseded</span>' if relies else ""
    )


def _agent(agent: Json) -> str:
    rank = "" if agent["rank"] is None else f' <span class="quiet">#{agent["rank"]} · {agent["score"]:.3f}</span>'
    error = f'<div class="reason">{_t(agent["error"])}</div>' if agent["error"] else ""
    text = f'<div class="tail"><div>{_t(agent["tokens_text_tail"])}</div></div>' if agent["tokens_text_tail"] else ""
    about = [agent["phase"] or "", "revised" if agent["revised"] else "", _tests(agent["tests"])]
    words = " · ".join(_t(word.replace("_", " ")) for word in about if word)
    return (
        f'<div class="agent"><div class="head"><span class="id">{_t(agent["agent_id"])}</span>'
        f"<span>{_pill(agent['state'])}{rank}</span></div>"
        f'<div class="quiet">{words}</div>{_checks(agent["checks"])}{error}{text}</div>'
    )


def _checks(found: list[Json]) -> str:
    """Each check of a proposal; what was not run is never shown as passed."""
    pills = []
    for check in found:
        state = {"passed": "completed", "failed": "failed"}.get(check["status"], "")
        name = check["name"].replace("_", " ")
        label = name if check["status"] == "passed" else f"{name} {check['status'].replace('_', ' ')}"
        pills.append(f'<span class="pill {state}" title="{_t(check["detail"])}">{_t(label)}</span> ')
    return f'<div class="checks">{"".join(pills)}</div>' if pills else ""


def _tests(found: Json | None) -> str:
    if found is None:
        return ""
    ran = found["passed"] + found["failed"]
    return f"{found['passed']} of {ran} tests passed" if ran else "no test was run"


def _sandbox(nodes: list[Json]) -> str:
    alive = [node for node in nodes if node["alive"]]
    without = [node for node in alive if not node["sandbox"]]
    if not alive:
        return "no node is alive"
    why = without[0]["sandbox_reason"] if without else ""
    return f"{len(alive) - len(without)} of {len(alive)} nodes can make one" + (f": {why}" if why else "")


def _event(line: Json) -> str:
    bad = ' class="bad"' if line["malformed"] else ""
    return (
        f'<tr{bad}><td class="num">{_t(_clock(line["at"]))}</td>'
        f'<td class="id" title="{_t(line["stream"])} #{line["sequence"]}">{_t(line["subject"])}</td>'
        f"<td>{'malformed: ' if line['malformed'] else ''}{_t(line['summary'])}</td></tr>"
    )


def _pill(state: str) -> str:
    return f'<span class="pill {_t(state)}">{_t(state.replace("_", " "))}</span>'


def _amount(amount: Json | None, unit: float, name: str) -> str:
    return "not said" if amount is None else f"{amount['used'] / unit:.1f} of {amount['total'] / unit:.1f}{name} used"


def _clock(at: str | None) -> str:
    """Hours to milliseconds of a moment, in UTC."""
    return "—" if at is None else at[11:23]


def _since(first: str | None, at: str) -> str:
    """Seconds from the first step to this one."""
    start = dt.datetime.fromisoformat(first or at)
    return f"+{(dt.datetime.fromisoformat(at) - start).total_seconds():.2f} s"
