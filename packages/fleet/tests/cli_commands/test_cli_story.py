"""`fleet story …` against a gRPC server of the real protos."""

import json

import cliservers
from cliservers import Fleet


async def made(fleet: Fleet, *more: str) -> str:
    created = await fleet("story", "create", "Shorten [red]links", "--request-id", "request-12345678", "--json", *more)
    assert created.exit_code == 0, created.output
    return str(json.loads(created.stdout)["story_id"])


async def test_create_sends_everything_and_says_what_comes_next(fleet: Fleet, services: cliservers.Services) -> None:
    given = ["--brief", "b", "--acceptance", "one", "--acceptance", "two", "--phase", "test", "--by", "ana"]
    result = await fleet("story", "create", "Links", *given)
    assert result.exit_code == 0, result.output
    assert "is in BACKLOG" in result.stdout and "next: start_draft" in result.stdout
    [asked] = services.planning.calls
    assert (asked.title, asked.brief, list(asked.acceptance)) == ("Links", "b", ["one", "two"])
    assert (asked.phase, asked.actor) == ("test", "ana")
    assert asked.request_id


async def test_a_transition_is_asked_for_as_the_user_unless_told_otherwise(
    fleet: Fleet, services: cliservers.Services
) -> None:
    story_id = await made(fleet)
    result = await fleet("story", "transition", story_id, "start_draft", "--reason", "now", LOGNAME="somebody")
    assert result.stdout == f"story {story_id} is in DRAFT\nnext: approve_scope, reject_scope\n"
    asked = services.planning.calls[-1]
    assert (asked.event, asked.actor, asked.reason) == ("start_draft", "somebody", "now")
    assert asked.request_id.startswith("cli-")


async def test_a_transition_that_is_not_allowed_is_exit_1_with_what_is(fleet: Fleet) -> None:
    story_id = await made(fleet)
    result = await fleet("story", "transition", story_id, "docs_ready", "--by", "ana")
    assert result.exit_code == 1
    assert "allowed: start_draft" in result.stderr and "`fleet story show ID`" in result.stderr
    malformed = await fleet("story", "transition", "a/b", "docs_ready")
    assert malformed.exit_code == 2 and "ID must match" in malformed.stderr and "--help" in malformed.stderr
    unknown = await fleet("story", "transition", "story-9", "docs_ready")
    assert unknown.exit_code == 1 and "`fleet story list`" in unknown.stderr


async def test_show_prints_plans_and_transitions_and_nothing_that_steers_the_terminal(
    fleet: Fleet, services: cliservers.Services
) -> None:
    story_id = await made(fleet, "--brief", "a \x1b[31mbrief")
    await fleet("story", "transition", story_id, "start_draft", "--by", "ana", "--reason", "a \x1b[2Jreason")
    services.planning.stories[story_id].plans.add(plan_id="plan-7", plan_version=2, state="superseded")
    shown = (await fleet("story", "show", story_id)).stdout
    for part in (
        "Shorten [red]links",
        "␛[31mbrief",
        "DRAFT",
        "start_draft",
        "ana",
        "␛[2Jreason",
        "plan-7",
        "superseded",
    ):
        assert part in shown, part
    assert "\x1b" not in shown
    as_json = json.loads((await fleet("story", "show", story_id, "--json")).stdout)
    assert as_json["story"]["transitions"][0]["actor"] == "ana"


async def test_list_filters_by_state_and_names_every_story(fleet: Fleet, services: cliservers.Services) -> None:
    assert "there is no such story" in (await fleet("story", "list")).stdout
    story_id = await made(fleet)
    listed = await fleet("story", "list", "--state", "backlog", "--limit", "7")
    assert story_id in listed.stdout and "BACKLOG" in listed.stdout
    assert (services.planning.calls[-1].state, services.planning.calls[-1].page_size) == ("BACKLOG", 7)
    assert json.loads((await fleet("story", "list", "--json")).stdout)["story_id"] == story_id
