"""What the checks of this folder share."""

import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
VENV = REPOSITORY / ".venv/bin"
CONTROL_PLANE = [REPOSITORY / "packages/fleet/src/fleet", REPOSITORY / "packages/wire/src/fleet_wire"]
EXECUTOR = REPOSITORY / "packages/executor/src/fleet_executor"


def run(*command: object) -> None:
    """Runs a tool in the repository; its own words are the failure."""
    done = subprocess.run([str(word) for word in command], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"\n{done.stdout}{done.stderr}"


def sources(*folders: Path) -> list[Path]:
    """Python files written by hand."""
    found = [path for folder in folders for path in sorted(folder.rglob("*.py")) if "gen" not in path.parts]
    assert found, f"no sources in {folders}"
    return found


def committed() -> list[Path]:
    """Files of the repository, those not committed yet included."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return [REPOSITORY / name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).is_file()]
