"""``odeformer doctor``: what is wrong with this machine, and what to do about it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from launcher.cli.options import AsJson, TrackingUri


def doctor(
    address: Annotated[
        str | None,
        typer.Option(
            envvar=["RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"],
            help="Of a Ray cluster to look at: host:6379, ray://host:10001 or http://host:8265.",
        ),
    ] = None,
    as_json: AsJson = False,
    tracking_uri: TrackingUri = None,
) -> None:
    """Look for what would break a run; exit code 1 if something would. Example: odeformer doctor"""
    from cluster.doctor import examine

    findings = []
    if as_json:
        findings = list(examine(address, tracking_uri))
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        from launcher.tables.doctor import line
        from launcher.terminal.console import make_console

        console = make_console()
        for finding in examine(address, tracking_uri):
            console.print(line(finding), soft_wrap=True)
            findings.append(finding)
    if any(finding.state == "failed" for finding in findings):
        raise typer.Exit(1)
