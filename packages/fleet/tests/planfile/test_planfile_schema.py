"""The published schema of plan files: current, true to what is read, and met by every plan that comes with the product."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fleet import planfile
from fleet.planfile import schema
from fleet_wire.errors import Invalid

REPOSITORY = Path(__file__).parents[4]
PUBLISHED = REPOSITORY / "specs/plan.schema.json"
PLANS = sorted(
    [*(REPOSITORY / "examples").glob("*.yaml"), *(REPOSITORY / "packages/fleet/src/fleet/testcases").glob("*.yaml")]
)
VALIDATOR = jsonschema.Draft202012Validator(json.loads(PUBLISHED.read_text()))


def test_the_published_schema_is_the_one_of_the_types() -> None:
    assert PUBLISHED.read_text() == schema.text(), "run scripts/generate"
    jsonschema.Draft202012Validator.check_schema(schema.schema())


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.name)
def test_every_plan_that_comes_with_the_product_meets_it(path: Path) -> None:
    VALIDATOR.validate(yaml.safe_load(path.read_text()))
    planfile.load(path)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_tells_editors_where_the_schema_is(path: Path) -> None:
    first = path.read_text().split("\n")[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (path.parent / first.partition("=")[2]).resolve() == PUBLISHED


def test_every_key_is_described() -> None:
    for name in ("Story", "Task"):
        for key, one in schema.schema()["$defs"][name]["properties"].items():
            assert one["description"].endswith("."), key


BAD: list[dict[str, Any]] = [
    {},
    {"roles": []},
    {"roles": ["DEV"], "tasks": [{"task_id": "a", "title": "x", "description": "y", "role": "DEV"}]},
    {"roles": ["dev"]},
    {"roles": ["DEV", "DEV"]},
    {"roles": ["DEV"], "rolse": []},
    {"tasks": [{"task_id": "a", "title": "x", "description": "y", "role": "DEV", "depends-on": ["q"]}]},
    {"tasks": [{"task_id": "a b", "title": "x", "description": "y", "role": "DEV"}]},
    {"tasks": [{"task_id": "a", "title": "x", "description": "y", "role": "DEV", "protocol": "votes"}]},
    {"tasks": [{"task_id": "a", "title": "x", "description": "y", "role": "DEV", "numbers": {"tester": 1}}]},
    {"tasks": [{"task_id": "a", "title": "x", "description": "y", "role": "DEV", "budget": {"tokens": -1}}]},
]


@pytest.mark.parametrize("more", BAD)
def test_what_it_refuses_is_refused_when_it_is_read(more: dict[str, Any]) -> None:
    plan = {"story": {"title": "a", "brief": "b"}, **more}
    assert not VALIDATOR.is_valid(plan)
    with pytest.raises(Invalid):
        planfile.parse(yaml.safe_dump(plan), "a.yaml")


words = st.text(alphabet="abc é\n", min_size=1, max_size=6).filter(str.strip)
names = st.sampled_from(["a", "b", "c-1"])
tasks = st.fixed_dictionaries(
    {"task_id": names, "title": words, "description": words, "role": st.sampled_from(["DEV", "QA"])},
    optional={
        "requirements": st.lists(words, max_size=2),
        "depends_on": st.lists(names, max_size=2),
        "protocol": st.sampled_from(["auto", "vote", "tournament", "best_of_n"]) | st.none(),
        "numbers": st.dictionaries(st.sampled_from(["agents", "testers", "similarity"]), st.integers(0, 3), max_size=2),
        "budget": st.fixed_dictionaries({}, optional={"tokens": st.integers(0, 9), "seconds": st.floats(0, 9)}),
        "entry_point": st.sampled_from(["", "slugify", "a b"]),
    },
)


@given(st.lists(tasks, max_size=3), st.lists(st.sampled_from(["DEV", "QA"]), max_size=2))
def test_whatever_is_read_meets_it(some: list[Any], roles: list[str]) -> None:
    plan = {"story": {"title": "a", "brief": "b"}, "tasks": some, "roles": roles}
    try:
        read = planfile.parse(yaml.safe_dump(plan), "a.yaml")
    except Invalid:
        return
    VALIDATOR.validate(plan)
    VALIDATOR.validate(msgspec.to_builtins(read))
