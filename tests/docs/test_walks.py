"""The two walks through the code in docs/design.md, against the order in which a real run calls things."""

from __future__ import annotations

import json
import re
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from small_runs import run_workers, small_settings

ROOT = Path(__file__).parents[2]
OURS = tuple(f"{ROOT}/{package}/" for package in ("odeformer", "data", "cluster"))
CALLED = "called.json"
"""In a run's folder: ``file: function`` of each call of a function of ours, in their order."""


def traced_worker(config: dict[str, Any]) -> None:
    """A worker that notes its calls, after those of a forward pass of its own."""
    import torch

    from cluster.pretrain import pretrain_worker
    from odeformer.config import ModelConfig
    from odeformer.model import Odeformer

    called: list[str] = []

    def note(frame: FrameType, event: str, argument: object) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(OURS):
            called.append(f"{file.removeprefix(f'{ROOT}/')}: {frame.f_code.co_qualname}")

    walks: dict[str, list[str]] = {}
    shape = {
        "width": 32,
        "heads": 2,
        "depth": 4,
        "vocabulary_size": 9,
        "context_length": 8,
        "basis": {"size": 2},
    }
    model, ids = Odeformer(ModelConfig.model_validate(shape)), torch.zeros(1, 8, dtype=torch.long)
    threading.setprofile(note)  # batches are read ahead, in a thread
    sys.setprofile(note)
    with torch.no_grad():
        model(ids, depth=2)
    walks["depth"] = list(called)
    called.clear()
    pretrain_worker(config)
    sys.setprofile(None)
    walks["batch"] = list(called)
    (Path(config["settings"]["run"]["dir"]) / CALLED).write_text(json.dumps(walks))


@pytest.fixture(scope="module")
def called(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    settings = small_settings(
        shards,
        tmp_path_factory.mktemp("walks"),
        train={"steps": 1, "validate_every": 1, "validation_sequences": 1},
        cluster={"workers": 1},
    )
    run_workers(settings, work=traced_worker)
    return dict(json.loads((settings.run.dir / CALLED).read_text()))


@pytest.mark.parametrize("name", ["batch", "depth"])
def test_a_walk_has_the_order_of_the_calls(name: str, called: dict[str, list[str]]) -> None:
    page = (ROOT / "docs" / "design.md").read_text()
    (walk,) = re.findall(rf"<!-- walk: {name} -->\n(.*?)\n<!-- /walk -->", page, re.DOTALL)
    stations = [f"{file}: {function}" for file, function in re.findall(r"^\d+\. `(.+)`: `(.+)`$", walk, re.M)]
    assert 5 <= len(stations) == len(walk.splitlines()) <= 10
    calls = iter(called[name])
    reached = [station for station in stations if station in calls]  # each behind the one before it
    assert reached == stations
