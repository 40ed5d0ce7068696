"""`fleet status`: every part and service, asked now."""

import os
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from fleet.cli import client, safe
from fleet.local.survey import Finding, survey

STYLES = {"ready": "green", "not_ready": "yellow", "unreachable": "red"}


def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """Show where every part and service is, whether it is ready or why not, and its version.

    Asks those of the stack that runs in this folder, or those that the environment names. Ends with 0 only if all are ready,
    else with 1.

    Examples:  fleet status
               fleet status --json
    """

    async def main() -> int:
        findings = await survey(os.environ)
        ready = all(finding.ready for finding in findings)
        if as_json:
            print(safe.json_line({"ready": ready, "parts": [as_dict(finding) for finding in findings]}))
        else:
            console = safe.console()
            console.print(table(findings))
            for finding in findings:
                if finding.reason:
                    console.print(safe.text(safe.line(f"{finding.name}: {finding.reason}", 600)), soft_wrap=True)
        return client.DONE if ready else client.REFUSED

    client.run(main)


def as_dict(finding: Finding) -> dict[str, str | None]:
    """What `--json` prints of a part; a version that is not known is null."""
    return {
        "name": finding.name,
        "address": finding.address,
        "state": finding.state,
        "reason": finding.reason,
        "version": finding.version or None,
    }


def table(findings: list[Finding]) -> Table:
    """The findings as people read them."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("part", "state", "address", "version"):
        shown.add_column(name, no_wrap=name != "version", overflow="fold")
    for finding in findings:
        shown.add_row(
            Text(finding.name, "bold"),
            Text(finding.state.replace("_", " "), STYLES[finding.state]),
            safe.text(finding.address),
            safe.text(finding.version),
        )
    return shown
