"""MLflow stores that are empty: making one takes seconds, so each is a copy of one that was made once."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path


def empty_store(folder: Path) -> str:
    """The URI of ``mlflow.db`` in a folder, empty unless it is there."""
    file = folder / "mlflow.db"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_made_once(), file)
    return f"sqlite:///{file}"


@cache
def _made_once() -> Path:
    from cluster.tracking import store

    folder = Path(tempfile.mkdtemp(prefix="odf-store-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    store.connect(f"sqlite:///{folder}/mlflow.db", create=True)
    return folder / "mlflow.db"
