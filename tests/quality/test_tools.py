"""Linters, types and contracts: each tool as one test, with the configuration of pyproject.toml."""

from conftest import REPOSITORY, VENV, run


def test_the_code_is_formatted() -> None:
    run(VENV / "ruff", "format", "--check", "--quiet", ".")


def test_the_linter_finds_nothing() -> None:
    run(VENV / "ruff", "check", "--quiet", "--output-format", "concise", ".")


def test_the_types_hold() -> None:
    run(VENV / "mypy")


def test_the_protos_are_well_formed() -> None:
    run(VENV / "buf", "lint", "specs")


def test_no_proto_breaks_what_clients_use() -> None:
    """After an addition: scripts/baseline."""
    run(VENV / "buf", "breaking", "specs", "--against", REPOSITORY / "specs/baseline.binpb")


def test_the_floors_of_the_house_hold() -> None:
    run(VENV / "lint-imports", "--no-cache")
