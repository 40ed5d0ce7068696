"""What a run found, as tables in Markdown."""

from typing import Any

from bench.context.budget import HOT_SHARE, MANY

AIMS = {
    "cold": ("GetContext, cold", 25),
    "cached": ("GetContext, from cache", 3),
    "transaction": ("a decided deliberation, its transaction", 15),
    "remembered": ("its event published to `context.updated` received", 15),
}
"""What is measured one at a time, and what its p95 in milliseconds is to stay under."""
RATE_AIM = 500
LOADS = {"cached_many": "all from cache", "mix": f"{HOT_SHARE:.0%} from cache", "cold_many": "all cold"}


def markdown(found: dict[str, Any]) -> str:
    """The tables, ready for docs/performance.md."""
    machine, stores = found["machine"], found["stores"]
    names = list(stores)
    lines = [
        f"{machine['date']} · {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['system']} · load before the run {machine['load']} · commit {machine['commit']}",
        "",
        f"| one at a time, p50 / p95 / p99 ms | aim, p95 | {' | '.join(names)} |",
        "|---|---|" + "---|" * len(names),
    ]
    for key, (title, aim) in AIMS.items():
        lines.append(f"| {title} | {aim} | {' | '.join(_times(stores[name][key]) for name in names)} |")
    lines += [
        "",
        f"| {MANY} at a time, requests/s (p95 ms) | aim | {' | '.join(names)} |",
        "|---|---|" + "---|" * len(names),
    ]
    for key, title in LOADS.items():
        cells = [f"{stores[name][key]['rate']:.0f} ({stores[name][key]['p95_ms']:.0f})" for name in names]
        lines.append(f"| {title} | {RATE_AIM if key == 'mix' else ''} | {' | '.join(cells)} |")
    lines += ["", f"| | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for part in dict.fromkeys(part for name in names for part in stores[name]["rss_mib"]):
        lines.append(
            f"| {part}, MiB resident | {' | '.join(_number(stores[name]['rss_mib'].get(part)) for name in names)} |"
        )
    for part in dict.fromkeys(part for name in names for part in stores[name]["mix"]["cpu_ms_by_part"]):
        cells = [f"{stores[name]['mix']['cpu_ms_by_part'].get(part, 0):.2f}" for name in names]
        lines.append(f"| {part}, CPU ms a request of the mix | {' | '.join(cells)} |")
    lines.append("")
    lines += [
        f"- On {name}: "
        + ", ".join(f"{count:,} {label}" for label, count in row["nodes"].items())
        + f". A context has {row['tokens_of_a_context']:.0f} tokens on average. "
        f"From the cache come {row['hot']} requests that are asked again and again; a cold one is asked once."
        for name, row in stores.items()
    ]
    lines += [f"- {note}" for note in found["notes"]]
    failures = [
        f"- {name}, {key}: {row[key]['failed']} failed, such as: {row[key]['failures'][0]}"
        for name, row in stores.items()
        for key in (*AIMS, *LOADS)
        if row[key]["failed"]
    ]
    lines += failures
    for where, versions in machine["versions"].items():
        lines.append(f"- Versions, {where}: " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    return "\n".join(lines) + "\n"


def _times(row: dict[str, Any]) -> str:
    return " / ".join(f"{row[key]:.1f}" for key in ("p50_ms", "p95_ms", "p99_ms"))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"
