"""The JSON Schema of a plan file, made of the types in `shape`: what editors and other programs read instead of this code.

`python -m fleet.planfile.schema` prints it (specs/plan.schema.json).
"""

import json
from typing import Any

import msgspec

from fleet.deliberation.protocols import any_numbers
from fleet.planfile.shape import PlanFile
from fleet_wire.asyncapi import tidy

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """The JSON Schema of a plan file. What it cannot say (which task depends on which) only `checking` knows."""
    found: dict[str, Any] = tidy(msgspec.json.schema(PlanFile))
    definitions = found["$defs"]
    definitions["Task"]["properties"]["numbers"].update(properties=_numbers(), additionalProperties=False)
    top = definitions.pop("PlanFile")
    top["title"] = "Plan"
    some, none = {"minItems": 1}, {"maxItems": 0}
    top["oneOf"] = [
        {"required": [one], "properties": {one: some, other: none}}
        for one, other in (("tasks", "roles"), ("roles", "tasks"))
    ]
    return {"$schema": DIALECT, **top, "$defs": definitions}


def text() -> str:
    """The schema as it is committed."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _numbers() -> dict[str, Any]:
    return {
        name: {
            "type": "integer" if number.whole else "number",
            "minimum": number.least,
            "maximum": number.most,
            "description": f"{number.meaning[:1].upper()}{number.meaning[1:]}.",
        }
        for name, number in sorted(any_numbers().items())
    }


if __name__ == "__main__":
    print(text(), end="")
