"""Right answers to the tasks that come with the project, each as a whole module, in the order of the file."""

ANSWERS = {
    "fleet/merge_ranges": """
def merge_ranges(ranges):
    merged = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return merged
""",
    "fleet/parse_duration": """
import re

def parse_duration(text):
    found = re.fullmatch(r"(?:(\\d+)d)?(?:(\\d+)h)?(?:(\\d+)m)?(?:(\\d+)s)?", text)
    if not text or not found:
        raise ValueError(text)
    return sum(int(part or 0) * unit for part, unit in zip(found.groups(), (86400, 3600, 60, 1)))
""",
    "fleet/longest_streak": """
from datetime import timedelta

def longest_streak(days):
    found, best = set(days), 0
    for day in found:
        if day - timedelta(days=1) not in found:
            length = 1
            while day + timedelta(days=length) in found:
                length += 1
            best = max(best, length)
    return best
""",
    "fleet/render_table": """
def render_table(rows):
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\\n".join(lines)
""",
    "fleet/topological_layers": """
def layers(needs):
    left = {name: set(wanted) for name, wanted in needs.items()}
    for wanted in needs.values():
        for name in wanted:
            left.setdefault(name, set())
    found = []
    while left:
        ready = sorted(name for name, wanted in left.items() if not wanted)
        if not ready:
            raise ValueError("a circle")
        found.append(ready)
        left = {name: wanted - set(ready) for name, wanted in left.items() if name not in ready}
    return found
""",
    "fleet/redact": """
def redact(text):
    return EMAIL.sub(lambda found: found[0][0] + "***@" + found[0].split("@")[1], text)
""",
    "fleet/moving_median": """
def moving_median(values, width):
    from statistics import median
    if width < 1:
        raise ValueError(width)
    return [float(median(values[at:at + width])) for at in range(len(values) - width + 1)]
""",
    "fleet/semver_sort": """
def newest(versions):
    def key(version):
        core, _, suffix = version.partition("-")
        parts = [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in suffix.split(".")] if suffix else []
        return [int(part) for part in core.split(".")], not suffix, parts
    return max(versions, key=key)
""",
    "fleet/allowed": """
from collections import deque

def allowed(times, limit, window):
    passed, answers = deque(), []
    for time in times:
        while passed and passed[0] <= time - window:
            passed.popleft()
        answers.append(len(passed) < limit)
        if answers[-1]:
            passed.append(time)
    return answers
""",
    "fleet/wrap": """
def wrap(words, width):
    lines = []
    for word in words:
        if lines and len(lines[-1]) + 1 + len(word) <= width and word:
            lines[-1] += " " + word
            continue
        lines += [word[at:at + width] for at in range(0, len(word), width)]
    return lines
""",
}
