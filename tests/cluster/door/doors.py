"""A pool and its door in this process, and its clients."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import requests
from small_tasks import PAIRS

from cluster.pool import Pool

TEAMS = ("docs", "sales", "legal", "triage", "lab")
ALONE = "alone"
"""A team that only one test uses."""
SETTINGS: dict[str, Any] = {
    "kind": "classification",
    "data": {"prompt": "{text} ", "completion": "{label}"},
    "train": {"steps": 4, "global_batch": 8, "learning_rate": 0.02},
}
"""Settings of a job of seconds."""
LINES = b"".join(json.dumps({"text": text, "label": label}).encode() + b"\n" for text, label in PAIRS * 4)


@dataclass
class Door:
    """A door, its pool, and a key for each team."""

    url: str
    pool: Pool
    folder: Path
    keys: dict[str, str]
    admin: str

    def client(self, team: str) -> openai.OpenAI:
        """OpenAI's client with a team's key."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.keys[team], max_retries=0)

    def ask(self, key: str, method: str, path: str, **more: Any) -> requests.Response:
        """Any request with a key."""
        headers = {"Authorization": f"Bearer {key}", **more.pop("headers", {})}
        return requests.request(method, f"{self.url}{path}", headers=headers, timeout=60, **more)

    def upload(self, team: str, content: bytes = LINES, name: str = "train.jsonl") -> str:
        """The id of a new file."""
        return self.client(team).files.create(file=(name, content), purpose="fine-tune").id

    def create(self, team: str, file: str, **changes: Any) -> openai.types.fine_tuning.FineTuningJob:
        """A new job of seconds."""
        extension = {**SETTINGS, **changes.pop("odeformer", {})}
        asked: dict[str, Any] = {"model": "base", "training_file": file, "validation_file": file, **changes}
        return self.client(team).fine_tuning.jobs.create(**asked, extra_body={"odeformer": extension})
