"""The plot of a run: `python -m bench.plot RESULTS.json OUT.svg`. In the benchmark's own environment, which has matplotlib."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt


def draw(results: Path, out: Path) -> None:
    """Four panels: overhead, rate, what many in flight do, what many kept do."""
    found = json.loads(results.read_text())
    rows = found["subjects"]
    names = list(rows)
    colours = ["#c0392b" if name == "fleet" else "#9aa5b1" if name.startswith("bare") else "#34618d" for name in names]
    figure, ((overhead, rate), (flight, kept)) = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")

    built = [name for name in names if not name.startswith("bare")]
    overhead.barh(
        built,
        [max(0.1, rows[name]["overhead_p50_ms"]) for name in built],
        color=["#c0392b" if name == "fleet" else "#34618d" for name in built],
    )
    overhead.set(title="One at a time: overhead over the bare call", xlabel="ms, p50 (logarithmic)", xscale="log")
    rate.barh(names, [rows[name]["rate"] for name in names], color=colours)
    rate.set(title="64 at a time", xlabel="deliberations a second")
    for axes in (overhead, rate):
        axes.invert_yaxis()

    for name in names:
        points = sorted((int(count), row["rate"]) for count, row in rows[name]["in_flight"].items())
        style = "-" if name == "fleet" else "--" if name.startswith("bare") else ":"
        if points:
            colour = "#c0392b" if name == "fleet" else None
            flight.plot(*zip(*points, strict=True), style, marker="o", label=name, color=colour)
    flight.set(title="In flight", xscale="log", xlabel="deliberations in flight", ylabel="a second", ylim=(0, None))
    flight.legend(fontsize=7)

    points = [(row["kept"], row["rate"]) for row in rows.get("fleet", {}).get("kept", []) if "rate" in row]
    if points:
        kept.plot(*zip(*points, strict=True), color="#c0392b", marker="o")
    kept.set(title="Kept", xlabel="deliberations kept", ylabel="a second at 64 at a time", ylim=(0, None))

    machine = found["machine"]
    figure.suptitle(
        f"{machine['date'][:10]} · {machine['processor']}, {machine['cores']} cores · load {machine['load']}"
    )
    figure.savefig(out)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
