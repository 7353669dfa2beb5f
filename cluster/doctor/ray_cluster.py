"""Check of a Ray cluster and of the token for it."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path

from cluster.connection.connect import FINETUNE, PRETRAIN, host_and_port
from cluster.doctor.finding import Finding
from odeformer.files.user import home

NAME = "Ray"
ANSWER_SECONDS = 5.0
START = "start it, or correct the address (odeformer doctor --address); see docs/clusters.md"
TOKEN = "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=… as it was when the cluster was started"


def look(address: str | None) -> list[Finding]:
    """Check that a cluster answers, has the installed version, and offers resources for our workers."""
    installed = version("ray")
    if address is None:
        return [Finding(NAME, "ok", f"{installed}; no address: each command starts a private cluster")]
    if address in ("auto", "local"):
        return [Finding(NAME, "ok", f"{installed}; {address}: Ray finds the cluster itself")]
    target = host_and_port(address)
    if target is None:
        remedy = "give host:6379, ray://host:10001 or http://host:8265"
        return [Finding(NAME, "failed", f"{address} is not an address", remedy)]
    try:
        socket.create_connection(target, timeout=ANSWER_SECONDS).close()
    except OSError as error:
        return [Finding(NAME, "failed", f"nothing answers at {address} ({error})", START)]
    if address.startswith(("http://", "https://")):
        return [_dashboard(address, installed)]
    if "://" in address:  # asking a client port would need a session
        return [Finding(NAME, "ok", f"{installed}; {address} answers")]
    return [_cluster(address, installed)]


def token() -> list[Finding]:
    """Check Ray's token, and that other users of this machine cannot read it."""
    name, file = "Ray's token", _token_file()
    if file.is_file() and file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        remedy = f"chmod 600 {file}, and create a new token"
        return [Finding(name, "failed", f"{file} is readable by other users of this machine", remedy)]
    if os.environ.get("RAY_AUTH_TOKEN"):
        mode = os.environ.get("RAY_AUTH_MODE", "")
        if mode != "token":
            remedy = "export RAY_AUTH_MODE=token"
            return [Finding(name, "failed", f"RAY_AUTH_TOKEN is set, RAY_AUTH_MODE is {mode!r}", remedy)]
        return [Finding(name, "ok", "from RAY_AUTH_TOKEN")]
    if file.is_file():
        return [Finding(name, "ok", f"from {file}")]
    return [Finding(name, "ok", "none: a cluster started here creates its own")]


def _token_file() -> Path:
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or home() / ".ray" / "auth_token")


def _dashboard(address: str, installed: str) -> Finding:
    token = os.environ.get("RAY_AUTH_TOKEN") or (
        _token_file().read_text(encoding="utf-8").strip() if os.access(_token_file(), os.R_OK) else ""
    )
    request = urllib.request.Request(
        f"{address.rstrip('/')}/api/version", headers={"Authorization": f"Bearer {token}"} if token else {}
    )
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            running = str(json.load(answer)["ray_version"])
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return Finding(NAME, "failed", f"{address} refuses the token (HTTP {error.code})", TOKEN)
        return Finding(NAME, "failed", f"{address}: HTTP {error.code}", START)
    except (OSError, ValueError, KeyError) as error:
        return Finding(NAME, "failed", f"{address} is not a Ray dashboard ({error})", START)
    return _versions(address, installed, running)


CODE = """
import json, sys
from ray._common.usage.usage_lib import get_cluster_metadata
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    client = GcsClient(address=sys.argv[1])
except AuthenticationError:
    print(json.dumps({"refused": True}))
    raise SystemExit
nodes = [node for node in client.get_all_node_info().values() if node.state == 0]
places = {name: sum(dict(node.resources_total).get(name, 0) for node in nodes) for name in sys.argv[2:]}
running = get_cluster_metadata(client)["ray_version"]
print(json.dumps({"version": running, "nodes": len(nodes), "places": places}))
"""
"""Program that queries the head directly. It is a separate process, as the request has no timeout."""


def _cluster(address: str, installed: str) -> Finding:
    command = [sys.executable, "-c", CODE, address, PRETRAIN, FINETUNE]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=2 * ANSWER_SECONDS, encoding="utf-8"
        )
    except subprocess.TimeoutExpired:
        return Finding(NAME, "failed", f"{address} is open, but no Ray head answers there", START)
    if done.returncode or not done.stdout:
        last = (done.stderr.strip() or "no answer").splitlines()[-1]
        return Finding(NAME, "failed", f"{address} is not a Ray head ({last[:200]})", START)
    answer = json.loads(done.stdout.splitlines()[-1])
    if answer.get("refused"):
        return Finding(NAME, "failed", f"{address} refuses the token", TOKEN)
    places = answer["places"]
    if not any(places.values()):
        found = f"{address}: none of the {answer['nodes']} nodes offers {PRETRAIN} or {FINETUNE}"
        remedy = f"ray start … --resources '{{\"{PRETRAIN}\": 1}}' on the nodes that should work"
        return Finding(NAME, "failed", found, remedy)
    offered = ", ".join(f"{amount:g} {name}" for name, amount in places.items())
    return _versions(f"{address}, {answer['nodes']} nodes with {offered}", installed, answer["version"])


def _versions(what: str, installed: str, running: str) -> Finding:
    if running != installed:
        remedy = f"pip install 'ray[default,train]=={running}' here, or {installed} there"
        return Finding(NAME, "failed", f"{installed} is installed, {running} runs at {what}", remedy)
    return Finding(NAME, "ok", f"{installed}; {what}")
