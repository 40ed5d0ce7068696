"""Plans as YAML files: a story, and tasks with roles and dependencies (or only roles: one task each on the story itself).

    story:
      title: A short name                     # required
      brief: What is wanted, and for whom     # required
      acceptance: [How one sees that it is done]
      phase: build                            # design, build (the default), test or operate
    tasks:
      - task_id: retry                        # [A-Za-z0-9_-]{1,64}, unique in the file
        title: A short name                   # required
        description: What to decide           # required
        role: DEV                             # DEV, QA, ARCHITECT, DEVOPS or DATA
        requirements: [What an answer must deal with]
        acceptance: [How one sees that it is done]
        depends_on: [another-task]
        protocol: best_of_n                   # or single, vote, tournament, peer_review, auto; the council's own unless given
        numbers: {testers: 2}                 # of the protocol; those not named have their defaults
        budget: {tokens: 40000, calls: 20, seconds: 300}     # what may be spent at most; no limit unless given
        entry_point: slugify                  # the function that a code task asks for
    budget: {tokens: 200000}                  # of all tasks together

An unknown key is an error: a misspelt `depends-on` must not run tasks in another order than meant.
"""

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec
import yaml
from msgspec import Meta, Struct

from fleet.deliberation.plan_rules import PROTOCOL_PATTERN, check_order
from fleet.planmessages import budget_message, check_budget, check_how, task_message
from fleet_wire import events
from fleet_wire.errors import Invalid, NotFound
from fleet_wire.events import Id, Role, StoryPhase
from fleet_wire.gen.planning.v1 import planning_pb2, planning_pb2_grpc
from fleet_wire.ids import ID_PATTERN, ROLES
from fleet_wire.rpc import call

TEST_CASES = ("basic", "medium", "complex")
MAX_FILE_BYTES = 1024 * 1024
RPC_SECONDS = 10.0
"""How long planning may take for one call of `submit`."""

Text = Annotated[str, Meta(min_length=1, pattern=r"\S")]
Protocol = Annotated[str, Meta(pattern=PROTOCOL_PATTERN)]


class Story(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the team wants."""

    title: Text
    brief: Text
    acceptance: list[Text] = []
    phase: StoryPhase = "build"


class Budget(events.Budget, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be spent at most."""


class Task(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing that a council decides."""

    task_id: Id
    title: Text
    description: Text
    role: Role
    requirements: list[Text] = []
    acceptance: list[Text] = []
    depends_on: list[Id] = []
    protocol: Protocol | None = None
    numbers: dict[str, float] = {}
    budget: Budget = Budget()
    entry_point: str = ""


class PlanFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A plan as its file says it: either tasks or roles."""

    story: Story
    tasks: list[Task] = []
    roles: list[Role] = []
    budget: Budget = Budget()


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, refusing what would silently lose or grow data: a key given twice, and aliases."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not allowed here", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value[:80]!r} stands here a second time", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def load(path: str | Path) -> PlanFile:
    """The plan in a file; raises Invalid naming the file, the line or key, and what is wrong."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            body = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror or error}") from error
    if len(body) > MAX_FILE_BYTES:
        raise Invalid(f"{path} is above the limit of {MAX_FILE_BYTES} bytes for a plan file")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Invalid(f"{path} is not UTF-8 text: byte {error.start} does not fit") from error
    return parse(text, str(path))


def parse(text: str, name: str) -> PlanFile:
    """The plan in a text; `name` stands in the errors where a file's name would. Raises Invalid."""
    try:
        # _Loader is a SafeLoader: it makes plain values only.
        data = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise Invalid(f"{name}{line}: {error.problem or error.context or 'not YAML'}") from error
    except yaml.YAMLError as error:
        raise Invalid(f"{name}: not YAML: {' '.join(str(error).split())}") from error
    except (ValueError, RecursionError) as error:  # such as a date that does not exist, or brackets without end
        raise Invalid(f"{name}: not YAML that can be read: {' '.join(str(error).split())}") from error
    try:
        plan = msgspec.convert(data, PlanFile)
    except msgspec.ValidationError as error:
        raise Invalid(f"{name}: {_sentence(str(error))}") from error
    _check_tasks(plan, name)
    return plan


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
    story = await call(
        planning.CreateStory(
            planning_pb2.CreateStoryRequest(
                request_id=request_id,
                title=plan.story.title,
                brief=plan.story.brief,
                acceptance=plan.story.acceptance,
                phase=plan.story.phase,
                actor=actor,
            ),
            timeout=RPC_SECONDS,
        ),
        "planning",
    )
    tasks = [task_message(_plan_task(task)) for task in plan.tasks]
    proposed = await call(
        planning.ProposePlan(
            planning_pb2.ProposePlanRequest(
                request_id=request_id,
                story_id=story.story.story_id,
                roles=plan.roles,
                tasks=tasks,
                budget=budget_message(plan.budget, planning_pb2.Budget),
            ),
            timeout=RPC_SECONDS,
        ),
        "planning",
    )
    return story.story.story_id, proposed.plan.plan_id


def _plan_task(task: Task) -> events.PlanTask:
    return msgspec.convert(task, events.PlanTask, from_attributes=True)


def _check_tasks(plan: PlanFile, name: str) -> None:
    if bool(plan.tasks) == bool(plan.roles):
        have = "both tasks and roles" if plan.tasks else "neither tasks nor roles"
        raise Invalid(f"{name}: it has {have}; give one of them")
    repeated = _first_repeated([task.task_id for task in plan.tasks])
    if repeated:
        raise Invalid(f"{name}: the task_id {repeated!r} stands in it more than once")
    role = _first_repeated(list(plan.roles))
    if role:
        raise Invalid(f"{name}: roles names {role} more than once")
    try:
        for index, task in enumerate(plan.tasks):
            check_how(f"tasks[{index}]", _plan_task(task))
        check_budget("budget", plan.budget)
        check_order({task.task_id: task.depends_on for task in plan.tasks})
    except Invalid as error:
        raise Invalid(f"{name}: {error}") from error


def _first_repeated(values: list[Any]) -> Any | None:
    return next((value for index, value in enumerate(values) if value in values[:index]), None)


def _sentence(problem: str) -> str:
    """What msgspec says (`Object contains unknown field `x` - at `$.tasks[0]``) in the words of a plan file."""
    what, _, where = problem.partition(" - at `")
    where = where.rstrip("`").removeprefix("$").removeprefix(".")
    for theirs, ours in _WORDS.items():
        what = what.replace(theirs, ours)
    for key, values in (("role", ROLES), ("phase", get_args(StoryPhase))):
        if where.split(".")[-1].startswith(key) and what.startswith("Invalid enum value"):
            what = what.replace("Invalid enum value", "unknown value") + f"; take one of {', '.join(values)}"
    if what.startswith(("expected text, got a number", "expected text, got a truth value")):
        what += " (put it in quotes)"
    return f"{where}: {what}" if where else what


_WORDS = {
    "Object contains unknown field": "unknown key",
    "Object missing required field": "missing key",
    "Expected `str` matching regex '\\\\S'": "must not be empty",
    f"Expected `str` matching regex {ID_PATTERN!r}": "must match [A-Za-z0-9_-]{1,64}",
    f"Expected `str` matching regex {PROTOCOL_PATTERN!r}": "must match [a-z_]{1,32}",
    "Expected `str` of length >= 1": "must not be empty",
    "Expected `int` >= 0": "must be 0 or more",
    "Expected `float` >= 0.0": "must be 0 or more",
    "Expected `int`": "expected a whole number",
    "Expected `float`": "expected a number",
    "Expected `object`": "expected keys with values",
    "Expected `array`": "expected a list",
    "Expected `str`": "expected text",
    "got `object`": "got keys with values",
    "got `array`": "got a list",
    "got `str`": "got text",
    "got `int`": "got a number",
    "got `float`": "got a number",
    "got `bool`": "got a truth value",
    "got `null`": "got nothing",
}
