"""Answers that must be JSON of a certain form: asked for so, validated all the same, and repaired at most once.

The schemas are JSON Schema, validated with `jsonschema`: the reference implementation, and on every node of a Ray cluster
anyway, since Ray itself needs it.
"""

import functools
import json
import re
from collections.abc import Callable
from typing import Any

import msgspec

from fleet_executor.jobs import JobSpec, Message
from fleet_executor.vllm import Answer, ModelClient, ModelError, Spent
from fleet_wire.errors import Invalid
from fleet_wire.events import JobError
from fleet_wire.fence import fenced, harmless

_ELSEWHERE = re.compile(r'"\$(?:dynamicRef|ref)": "(?!#)')
_AGAIN = "Your answer was not of the form asked for; what is wrong stands above. Answer again, with the JSON only."
SHOWN_CHARS = 16_000
"""Of a bad answer, in the prompt that asks for a better one."""


class BadAnswer(Exception):
    """No answer of the form that was asked for came, also not the second time. `answer` is the last one."""

    def __init__(self, answer: Answer, reason: str) -> None:
        super().__init__(reason)
        self.answer = answer

    def job_error(self) -> JobError:
        return JobError(kind="schema", message=str(self)[:1000], retryable=False)


async def ask(
    client: ModelClient, spec: JobSpec, on_text: Callable[[str], None], spent: Spent, stopped: Callable[[], bool]
) -> Answer:
    """The model's answer to the job, see `ModelClient.complete`. Raises ModelError, and BadAnswer where a schema is asked for
    and not fulfilled."""
    answer = await client.complete(spec, on_text, spent, stopped)
    problem = wrong(spec.response_schema, answer.text) if spec.response_schema else ""
    if not problem:
        return answer
    on_text("\n")
    again = [
        *spec.messages,
        Message(role="assistant", content=_shown(answer.text)),
        Message(role="user", content=f"{fenced([('what is wrong', problem)])}\n\n{_AGAIN}"),
    ]
    try:
        repaired = await client.complete(msgspec.structs.replace(spec, messages=again), on_text, spent, stopped)
    except ModelError as error:
        raise BadAnswer(answer, f"{problem} The attempt to repair it failed: {error.message}") from error
    repaired = msgspec.structs.replace(repaired, first_token_seconds=answer.first_token_seconds)
    still = wrong(spec.response_schema, repaired.text)
    if still:
        raise BadAnswer(repaired, still)
    return repaired


def wrong(schema: str, answer: str) -> str:
    """What is wrong with an answer, in a sentence; empty where it fulfils the schema."""
    from jsonschema.exceptions import best_match

    try:
        value = json.loads(answer, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        return f"it is no JSON: {str(error)[:200]}."
    try:
        worst = best_match(_validator(schema).iter_errors(value))
    except RecursionError:
        return "it is nested too deeply."
    return f"at {worst.json_path}, {_short(worst.message)}." if worst else ""


def check_schema(schema: str) -> None:
    """Raises Invalid for what is no JSON Schema (draft 2020-12) of an object."""
    if _validator(schema).schema.get("type") != "object":
        raise Invalid('must have "type": "object" at its top')


@functools.lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from referencing import Registry

    try:
        decoded = json.loads(schema, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"is no JSON: {str(error)[:200]}") from error
    if not isinstance(decoded, dict):
        raise Invalid("must be an object")
    if _ELSEWHERE.search(json.dumps(decoded)):
        raise Invalid("must hold no $ref to another document")
    try:
        Draft202012Validator.check_schema(decoded)
    except (SchemaError, RecursionError) as error:
        raise Invalid(f"is no JSON Schema: {_short(getattr(error, 'message', str(error)))}") from error
    # With a registry of its own it fetches nothing that a $ref may name.
    return Draft202012Validator(decoded, registry=Registry())


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _short(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:200]} … {text[-90:]}"


def _shown(answer: str) -> str:
    """Cut and made harmless, since the text goes back into a prompt."""
    return harmless(answer[:SHOWN_CHARS])
