"""Who may import what, where import-linter's contracts in pyproject.toml do not reach."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import CONTROL_PLANE, EXECUTOR, REPOSITORY, sources
from pydantic_settings import BaseSettings

import fleet

DELIBERATION = CONTROL_PLANE[0] / "deliberation"
IMPURE = {
    "asyncio", "time", "random", "uuid", "secrets", "os", "io", "pathlib", "socket", "subprocess", "threading", "tempfile",
    "urllib", "http", "logging",
}  # fmt: skip
CLOCKS = {"now", "utcnow", "today", "fromtimestamp", "monotonic", "open", "print", "input"}


def imported(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (str(word.value) for word in node.args if isinstance(word, ast.Constant))


def importers(package: str, *folders: Path) -> list[str]:
    return [
        str(path.relative_to(REPOSITORY))
        for path in sources(*folders)
        if any(name.split(".")[0] == package for name in imported(path))
    ]


def test_no_file_of_the_control_plane_imports_ray() -> None:
    assert importers("ray", *CONTROL_PLANE) == []


def test_no_file_of_the_control_plane_imports_the_executor() -> None:
    assert importers("fleet_executor", *CONTROL_PLANE) == []


def test_one_file_of_the_executor_imports_ray() -> None:
    assert importers("ray", EXECUTOR) == ["packages/executor/src/fleet_executor/cluster.py"]


def test_neither_wire_nor_executor_imports_the_control_plane() -> None:
    assert importers("fleet", EXECUTOR, CONTROL_PLANE[1]) == []


def test_ray_is_not_installed_beside_the_control_plane() -> None:
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('ray') is not None)"
    assert subprocess.run([REPOSITORY / ".venv/bin/python", "-c", code], check=False).returncode == 0


def test_every_room_of_the_control_plane_has_its_floor() -> None:
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    floors = next(contract for contract in contracts if contract["id"] == "floors")["layers"]
    named = {name for layer in floors for name in re.split(r"\s*[|:]\s*", layer)}
    assert {f"fleet.{module.name}" for module in pkgutil.iter_modules(fleet.__path__)} == named - {"fleet_wire"}


@pytest.mark.parametrize("path", sources(DELIBERATION), ids=lambda path: path.name)
def test_deliberation_imports_plain_values_only(path: Path) -> None:
    # `answers` reads code blocks out of a text, `redaction` takes secrets out of one, `fence` fences one: for the workers
    # and here alike, and pure.
    wire = tuple(f"fleet_wire.{name}" for name in ("answers", "errors", "events", "fence", "ids", "redaction"))
    allowed = ("fleet.deliberation", *wire, "msgspec")
    for name in imported(path):
        top = name.split(".")[0]
        assert any(f"{name}.".startswith(f"{one}.") for one in allowed) or top in sys.stdlib_module_names, name
        assert top not in IMPURE, name


@pytest.mark.parametrize("path", sources(DELIBERATION), ids=lambda path: path.name)
def test_deliberation_has_no_clock_no_waiting_and_no_io(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)), ast.unparse(node)
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func).split(".")[-1] not in CLOCKS, ast.unparse(node)


def settings() -> dict[str, set[str]]:
    """Variables of each settings model in the rooms of the control plane."""
    found = {}
    for path in sources(CONTROL_PLANE[0]):
        if "BaseSettings" in path.read_text() or re.search(r"class \w+\(.*(Settings)\b", path.read_text()):
            name = ".".join(path.relative_to(CONTROL_PLANE[0].parent).with_suffix("").parts)
            for kind in vars(importlib.import_module(name)).values():
                if inspect.isclass(kind) and issubclass(kind, BaseSettings) and kind.__module__ == name:
                    found[f"{name}.{kind.__name__}"] = {field.upper() for field in kind.model_fields}
    return found


def test_no_setting_of_the_control_plane_says_where_ray_is() -> None:
    found = settings()
    assert len(found) >= 5
    assert [name for name, variables in found.items() if "RAY_ADDRESS" in variables] == []


def test_only_the_local_stack_and_its_command_name_ray_address_to_hand_it_to_the_executor() -> None:
    pattern = re.compile(r"(?<![A-Za-z_])RAY_ADDRESS(?![A-Za-z_])")
    naming = {path for path in sources(*CONTROL_PLANE) if pattern.search(path.read_text())}
    others = {str(path.relative_to(CONTROL_PLANE[0])) for path in naming if "local" not in path.parts}
    assert others <= {"cli/up.py"}, "its help says what the stack takes from outside"


def test_wire_and_executor_compile_on_their_oldest_python() -> None:
    paths = [str(path) for path in sources(EXECUTOR, CONTROL_PLANE[1])]
    code = "import sys\nfor path in sys.argv[1:]: compile(open(path, encoding='utf-8').read(), path, 'exec')"
    python = REPOSITORY / ".venv-executor/bin/python"
    done = subprocess.run([python, "-c", code, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
