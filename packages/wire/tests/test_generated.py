"""What is generated and committed is what scripts/generate makes now."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

from fleet_wire import asyncapi

REPOSITORY = Path(__file__).parents[3]
STUBS = Path("fleet_wire/gen")


def test_the_committed_asyncapi_document_is_the_one_of_the_types() -> None:
    assert (REPOSITORY / "specs/asyncapi.yaml").read_text() == asyncapi.text(), "run scripts/generate"


@pytest.mark.skipif(not importlib.util.find_spec("grpc_tools"), reason="stubs are generated on the oldest line only")
def test_the_committed_stubs_are_those_of_the_protos(tmp_path: Path) -> None:
    subprocess.run([REPOSITORY / "scripts/generate", tmp_path], check=True)
    made = {path.relative_to(tmp_path): path.read_text() for path in (tmp_path / STUBS).rglob("*.py*")}
    source = REPOSITORY / "packages/wire/src"
    committed = {
        path.relative_to(source): path.read_text()
        for path in (source / STUBS).rglob("*.py*")
        if "__pycache__" not in path.parts
    }
    assert set(made) == set(committed)
    assert [path for path in made if made[path] != committed[path]] == [], "run scripts/generate"
    assert (tmp_path / "asyncapi.yaml").read_text() == (REPOSITORY / "specs/asyncapi.yaml").read_text()
