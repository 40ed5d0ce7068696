"""Plans out of files, and what planning is told of them."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import msgspec

from fleet.planfile.checking import read_yaml
from fleet.planfile.issue import Issue, parse_issue
from fleet.planfile.shape import PlanFile, Story, Task
from fleet.planmessages import NO_LIMITS, budget_message, task_message
from fleet_wire import events
from fleet_wire.errors import Invalid, NotFound
from fleet_wire.gen.planning.v1 import planning_pb2, planning_pb2_grpc
from fleet_wire.rpc import call

TEST_CASES = ("basic", "medium", "complex")
MAX_FILE_BYTES = 1024 * 1024
RPC_SECONDS = 10.0
"""How long planning may take for one call."""
ISSUES = (".md", ".markdown")


def load(path: str | Path) -> PlanFile:
    """The plan in a YAML file; raises Invalid, or Problems with all that is wrong, each with line and column."""
    return parse(_text(Path(path)), str(path))


def parse(text: str, name: str) -> PlanFile:
    """The plan in a text of YAML; `name` stands in the errors where a file's name would. Raises Problems."""
    return read_yaml(text, name, PlanFile)


def is_issue(path: str | Path) -> bool:
    """Whether a file is Markdown by its name."""
    return Path(path).suffix.lower() in ISSUES


def load_issue(path: str | Path) -> Issue:
    """The story in a Markdown file; raises Invalid, or Problems with all that is wrong, each with line and column."""
    return parse_issue(_text(Path(path)), str(path))


def load_story(path: str | Path) -> Story:
    """The story of `load_issue` alone."""
    return load_issue(path).story


def load_test_case(name: str) -> PlanFile:
    """A plan that comes with the product; raises NotFound listing the names."""
    if name not in TEST_CASES:
        raise NotFound(f"there is no test case {name[:80]!r}; there are {', '.join(TEST_CASES)}")
    resource = resources.files("fleet") / "testcases" / f"{name}.yaml"
    return parse(resource.read_text(encoding="utf-8"), f"{name}.yaml")


async def submit(
    planning: "planning_pb2_grpc.PlanningServiceAsyncStub", plan: PlanFile, request_id: str, actor: str
) -> tuple[str, str]:
    """Creates the story and proposes the plan; answers with (story_id, plan_id).

    Safe to repeat with the same request_id. Raises what planning answers: Invalid, AlreadyExists, Unavailable.
    """
    story_id = await create_story(planning, plan.story, request_id, actor)
    proposed = await propose(planning, story_id, request_id, tasks=plan.tasks, roles=plan.roles, budget=plan.budget)
    return story_id, proposed.plan_id


async def create_story(
    planning: "planning_pb2_grpc.PlanningServiceAsyncStub", story: Story, request_id: str, actor: str
) -> str:
    """Creates a story; its id."""
    request = planning_pb2.CreateStoryRequest(
        request_id=request_id,
        title=story.title,
        brief=story.brief,
        acceptance=story.acceptance,
        phase=story.phase,
        actor=actor,
    )
    return (await call(planning.CreateStory(request, timeout=RPC_SECONDS), "planning")).story.story_id


async def propose(
    planning: "planning_pb2_grpc.PlanningServiceAsyncStub",
    story_id: str,
    request_id: str,
    *,
    tasks: Sequence[Task] = (),
    roles: Sequence[events.Role] = (),
    budget: events.Budget = NO_LIMITS,
) -> planning_pb2.Plan:
    """Proposes a plan for a story that is there; the plan as planning has it."""
    request = planning_pb2.ProposePlanRequest(
        request_id=request_id,
        story_id=story_id,
        roles=roles,
        tasks=[task_message(msgspec.convert(task, events.PlanTask, from_attributes=True)) for task in tasks],
        budget=budget_message(budget, planning_pb2.Budget),
    )
    return (await call(planning.ProposePlan(request, timeout=RPC_SECONDS), "planning")).plan


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            body = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror or error}") from error
    if len(body) > MAX_FILE_BYTES:
        raise Invalid(f"{path} is above the limit of {MAX_FILE_BYTES} bytes for a plan file")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise Invalid(f"{path}:{line}: not UTF-8 text: byte {error.start} does not fit") from error
