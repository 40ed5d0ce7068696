"""One service in this process: what `fleet serve NAME` and the local stack run. `python -m fleet.local.serve NAME`."""

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from fleet_wire.errors import Invalid

SERVICES = ("planning", "orchestrator", "context", "monitoring", "ray-executor")
REPOSITORY = Path(__file__).parents[5]


def executor_python(environment: Mapping[str, str] = os.environ, repository: Path = REPOSITORY) -> Path:
    """The interpreter of the executor's environment: FLEET_EXECUTOR_PYTHON, or .venv-executor of the repository or here.
    Raises Invalid where there is none."""
    given = environment.get("FLEET_EXECUTOR_PYTHON")
    places = [Path(given)] if given else [root / ".venv-executor/bin/python" for root in (repository, Path.cwd())]
    for place in places:
        if os.access(place, os.X_OK):
            return place.absolute()
    raise Invalid(
        f"the executor's Python is not at {places[0]}: run `scripts/setup`, or set FLEET_EXECUTOR_PYTHON to the Python "
        "that has fleet-executor and the Ray of the cluster"
    )


def serve(name: str) -> int:
    """Runs the service until it ends; its exit code. Raises Invalid for an unknown name. The executor, which has another
    Python, takes this process's place."""
    if name not in SERVICES:
        raise Invalid(f"NAME must be one of {', '.join(SERVICES)}, not {name[:80]!r}")
    if name == "ray-executor":
        python = executor_python()
        os.execv(python, [str(python), "-m", "fleet_executor"])
    main = importlib.import_module(f"fleet.{name}.main").main
    return int(main())


if __name__ == "__main__":
    raise SystemExit(serve(sys.argv[1]))
