"""`fleet story …`: what the team wants, and how far it is."""

from typing import Annotated

import typer

from fleet.cli import client, safe, show
from fleet.cli.addresses import addresses
from fleet.cli.client import DONE, RPC_SECONDS
from fleet.cli.options import AsJson, request_id_of
from fleet_wire import ids
from fleet_wire.errors import AlreadyExists, Invalid, NotFound, Precondition
from fleet_wire.gen.planning.v1 import planning_pb2
from fleet_wire.rpc import call

app = typer.Typer(help="Create stories, look at them, and lead them from state to state.", no_args_is_help=True)

HINTS: client.Hints = {
    NotFound: "`fleet story list` names the stories there are",
    Invalid: "`fleet story COMMAND --help` tells what it takes",
    Precondition: "`fleet story show ID` tells its state and its plans",
    AlreadyExists: "the same --request-id was used for something else: take a new one",
}

StoryId = Annotated[str, typer.Argument(metavar="ID", help="The story's id.")]
RequestId = Annotated[
    str, typer.Option(help="Makes a repeated call safe: it has its effect once. Random unless given.")
]
By = Annotated[str, typer.Option("--by", metavar="NAME", help="Who asks; your user name unless given.")]


@app.command()
def create(
    title: Annotated[str, typer.Argument(metavar="TITLE", help="A short name.")],
    brief: Annotated[str, typer.Option(help="What is wanted, and for whom.")] = "",
    acceptance: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="How one sees that it is done; may be given several times.")
    ] = None,
    phase: Annotated[str, typer.Option(help="What its councils work on: design, build, test or operate.")] = "build",
    request_id: RequestId = "",
    by: By = "",
    as_json: AsJson = False,
) -> None:
    """Create a story, in the state BACKLOG.

    Example:  fleet story create "Rate limit" --brief "So that nobody starves the others" --acceptance "429 above it"
    """

    async def main() -> int:
        asked = planning_pb2.CreateStoryRequest(
            request_id=request_id_of(request_id),
            title=title,
            brief=brief,
            acceptance=acceptance or [],
            phase=phase,
            actor=by or client.user_name(),
        )
        async with client.clients(addresses()) as to:
            answer = await call(to.planning.CreateStory(asked, timeout=RPC_SECONDS), "planning")
        _print_state(answer.story, as_json)
        return DONE

    client.run(main, HINTS)


@app.command("list")
def list_stories(
    state: Annotated[str, typer.Option(help="Only stories in this state: BACKLOG, DRAFT, ...")] = "",
    limit: Annotated[int, typer.Option(min=1, max=500, help="Stories to show, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List stories, newest first.

    Example:  fleet story list --state DESIGN
    """

    async def main() -> int:
        asked = planning_pb2.ListStoriesRequest(page_size=limit, state=state.upper())
        async with client.clients(addresses()) as to:
            answer = await call(to.planning.ListStories(asked, timeout=RPC_SECONDS), "planning")
        if as_json:
            for story in answer.stories:
                print(safe.json_line(story))
        elif answer.stories:
            safe.console().print(show.stories(answer.stories))
        else:
            print("there is no such story; `fleet story create TITLE` makes one")
        return DONE

    client.run(main, HINTS)


@app.command("show")
def show_story(story_id: StoryId, as_json: AsJson = False) -> None:
    """Show a story with its plans, the transitions it made, and the events that its state allows.

    Example:  fleet story show story-3f2a
    """

    async def main() -> int:
        asked = planning_pb2.GetStoryRequest(story_id=ids.check_id("ID", story_id))
        async with client.clients(addresses()) as to:
            answer = await call(to.planning.GetStory(asked, timeout=RPC_SECONDS), "planning")
        if as_json:
            print(safe.json_line(answer))
        else:
            safe.console().print(show.story(answer.story))
        return DONE

    client.run(main, HINTS)


@app.command()
def transition(
    story_id: StoryId,
    event: Annotated[str, typer.Argument(metavar="EVENT", help="Such as approve_scope; one that its state allows.")],
    reason: Annotated[str, typer.Option(help="Why; a rejection needs one.")] = "",
    request_id: RequestId = "",
    by: By = "",
    as_json: AsJson = False,
) -> None:
    """Lead a story to another state, by the name of the event. What is not allowed is refused with what is.

    Examples:  fleet story transition story-3f2a approve_scope --by "the product owner"
               fleet story transition story-3f2a qa_failed --reason "the limit is per process"
    """

    async def main() -> int:
        asked = planning_pb2.TransitionStoryRequest(
            request_id=request_id_of(request_id),
            story_id=ids.check_id("ID", story_id),
            event=event,
            actor=by or client.user_name(),
            reason=reason,
        )
        async with client.clients(addresses()) as to:
            answer = await call(to.planning.TransitionStory(asked, timeout=RPC_SECONDS), "planning")
        _print_state(answer.story, as_json)
        return DONE

    client.run(main, HINTS)


def _print_state(story: planning_pb2.Story, as_json: bool) -> None:
    if as_json:
        print(safe.json_line(story))
    else:
        print(f"story {safe.line(story.story_id)} is in {safe.line(story.state)}")
        print(f"next: {show.allowed(story)}")
