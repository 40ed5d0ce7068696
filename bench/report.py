"""What a run found: as values for JSON, as a table in Markdown, and as ratios to each peer."""

from typing import Any

from bench.budget import MANY
from bench.load import percentile
from bench.measure import AGENT_CALLS, Bench, Figures, Subject
from bench.starting import OURS


def values(bench: Bench, facts: dict[str, object], durability: dict[str, str], notes: list[str]) -> dict[str, Any]:
    """The results; times in milliseconds, memory in MiB, CPU in milliseconds per agent call."""
    found = {subject.name: _of(subject, bench.figures) for subject in bench.subjects}
    ours = found.get(OURS)
    ratios = {}
    if ours is not None:
        for subject in bench.subjects:
            if subject.name != OURS:
                ratios[subject.name] = _ratios(ours, found[subject.name])
    return {
        "machine": facts,
        "durability": durability,
        "subjects": found,
        "ratios": ratios,
        "skipped": bench.skipped,
        "notes": notes,
    }


def _of(subject: Subject, all_figures: dict[str, Figures]) -> dict[str, Any]:
    figures = all_figures[subject.name]
    bare = percentile(all_figures[subject.over].one, 0.5) if subject.over in all_figures else float("nan")
    calls = figures.done * AGENT_CALLS

    def per_call(seconds: float) -> float:
        return seconds * 1000 / calls if calls else float("nan")

    by_part = sorted(figures.cpu_seconds.items(), key=lambda item: -item[1])
    return {
        "title": subject.title,
        "durable": subject.durable,
        "over": subject.over,
        "samples": len(figures.one),
        "one_p50_ms": percentile(figures.one, 0.5) * 1000,
        "one_p99_ms": percentile(figures.one, 0.99) * 1000,
        "overhead_p50_ms": (percentile(figures.one, 0.5) - bare) * 1000,
        "overhead_p99_ms": (percentile(figures.one, 0.99) - bare) * 1000,
        "rate": sum(figures.rates) / len(figures.rates) if figures.rates else float("nan"),
        "rates": figures.rates,
        "many_p50_ms": percentile(figures.many, 0.5) * 1000,
        "many_p99_ms": percentile(figures.many, 0.99) * 1000,
        "cpu_ms_per_agent_call": per_call(sum(figures.cpu_seconds.values())),
        "cpu_ms_by_part": {part: per_call(seconds) for part, seconds in by_part if seconds > 0},
        "idle_share_of_a_core": figures.idle_share,
        "rss_mib": figures.memory.get("rss"),
        "pss_mib": figures.memory.get("pss"),
        "peak_rss_mib": figures.peak_rss_mib,
        "in_flight": {
            str(count): {**row, "p50_ms": row["p50"] * 1000, "p99_ms": row["p99"] * 1000}
            for count, row in figures.in_flight.items()
        },
        "kept": figures.kept,
        "failed": figures.failed,
        "failures": figures.failures,
    }


def _ratios(ours: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """How many times ours is the other's rate, and its CPU per agent call; and the difference of the overheads."""
    return {
        "rate": ours["rate"] / other["rate"] if other["rate"] else float("nan"),
        "cpu": ours["cpu_ms_per_agent_call"] / other["cpu_ms_per_agent_call"]
        if other["cpu_ms_per_agent_call"]
        else float("nan"),
        "overhead_ms": ours["overhead_p50_ms"] - other["overhead_p50_ms"],
    }


def markdown(found: dict[str, Any]) -> str:
    """The tables, ready for docs/performance.md."""
    machine = found["machine"]
    lines = [
        f"{machine['date']} · {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['system']} · load before the run {machine['load']} · commit {machine['commit']}",
        "",
        f"| | overhead p50 / p99, ms | deliberations/s at {MANY} | CPU, ms per agent call | memory RSS / PSS, MiB | durable |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["subjects"].values():
        lines.append(
            f"| {row['title']} | {row['overhead_p50_ms']:.1f} / {row['overhead_p99_ms']:.1f} | {row['rate']:.1f} "
            f"| {row['cpu_ms_per_agent_call']:.2f} | {_number(row['rss_mib'])} / {_number(row['pss_mib'])} "
            f"| {row['durable'] or 'no'} |"
        )
    lines += ["", *_ratio_lines(found), *_in_flight_lines(found), *_kept_lines(found), *_part_lines(found)]
    lines += [f"- Durability: {name}: {how}" for name, how in found["durability"].items()]
    lines += [f"- {note}" for note in found["notes"]]
    lines += [f"- Skipped: {what}" for what in found["skipped"]]
    lines += [
        f"- {row['title']}: {row['failed']} failed, such as: {row['failures'][0]}"
        for row in found["subjects"].values()
        if row["failed"]
    ]
    for where, versions in machine["versions"].items():
        lines.append(f"- Versions, {where}: " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    return "\n".join(lines) + "\n"


def _ratio_lines(found: dict[str, Any]) -> list[str]:
    if not found["ratios"]:
        return []
    lines = ["| this system to | deliberations/s | CPU per agent call | overhead p50, ms more |", "|---|---|---|---|"]
    for name, ratio in found["ratios"].items():
        title = found["subjects"][name]["title"]
        lines.append(
            f"| {title} | {ratio['rate']:.2f} times | {ratio['cpu']:.2f} times | {ratio['overhead_ms']:+.1f} |"
        )
    return [*lines, ""]


def _in_flight_lines(found: dict[str, Any]) -> list[str]:
    counts = list(dict.fromkeys(count for row in found["subjects"].values() for count in row["in_flight"]))
    if not counts:
        return []
    head = " | ".join(f"{count} in flight" for count in counts)
    lines = [f"| deliberations/s, p50 ms, peak RSS MiB | {head} |", "|---|" + "---|" * len(counts)]
    for row in found["subjects"].values():
        cells = []
        for count in counts:
            cell = row["in_flight"].get(count)
            cells.append(
                f"{cell['rate']:.1f}/s, {cell['p50_ms']:.0f} ms, {cell['peak_rss_mib']:.0f} MiB" if cell else "-"
            )
        lines.append(f"| {row['title']} | {' | '.join(cells)} |")
    return [*lines, ""]


def _kept_lines(found: dict[str, Any]) -> list[str]:
    kept = found["subjects"].get(OURS, {}).get("kept", [])
    if not kept:
        return []
    lines = [
        "| deliberations kept | per second up to here | one at a time p50 / p99, ms | RSS, MiB |",
        "|---|---|---|---|",
    ]
    for row in kept:
        rate = f"{row['rate']:.1f}" if "rate" in row else ""
        one = f"{row['p50'] * 1000:.1f} / {row['p99'] * 1000:.1f}" if "p50" in row else ""
        lines.append(f"| {row['kept']:.0f} | {rate} | {one} | {_number(row.get('rss'), '')} |")
    return [*lines, ""]


def _part_lines(found: dict[str, Any]) -> list[str]:
    ours = found["subjects"].get(OURS)
    if not ours or not ours["cpu_ms_by_part"]:
        return []
    lines = [f"| where this system's CPU goes, at {MANY} at a time | ms per agent call |", "|---|---|"]
    lines += [f"| {part} | {value:.2f} |" for part, value in ours["cpu_ms_by_part"].items()]
    return [*lines, ""]


def _number(value: float | None, none: str = "-") -> str:
    return none if value is None else f"{value:.0f}"
