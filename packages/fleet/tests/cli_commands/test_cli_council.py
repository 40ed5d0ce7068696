"""`fleet council …`, `fleet task …`, and what `fleet plan` asks of the orchestrator."""

import json

import cliservers
from cliservers import Fleet


async def test_a_council_is_made_with_its_protocol_and_numbers_listed_and_removed(
    fleet: Fleet, services: cliservers.Services
) -> None:
    made = await fleet(
        "council", "create", "dev", "--agents", "5", "--protocol", "tournament", "--number", "finalists=3"
    )
    assert made.exit_code == 0 and "tournament (finalists 3)" in made.stdout
    [asked] = services.orchestrator.calls
    assert (asked.role, asked.agents, dict(asked.numbers)) == ("DEV", 5, {"finalists": 3})
    again = await fleet("council", "create", "DEV")
    assert again.exit_code == 1 and "fleet council delete ROLE" in again.stderr
    listed = await fleet("council", "list", "--json")
    assert json.loads(listed.stdout)["numbers"] == {"finalists": 3}
    assert (await fleet("council", "delete", "DEV")).stdout == "council DEV is removed\n"
    assert "there is no council" in (await fleet("council", "list")).stdout
    assert (await fleet("council", "delete", "DEV")).exit_code == 1
    assert (await fleet("council", "create", "CHEF")).exit_code == 2


async def test_retry_names_the_next_try_and_who_waits_again(fleet: Fleet, services: cliservers.Services) -> None:
    result = await fleet("task", "retry", "plan-1", "one")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "task one: try 2 is deliberation delib-2",
        "waiting again: two",
        "next: fleet deliberation watch delib-2",
    ]
    assert json.loads((await fleet("task", "retry", "plan-1", "one", "--json")).stdout)["number"] == 2
    refused = await fleet("task", "retry", "plan-1", "two")
    assert (
        refused.exit_code == 1 and "task two is decided" in refused.stderr and "fleet plan progress" in refused.stderr
    )


async def test_a_plan_is_cancelled_with_what_that_did(fleet: Fleet, services: cliservers.Services) -> None:
    result = await fleet("plan", "cancel", "plan-1", "--reason", "withdrawn")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[:2] == ["cancelled: one", "skipped: two, three"]
    assert services.orchestrator.calls[0].reason == "withdrawn"
    refused = await fleet("plan", "cancel", "plan-2")
    assert refused.exit_code == 1 and "has ended" in refused.stderr


async def test_progress_shows_each_task_with_its_try_and_why(fleet: Fleet) -> None:
    result = await fleet("plan", "progress", "plan-1")
    for part in ("completed, round 2", "9000 tokens", "one", "failed", "delib-1", "quorum_missed"):
        assert part in result.stdout, part
    assert json.loads((await fleet("plan", "progress", "plan-1", "--json")).stdout)["tasks"][0]["number"] == 2
    unknown = await fleet("plan", "progress", "plan-9")
    assert unknown.exit_code == 1 and "fleet plan show ID" in unknown.stderr
