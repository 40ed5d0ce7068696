"""What runs on every node before the executor is ready: it proves that our code, and what it needs, imports there.

Nothing but the standard library is imported before the probe runs, so that what is missing becomes an answer.
"""

import importlib
import os
import platform
import sys
from importlib import metadata
from typing import Any, Optional

NEEDED = {
    "nats": "nats-py",
    "aiohttp": "aiohttp",
    "msgspec": "msgspec",
    "structlog": "structlog",
    "stamina": "stamina",
    "opentelemetry": "opentelemetry-api",
    "jsonschema": "jsonschema",
}


def probe(creds: Optional[str], sandbox_python: str = "") -> dict[str, Any]:
    """Versions, the hash of the code, a sentence for each problem, and why no sandbox can be made, or "" for `sandbox`: that
    is no problem, since all but a dry run works without. `creds` is the path of NATS_CREDS, if it is set."""
    problems, versions = [], {"python": platform.python_version()}
    for module, package in NEEDED.items():
        try:
            importlib.import_module(module)
            versions[package] = metadata.version(package)
        except (ImportError, metadata.PackageNotFoundError) as error:
            problems.append(f"lacks the package {package} ({error})")
    code = ""
    if not problems:
        try:
            importlib.import_module("fleet_executor.worker")
            from fleet_executor.config import code_hash

            code = code_hash()
        except Exception as error:  # noqa: BLE001 (whatever it is, the operator reads it as the reason)
            problems.append(f"cannot import fleet_executor.worker ({type(error).__name__}: {error})")
    if creds and not os.access(creds, os.R_OK):
        problems.append(f"cannot read {creds}, which NATS_CREDS names")
    return {"versions": versions, "code": code, "problems": problems, "sandbox": _sandbox(sandbox_python, problems)}


def _sandbox(python: str, problems: list[str]) -> str:
    if problems:
        return "not tried: our code does not run there"
    from fleet_executor.dryrun import why_not

    try:
        return why_not(python or sys.executable)
    except Exception as error:  # noqa: BLE001 (a node without a sandbox is no node without an executor)
        return f"{type(error).__name__}: {error}"
