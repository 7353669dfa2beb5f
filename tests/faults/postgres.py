"""A real PostgreSQL of the test's own, where the machine has one to start."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ports import free_port

USER = "postgres"
"""Who runs it where the tests run as root, whom it refuses; Debian's package makes this user."""


def _programs() -> Path | None:
    """The folder of its newest programs: Debian keeps them off the path."""
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return places[-1] if places else None


def missing() -> str:
    """What keeps it from being started here, for a skipped test to say; nothing when it can be."""
    if _programs() is None:
        return "PostgreSQL is not installed: apt-get install postgresql"
    if importlib.util.find_spec("psycopg") is None:
        return "MLflow speaks to PostgreSQL through psycopg: pip install 'psycopg[binary]'"
    if os.getuid() == 0 and USER not in {entry.pw_name for entry in pwd.getpwall()}:
        return f"PostgreSQL does not run as root, and there is no user {USER}"
    return ""


@contextmanager
def postgres() -> Iterator[str]:
    """Its URI, while it runs."""
    programs, port = _programs(), free_port()
    assert programs is not None
    user = USER if os.getuid() == 0 else None
    # Not below pytest's folders, which are closed to other users.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    if user is not None:
        shutil.chown(folder, user)
    control = [programs / "pg_ctl", "--pgdata", folder / "data", "--wait", "--timeout", "120"]
    with (folder / "log").open("w") as log:

        def run(*command: str | Path) -> None:
            subprocess.run(command, user=user, cwd=folder, stdout=log, stderr=log, check=True, timeout=150)

        try:
            run(programs / "initdb", "--pgdata", folder / "data", "--username", "mlflow", "--auth", "trust")
            options = f"-p {port} -h 127.0.0.1 -k {folder}"
            run(*control, "--log", folder / "data" / "log", "--options", options, "start")
            try:
                yield f"postgresql://mlflow@127.0.0.1:{port}/postgres"
            finally:
                run(*control, "--mode", "immediate", "stop")
        finally:
            shutil.rmtree(folder)
