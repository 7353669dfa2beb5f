"""Keys in the environment and passwords in addresses: nobody else finds them in what runs and pools leave."""

from __future__ import annotations

import functools
import http.server
import json
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from heads import head_node
from small_tasks import a_task
from stores import server

from cluster.connection import credentials

MARK = "never-to-be-seen"


@contextmanager
def shards_behind_http(folder: Path) -> Iterator[str]:
    """The address of a folder's files, with a password that nobody asks for."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield f"http://team:{MARK}@127.0.0.1:{listener.server_port}/{folder.name}"
        listener.shutdown()


def found_in(*folders: Path) -> list[Path]:
    """The files that hold the mark, but for those of the pool that their owner alone may read."""
    found = []
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        try:
            is_there = MARK.encode() in path.read_bytes()
        except OSError:  # a socket, or gone meanwhile
            continue
        is_private = path.name == credentials.FILE_NAME and stat.S_IMODE(path.stat().st_mode) == 0o600
        if is_there and not is_private:
            found.append(path)
    return found


def test_nothing_that_others_may_read_has_them(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *arguments: None)
    with (
        server(tmp_path / "mlflow") as mlflow,
        shards_behind_http(shards) as address,
        head_node({"pretrain": 1, "finetune": 1}, dashboard=False) as node,
    ):
        uri = mlflow.uri.replace("//", f"//team:{MARK}@")
        secret = {
            "MLFLOW_TRACKING_URI": uri,
            "MLFLOW_TRACKING_USERNAME": "team",
            "MLFLOW_TRACKING_PASSWORD": MARK,
            "AWS_ACCESS_KEY_ID": "team",
            "AWS_SECRET_ACCESS_KEY": MARK,
            "ODEFORMER_CACHE": str(tmp_path / "cache"),
        }
        head = replace(node, folder=tmp_path, environment=node.environment | secret)
        settings = {
            "model": {"width": 32, "heads": 2, "depth": 4, "basis": {"size": 2}},
            "data": {"shards": address, "sequence_length": 32},
            "train": {"steps": 2, "global_batch": 4, "micro_batch": 4, "validate_every": 2},
            "checkpoint": {"every": 1},
            "tracking": {"uri": uri, "register_as": "base"},
            "cluster": {"address": node.of_drivers},
            "run": {"dir": str(tmp_path / "run")},
        }
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
        said = [head("pretrain", "run.yaml")]
        assert "registered: models:/base/1" in said[-1][1], said
        assert not (tmp_path / "run" / credentials.FILE_NAME).exists()

        said.append(head("pool", "start", "--set", "dir=pool"))
        task = a_task(tmp_path).model_dump(mode="json", exclude_none=True)
        (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
        said.append(head("finetune", "submit", "task.yaml", "--wait"))
        assert "a/kind/1 succeeded" in said[-1][1], said
        said += [head(*words) for words in (("pool", "status", "--json"), ("doctor",), ("models", "list"))]
        assert json.loads(said[-3][1])["tracking_uri"] == mlflow.uri.replace("//", "//***@")
        # What a run's folder names is completed from the environment.
        said.append(head("track", "sync", "run"))
        assert said[-1][1].startswith("all metrics of run are in http://***@127"), said
        said.append(head("generate", "--model", "models:/base/1", "--max-new-tokens", "1", "a"))
        assert len([*(tmp_path / "cache" / "versions").glob("[0-9a-f]*")]) == 1, (
            "the server's files have a copy"
        )
        said.append(head("pool", "stop"))

        (tmp_path / "run.yaml").unlink()  # the user's own
        assert [code for code, _, _ in said] == [0] * len(said), said
        assert MARK not in str(said)
        assert found_in(tmp_path, node.folder) == []
        assert not (tmp_path / "pool" / credentials.FILE_NAME).exists(), "no job waits for it"
