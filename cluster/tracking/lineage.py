"""Lineage of a run: versions of the code and the libraries, as tags of its MLflow run."""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path

from cluster.tags import CODE_VERSION, GIT_COMMIT, PREFIX

LIBRARIES = ("torch", "deepspeed", "ray", "mlflow")


def code_tags() -> dict[str, str]:
    """Tags with the versions of Odeformer and its libraries, and the commit of a git checkout."""
    tags = {CODE_VERSION: _version("odeformer")}
    tags |= {f"{PREFIX}{library}": _version(library) for library in LIBRARIES}
    commit = git_commit(Path(__file__).parents[2])
    return tags | ({GIT_COMMIT: commit} if commit else {})


def git_commit(checkout: Path) -> str | None:
    """The commit of a checkout, followed by ``-dirty`` if tracked files have changed."""
    if not (checkout / ".git").exists():  # git would search the parent folders for another repository
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        described = subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True, encoding="utf-8"
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
