"""How commands change the memory: one change a call, applied or refused."""

from pathlib import Path
from typing import Annotated

import typer

from fleet.cli import client, safe
from fleet.cli.client import DONE, RPC_SECONDS
from fleet.cli.options import request_id_of
from fleet_wire.errors import AlreadyExists, FleetError, Invalid, NotFound, Precondition
from fleet_wire.gen.context.v1 import context_pb2
from fleet_wire.rpc import call

By = Annotated[str, typer.Option("--by", metavar="NAME", help="Who says so; your user name unless given.")]
RequestId = Annotated[
    str, typer.Option(help="Makes a repeated call safe: it has its effect once. Random unless given.")
]

HINTS: client.Hints = {
    NotFound: "`fleet decisions list` names the decisions there are, `fleet story list` the stories",
    AlreadyExists: "the same --request-id was used for something else: take a new one",
}
_ERRORS: dict[str, type[FleetError]] = {
    "invalid": Invalid,
    "not_found": NotFound,
    "precondition": Precondition,
    "already_exists": AlreadyExists,
}


async def change(to: client.Clients, asked: context_pb2.Change, by: str, request_id: str, as_json: bool) -> int:
    """Asks for the change and prints what became of it; raises what it was refused with."""
    request = context_pb2.UpdateContextRequest(
        request_id=request_id_of(request_id), actor=by or client.user_name(), changes=[asked]
    )
    answer = await call(to.context.UpdateContext(request, timeout=RPC_SECONDS), "context")
    [result] = answer.results
    error = None if result.applied else _ERRORS.get(result.code, Precondition)(result.message)
    if as_json:
        print(safe.json_line(result))
        return client.exit_code(error) if error else DONE
    if error:
        raise error
    print(f"{'decision' if result.id.startswith('dec-') else 'event'} {safe.line(result.id)} is in the graph")
    for word, found in (("supersedes", result.superseded), ("now relies on what is superseded", result.flagged)):
        for decision in found:
            print(f"{word}: {safe.line(decision)}")
    for story in result.stories:
        print(f"story {safe.line(story.story_id)} is at version {story.version}")
    return DONE


def text_of(field: str, file: Path) -> str:
    """What a file says; raises Invalid where it cannot be read as text."""
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{field}: {file} cannot be read: {error}") from error
