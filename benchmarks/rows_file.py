"""A results file that grows row by row: what is in it is not run again."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch


class RowsFile:
    """Rows of a benchmark, with the machine and the texts they were made on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"rows": []}

    @property
    def rows(self) -> list[dict[str, Any]]:
        return list(self._content["rows"])

    def describe(self, shards: Path, **settings: int) -> None:
        """Where and on what the rows were trained; the tokenizer and ``settings`` are those of all rows."""
        manifest = json.loads((shards / "manifest.json").read_text())
        for key, value in {"tokenizer_sha256": manifest["tokenizer_sha256"], **settings}.items():
            if self._content.setdefault(key, value) != value:
                raise SystemExit(
                    f"{self._path} holds rows with {key} {self._content[key]}, not {value}: "
                    "give another --json"
                )
        self._content |= {
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
            "train_tokens_available": manifest["splits"]["train"]["tokens"],
            "sources": [{"path": s["path"], "sha256": s["sha256"]} for s in manifest["sources"]],
        }

    def add(self, row: dict[str, Any]) -> None:
        """Append a row, with today's date, and write the file."""
        self._content["rows"].append({**row, "date": time.strftime("%Y-%m-%d")})
        self.write()

    def write(self, **more: Any) -> None:
        """Write the file, whole or not at all, with these entries beside the rows."""
        self._content |= more
        beside = self._path.with_suffix(".incomplete")
        beside.write_text(json.dumps(self._content, indent=1) + "\n")
        beside.rename(self._path)
