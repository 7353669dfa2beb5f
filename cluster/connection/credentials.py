"""Credentials of MLflow and S3, handed to processes on a cluster in a file that only their user may read.

Ray writes a process's ``runtime_env`` to its logs and shows it to everybody who may see the cluster, so
nothing secret goes there. Nodes may have credentials in their own environment as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from odeformer.files.atomic import new_file

PREFIXES = (
    *("MLFLOW_TRACKING_", "MLFLOW_REGISTRY_", "MLFLOW_WORKSPACE", "MLFLOW_S3_"),
    *("AWS_", "DATABRICKS_"),
)
FILE_NAME = ".credentials.json"


def ours() -> dict[str, str]:
    """This process's variables with credentials and addresses of stores."""
    return {name: value for name, value in os.environ.items() if name.startswith(PREFIXES)}


def write(folder: Path, variables: Mapping[str, str]) -> None:
    """Write variables for the environment of other processes to the folder's file, with mode 0600.

    Args:
        folder: a folder that the processes see; it is created if it is missing.
        variables: values by name, as :func:`ours` returns them.
    """
    with new_file(folder / FILE_NAME) as beside:
        # With O_EXCL, so that the mode is ours even in a folder that others may write to.
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(dict(variables), file)


def take(folder: Path) -> None:
    """Add the credentials that :func:`write` wrote to this process's environment, if there is a file."""
    with suppress(FileNotFoundError, PermissionError, ValueError):  # or with one that is damaged
        variables = dict(json.loads((folder / FILE_NAME).read_text(encoding="utf-8")))
        # No others, whoever wrote the file.
        os.environ.update({name: variables[name] for name in variables if name.startswith(PREFIXES)})


def remove(folder: Path) -> None:
    """Remove the folder's file."""
    (folder / FILE_NAME).unlink(missing_ok=True)


@contextmanager
def handed_over(folder: Path) -> Iterator[None]:
    """Have the credentials in the folder's file while the block runs."""
    write(folder, ours())
    try:
        yield
    finally:
        remove(folder)
