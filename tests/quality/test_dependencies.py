"""Every dependency that we name has its reason in docs/dependencies.md, and every reason its dependency."""

import re

from conftest import REPOSITORY


def named() -> set[str]:
    lines = [line for path in (REPOSITORY / "requirements").glob("*.in") for line in path.read_text().splitlines()]
    return {re.split(r"[\[=<>! ;]", line)[0] for line in lines if line and not line.startswith(("#", "-"))}


def explained() -> set[str]:
    rows = re.findall(r"^\| (`.*?) \|", (REPOSITORY / "docs/dependencies.md").read_text(), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_every_dependency_has_its_reason() -> None:
    assert named() - explained() == set()


def test_nothing_is_explained_that_is_gone() -> None:
    assert explained() - named() == set()
