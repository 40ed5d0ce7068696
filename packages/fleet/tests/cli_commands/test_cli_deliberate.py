"""`fleet deliberate`, `fleet deliberation …` and `fleet replay` against an orchestrator of the real protos."""

import json

import clievents
import cliservers
import msgspec
import pytest
from cliservers import Fleet

from fleet.cli import following
from fleet_wire import events, ids
from fleet_wire.gen.orchestrator.v1 import orchestrator_pb2 as pb

NAME = "delib-test"


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PAUSE_SECONDS", 0.05)


def changed(phase: str, state: str = "running", **more: object) -> pb.StreamDeliberationResponse:
    jobs = [pb.Job(agent_id=agent, job_id=f"job-{agent}-{phase}", phase=phase, state="running") for agent in ("a", "b")]
    jobs[0].state = "completed"
    values = {"protocol": "best_of_n", "numbers": {"testers": 2}, "chosen_because": "a code task", "jobs": jobs, **more}
    return pb.StreamDeliberationResponse(
        changed=pb.Deliberation(
            deliberation_id=NAME, state=state, phase=phase, tokens_spent=70, calls_spent=3, **values
        )
    )


def result(phase: str = "propose", **more: object) -> pb.StreamDeliberationResponse:
    event = events.AgentResult(
        job_id=f"job-{phase}",
        deliberation_id=NAME,
        task_id="t",
        agent_id=clievents.AGENTS[0],
        role="DEV",
        phase=phase,
        attempt=1,
        status="completed",
        **{"content": "def way(): pass\x1b[2J", **more},
    )
    return pb.StreamDeliberationResponse(result=events.encode(event))


def text(words: str) -> pb.StreamDeliberationResponse:
    return pb.StreamDeliberationResponse(text=pb.Text(agent_id=clievents.AGENTS[0], job_id="j", attempt=1, text=words))


def ended(event: events.Event) -> pb.StreamDeliberationResponse:
    return pb.StreamDeliberationResponse(outcome=events.encode(event))


def judged(name: str = NAME) -> events.DeliberationCompleted:
    check = events.Check(name="dry_run", status="not_run", detail="no sandbox")
    return msgspec.structs.replace(
        clievents.completed(name),
        protocol="peer_review",
        numbers={"critics": 2.0},
        chosen_because="an open task",
        ranking=[
            events.Ranked(agent_id=clievents.AGENTS[0], rank=1, score=1.5, checks=[check], content="c", revised=True)
        ],
        flips=1,
        verdicts=6,
        skipped=[events.SkippedPhase(phase="rerun", reason="no sandbox")],
        dissent=[events.Dissent(agent_id=clievents.AGENTS[1], content="not this way", argument="it is shorter")],
        calls=11,
        usage=events.Usage(prompt=900, completion=100),
    )


RUNS = [events.TestRun(test_id="t1-1", status="passed"), events.TestRun(test_id="t1-2", status="failed", detail="boom")]


async def test_deliberate_follows_phases_and_checks_to_the_winner(fleet: Fleet, services: cliservers.Services) -> None:
    lint = events.Check(name="lint", status="failed", score=0.5, detail="F401 unused")
    services.orchestrator.streams = [
        [
            *(changed(""), changed("propose"), text("def"), result(checks=[lint])),
            *(result("dry_run", content="", runs=RUNS), changed("dry_run"), ended(judged())),
        ]
    ]
    done = await fleet("deliberate", "Find [a] way", "--role", "dev", "--requirement", "r", "--timeout", "30")
    assert done.exit_code == 0, done.output
    for part in (
        clievents.AGENTS[0],
        "1.500",
        ids.decision_id(NAME),
        "not this way",
        "a judge for it: it is shorter",
        "def way(): pass␛[2J",
        "peer_review (critics 2)",
        "auto chose  an open task",
        "6, 1 flips",
        "rerun: no sandbox",
        "1000 tokens, 11 calls",
        "1. agent-DEV-001 (revised)",
        "dry_run: not_run (no sandbox)",
    ):
        assert part in done.stdout, part
    for part in (
        "running, by best_of_n (testers 2)\n",
        "best_of_n (testers 2) (auto: a code task): propose, 1 of 2 jobs ended, 70 tokens and 3 calls so far",
        "answered (propose, 0.0 s, 0 tokens) [lint failed]: def way(): pass␛[2J",
        "lint: F401 unused",
        "agent-DEV-001's proposal passed 1 of 2 tests",
        "t1-2: boom",
        ": dry_run, 1 of 2",
    ):
        assert part in done.stderr, part
    assert "\x1b" not in done.output
    [asked] = services.orchestrator.calls
    assert (asked.role, asked.title, list(asked.requirements)) == ("DEV", "Find [a] way", ["r"])
    assert asked.timeout_seconds == 30 and asked.request_id and not asked.HasField("budget")


async def test_deliberate_sends_protocol_numbers_budget_and_entry_point(
    fleet: Fleet, services: cliservers.Services
) -> None:
    options = "--protocol best_of_n --number testers=2 --number agents=5 --budget-tokens 4000 --budget-calls 9"
    more = "--budget-seconds 1.5 --entry-point slugify --no-wait"
    result = await fleet("deliberate", "x", "--role", "DEV", *options.split(), *more.split())
    assert result.exit_code == 0, result.output
    [asked] = services.orchestrator.calls
    assert (asked.protocol, dict(asked.numbers)) == ("best_of_n", {"testers": 2, "agents": 5})
    assert asked.budget == pb.Budget(tokens=4000, calls=9, seconds=1.5) and asked.entry_point == "slugify"


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--number testers", "--number must read NAME=VALUE"),
        ("--number testers=two", "--number must read NAME=VALUE, such as testers=2, not 'testers=two'"),
        ("--number testers=nan", "--number.testers must be a number from 0 up"),
        ("--number a=1 --number a=2", "--number gives 'a' twice"),
        ("--entry-point a-b", "--entry-point must be the name of a Python function"),
        ("--budget-tokens 3000000000", "--budget.tokens must be below"),
    ],
)
async def test_a_wrong_option_is_named_and_nothing_is_asked(
    fleet: Fleet, services: cliservers.Services, option: str, sentence: str
) -> None:
    result = await fleet("deliberate", "x", "--role", "DEV", *option.split())
    assert result.exit_code == 2 and sentence in result.stderr
    assert services.orchestrator.calls == []


async def test_deliberate_that_fails_is_exit_1_with_the_reason(fleet: Fleet, services: cliservers.Services) -> None:
    services.orchestrator.streams = [[ended(clievents.failed(NAME))]]
    result = await fleet("deliberate", "x", "--role", "DEV")
    assert result.exit_code == 1 and "quorum_missed; 0 of 2 answered" in result.stderr


async def test_a_stream_that_breaks_is_asked_for_again_and_nothing_is_told_twice(
    fleet: Fleet, services: cliservers.Services
) -> None:
    services.orchestrator.streams = [
        [changed("propose"), result()],
        [changed("propose"), result(), ended(clievents.completed(NAME))],
    ]
    done = await fleet("deliberation", "watch", NAME, "--json")
    assert done.exit_code == 0
    assert [json.loads(line)["kind"] for line in done.stdout.splitlines()] == ["changed", "result", "outcome"]
    assert "asking again: the orchestrator is stopping" in done.stderr


async def test_the_end_is_learnt_from_the_result_where_the_stream_ends_without_it(
    fleet: Fleet, services: cliservers.Services
) -> None:
    services.orchestrator.outcomes[NAME] = ("completed", events.encode(clievents.completed(NAME)))
    result = await fleet("deliberate", "x", "--role", "DEV", "--json")
    assert json.loads(result.stdout)["event"]["decision_id"] == ids.decision_id(NAME)
    assert result.exit_code == 0
    services.orchestrator.outcomes[NAME] = ("completed", b"")
    result = await fleet("deliberation", "watch", NAME)
    assert result.exit_code == 2 and "no longer kept" in result.stderr


async def test_deliberate_without_waiting_prints_the_id(fleet: Fleet) -> None:
    result = await fleet("deliberate", "x", "--role", "DEV", "--no-wait", "--json")
    assert json.loads(result.stdout) == {"deliberation_id": NAME, "state": "preparing"}


async def test_deliberate_names_a_missing_council_and_wrong_usage(fleet: Fleet) -> None:
    refused = await fleet("deliberate", "x", "--role", "DATA")
    assert refused.exit_code == 1 and "has no council" in refused.stderr
    assert (await fleet("deliberate", "x", "--role", "CHEF")).exit_code == 2
    assert (await fleet("deliberate", " ", "--role", "DEV")).exit_code == 2
    assert (await fleet("deliberate", "x")).exit_code == 2


async def test_watch_prints_the_text_only_where_all_is_asked_for(fleet: Fleet, services: cliservers.Services) -> None:
    stream = [changed("propose"), text("def \x1b[2J"), ended(clievents.failed(NAME))]
    services.orchestrator.streams = [list(stream), list(stream)]
    result = await fleet("deliberation", "watch", NAME, "--json", "--all")
    assert [json.loads(line)["kind"] for line in result.stdout.splitlines()] == ["changed", "text", "outcome"]
    assert result.exit_code == 1 and "\x1b" not in result.stdout
    assert json.loads(result.stdout.splitlines()[0])["deliberation"]["jobs"][0]["phase"] == "propose"
    assert '"text"' not in (await fleet("deliberation", "watch", NAME, "--json")).stdout


async def test_an_unknown_deliberation_is_exit_1(fleet: Fleet) -> None:
    for command in ("watch", "show"):
        result = await fleet("deliberation", command, "delib-none")
        assert result.exit_code == 1 and "there is no deliberation delib-none" in result.stderr
        assert "fleet deliberation list" in result.stderr


async def test_list_and_show_tell_state_phase_and_protocol(fleet: Fleet, services: cliservers.Services) -> None:
    result = await fleet("deliberation", "list", "--state", "running", "--plan", "p1")
    for part in (NAME, "running: judge", "tournament", "Slugs␛[2J"):
        assert part in result.stdout, part
    [asked] = services.orchestrator.calls
    assert (asked.state, asked.plan_id) == ("running", "p1")
    services.orchestrator.outcomes[NAME] = ("completed", events.encode(judged()))
    result = await fleet("deliberation", "show", NAME)
    assert "completed" in result.stdout and "a judge for it: it is shorter" in result.stdout
    shown = json.loads((await fleet("deliberation", "show", NAME, "--json")).stdout)
    assert shown["outcome"]["flips"] == 1 and shown["deliberation"]["state"] == "completed"


async def test_cancel_says_who_asked_and_is_refused_for_what_has_ended(
    fleet: Fleet, services: cliservers.Services
) -> None:
    result = await fleet("deliberation", "cancel", NAME, LOGNAME="somebody")
    assert result.exit_code == 0 and result.stdout == f"deliberation {NAME} is deciding\n"
    assert services.orchestrator.calls[0].reason == "by somebody"
    services.orchestrator.outcomes[NAME] = ("failed", b"")
    refused = await fleet("deliberation", "cancel", NAME, "--reason", "wrong question")
    assert refused.exit_code == 1 and "has ended: failed" in refused.stderr
    assert services.orchestrator.calls[1].reason == "wrong question"


async def test_replay_shows_both_decisions_and_how_often_the_model_was_asked(
    fleet: Fleet, services: cliservers.Services
) -> None:
    services.orchestrator.outcomes["delib-old"] = ("completed", events.encode(judged("delib-old")))
    again = msgspec.structs.replace(clievents.completed(NAME), protocol="vote", calls=0)
    services.orchestrator.streams = [[ended(again)], [ended(again)]]
    result = await fleet("replay", "delib-old", "--protocol", "vote", "--number", "similarity=0.8")
    assert result.exit_code == 0, result.output
    [asked] = services.orchestrator.calls
    assert (asked.replay_of, asked.protocol, dict(asked.numbers)) == ("delib-old", "vote", {"similarity": 0.8})
    assert (asked.role, asked.title, asked.description) == ("", "", "")
    for part in ("peer_review (critics 2)", "1 in 6 verdicts", "vote", "delib-old", NAME, "0.250 ahead of the next"):
        assert part in result.stdout, part
    assert "the same decision, with no call to the model" in result.stdout
    values = json.loads((await fleet("replay", "delib-old", "--protocol", "vote", "--json")).stdout)
    assert (values["model_calls"], values["same_content"]) == (0, True)
    assert values["before"]["event"]["protocol"] == "peer_review"


async def test_replay_wants_a_protocol_and_a_deliberation_that_has_ended(fleet: Fleet) -> None:
    result = await fleet("replay", NAME)
    assert result.exit_code == 2 and "--protocol must be given" in result.stderr
    result = await fleet("replay", NAME, "--protocol", "vote")
    assert result.exit_code == 1 and "has not ended yet" in result.stderr
