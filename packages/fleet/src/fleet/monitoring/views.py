"""What the API answers and the page shows, as plain JSON values: both read here, so that their numbers are the same."""

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fleet.monitoring.board import Board
from fleet.monitoring.domain import PHASES, Agent, Deliberation, Line
from fleet.monitoring.sources import Health, Probe, Source, Sources
from fleet.steps import STEPS
from fleet_wire.rpc import Readiness

Json = dict[str, Any]


def iso(at: dt.datetime | None) -> str | None:
    """RFC 3339 in UTC, with milliseconds."""
    if at is None:
        return None
    return at.astimezone(dt.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def source(state: Source, now: dt.datetime) -> Json:
    """Where a value comes from: `ok`, or `unreachable` with the error; the age is that of the value shown."""
    age = state.age_seconds(now)
    return {
        "state": "ok" if state.ok else "unreachable",
        "error": state.error or (None if state.ok else "not asked yet"),
        "age_seconds": None if age is None else round(age, 3),
    }


def part(probe: Probe, state: Source, now: dt.datetime) -> Json:
    """One service or server with its readiness. An unreachable one says so, whatever it was before."""
    health: Health | None = state.value
    if not state.ok:
        word, reason = "unreachable", state.error or "not asked yet"
    elif health is not None and health.ready:
        word, reason = "ready", ""
    else:
        word, reason = "not_ready", (health.reason if health else "") or "it gives no reason"
    return {
        "name": probe.name,
        "address": probe.address,
        "state": word,
        "reason": reason or None,
        "age_seconds": source(state, now)["age_seconds"],
        "version": health.version if health else None,
    }


class Views:
    """Everything that can be read, at the time of the call."""

    def __init__(self, board: Board, sources: Sources, readiness: Readiness, version: str) -> None:
        self._board = board
        self._sources = sources
        self._readiness = readiness
        self._version = version
        self._live_at: dt.datetime | None = None
        self._started_at = sources.now()
        readiness.listen(self._on_ready)

    def feed(self) -> Json:
        """The event feed as a source: its age is how long ago it was last live."""
        now = self._sources.now()
        if self._readiness.ready:
            self._live_at = now
        age = None if self._live_at is None else round((now - self._live_at).total_seconds(), 3)
        ready = self._readiness.ready
        return {
            "state": "ok" if ready else "unreachable",
            "error": None if ready else self._readiness.reason,
            "age_seconds": age,
        }

    def status(self) -> Json:
        """All services, this one first, and the infrastructure."""
        feed = self.feed()
        own = {
            "name": "monitoring",
            "address": None,
            "state": "ready" if feed["error"] is None else "not_ready",
            "reason": feed["error"],
            "age_seconds": 0.0,
            "version": self._version,
        }
        return {
            "services": [own, *self._parts("service")],
            "infrastructure": [*self._parts("infrastructure"), self._ray()],
        }

    def data(self, name: str) -> Json:
        """The councils, jobs or cluster, with their source; None for what was never answered."""
        state = self._sources[name]
        return {name: state.value, "source": source(state, self._sources.now())}

    def deliberations(self, limit: int) -> Json:
        known, active = self._board.deliberations(), self._active()
        return {
            "deliberations": [deliberation(one, active) for one in known[:limit]],
            "known": len(known),
            "source": self.feed(),
        }

    def newest(self, running: int, ended: int) -> tuple[list[Json], int]:
        """The newest that run and the newest that have ended, and how many are known in all."""
        known = self._board.deliberations()
        chosen = [one for one in known if one.end is None][:running] + [one for one in known if one.end][:ended]
        active = self._active()
        return [deliberation(one, active) for one in chosen], len(known)

    def deliberation(self, deliberation_id: str) -> Json | None:
        one = self._board.get(deliberation_id)
        return None if one is None else {**deliberation(one, self._active()), "source": self.feed()}

    def events(self, limit: int) -> Json:
        return {"events": [line(one) for one in self._board.lines(limit)], "source": self.feed()}

    def _active(self) -> Sequence[Json]:
        """The executor's jobs that run, as it last said; none once its answer is old."""
        state = self._sources["jobs"]
        return (state.value or ()) if state.ok else ()

    def _parts(self, kind: str) -> list[Json]:
        now = self._sources.now()
        return [
            part(probe, self._sources[probe.name], now) for probe in self._sources.probes.values() if probe.kind == kind
        ]

    def _ray(self) -> Json:
        """Ray, as the executor sees it: there is no other way to ask it."""
        state = self._sources["cluster"]
        cluster: Mapping[str, Any] | None = state.value
        now = self._sources.now()
        alive = cluster is not None and any(node["alive"] for node in cluster["nodes"])
        word = "unreachable" if not state.ok else "ready" if alive else "not_ready"
        reason = source(state, now)["error"] if not state.ok else None if alive else "no node is alive"
        return {
            "name": "ray",
            "address": "by way of ray-executor",
            "state": word,
            "reason": reason,
            "age_seconds": source(state, now)["age_seconds"],
            "version": cluster["ray_version"] if cluster else None,
        }

    def _on_ready(self, ready: bool) -> None:
        if not ready and self._live_at is not None:
            self._live_at = self._sources.now()


def deliberation(one: Deliberation, active: Sequence[Json] = ()) -> Json:
    """One deliberation. `score` is the winner's; `active` are the jobs of all that the executor runs now; `phase` is the
    furthest that any job of it has reached."""
    end = one.end
    found = phases(one, active)
    return {
        "deliberation_id": one.deliberation_id,
        "plan_id": one.plan_id,
        "story_id": one.story_id,
        "task_id": one.task_id,
        "title": one.title,
        "role": one.role,
        "protocol": one.protocol,
        "numbers": one.numbers,
        "chosen_because": one.chosen_because or None,
        "state": one.state,
        "phase": found[-1]["phase"] if found else None,
        "phases": found,
        "deadline": iso(one.deadline),
        "ended_at": iso(end.at) if end else None,
        "agents": [agent(one.agents[agent_id]) for agent_id in sorted(one.agents)],
        "steps": [{"number": step.number, "name": step.name, "at": iso(one.steps.get(step.name))} for step in STEPS],
        "decision_id": (end.decision_id or None) if end else None,
        "decision_title": (end.title or None) if end else None,
        "superseded": one.superseded,
        "relies_on_superseded": list(one.relies_on_superseded),
        "winner": (end.winner or None) if end else None,
        "score": end.score if end else None,
        "margin": end.margin if end else None,
        "duration_seconds": end.duration_seconds if end else None,
        "flips": end.flips if end else None,
        "verdicts": end.verdicts if end else None,
        "skipped": [{"phase": phase, "reason": why} for phase, why in end.skipped] if end else [],
        "calls": end.calls if end else None,
        "tokens": end.tokens if end else None,
        "cached_tokens": end.cached if end else None,
        "reason": (end.reason or None) if end else None,
    }


def phases(one: Deliberation, active: Sequence[Json] = ()) -> list[Json]:
    """The phases that have jobs, in their order, with how many run, answered and failed."""
    counts: dict[str, Counter[str]] = {}
    for _, phase, status in one.jobs.values():
        counts.setdefault(phase, Counter())[status] += 1
    for job in active if one.end is None else ():
        if job["deliberation_id"] == one.deliberation_id and job["job_id"] not in one.jobs:
            counts.setdefault(str(job["phase"]), Counter())["running"] += 1
    order = sorted(counts, key=lambda phase: (PHASES.index(phase) if phase in PHASES else len(PHASES), phase))
    return [
        {"phase": phase, **{word: counts[phase][word] for word in ("running", "completed", "failed")}}
        for phase in order
    ]


def agent(one: Agent) -> Json:
    """One agent of a deliberation; `error` is why it failed or was not counted."""
    return {
        "agent_id": one.agent_id,
        "state": one.state,
        "tokens_text_tail": one.text,
        "error": one.error or None,
        "rank": one.rank,
        "score": one.score,
        "revised": one.revised,
        "phase": one.last.phase if one.last and not one.writing else None,
        "checks": [
            {"name": check.name, "status": check.status, "score": check.score, "detail": check.detail}
            for check in one.ended_checks or (one.checked.checks if one.checked else ())
        ],
        "tests": {word: sum(run.status == word for run in one.ran.runs) for word in ("passed", "failed", "not_run")}
        if one.ran
        else None,
    }


def line(one: Line) -> Json:
    """One entry of the event list; `malformed` is None for a good one."""
    return {
        "number": one.number,
        "at": iso(one.at),
        "stream": one.stream,
        "sequence": one.sequence,
        "subject": one.subject,
        "type": one.type,
        "summary": one.summary,
        "deliberation_id": one.deliberation_id or None,
        "plan_id": one.plan_id or None,
        "malformed": one.malformed or None,
    }
