"""The command ``odeformer doctor``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from typer import Option

from launcher.cli.options import AsJson, TrackingUri
from launcher.cli.output import say


def doctor(
    address: Annotated[
        str | None,
        Option(
            envvar=["RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"],
            help="Ray cluster to check as well: host:6379, ray://host:10001 or http://host:8265.",
        ),
    ] = None,
    as_json: AsJson = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Check this machine for problems; exit code 1 if a run would fail.

    Example: odeformer doctor
    """
    from cluster.doctor import examine
    from launcher.tables.doctor import line

    findings = []
    for finding in examine(address, tracking_uri):
        findings.append(finding)
        if not as_json:
            say(line(finding))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    if any(finding.state == "failed" for finding in findings):
        raise typer.Exit(1)
