"""Methods tried out: what is tried, what is recommended, and that nothing is left in the registry."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from forked import spawn
from small_tasks import register_base, small_task

from cluster import registry
from cluster.finetuning.advise import Probe, advise, recommended, variants


def probe(method: str, trained: int, after: float, depth: int = 8) -> Probe:
    return Probe(method, None, False, depth, trained, before=2.0, after=after, step_seconds=0.1)


def test_the_smallest_that_gains_nearly_as_much_is_recommended() -> None:
    probes = [probe("norms", 10, 1.5), probe("lora", 100, 1.03), probe("full", 1000, 1.0)]
    assert recommended(probes, "loss").method == "lora"
    shallow = probe("lora", 100, 1.02, depth=4)
    assert recommended([*probes, shallow], "loss") is shallow
    assert recommended([probe("full", 1000, 0.1), probe("norms", 10, 2.5)], "accuracy").method == "norms"
    worse = [probe("lora", 100, 2.5), probe("full", 1000, 2.2)]
    assert recommended(worse, "loss").method == "full", "nothing gains: what loses least"


def test_what_is_tried(tmp_path: Path) -> None:
    task = small_task(tmp_path, "a", adapter={"rank": 4})
    tried = [
        (one.method, one.adapter.rank, "embedding" in one.adapter.targets, one.depth)
        for one in variants(task, model_depth=8)
    ]
    ranks = [("lora", rank, False, None) for rank in (2, 4, 8, 32)]
    others = [("norms", 4, False, None), ("full", 4, False, None), ("lora", 4, False, 4)]
    assert tried == [*ranks, ("lora", 4, True, None), *others]
    assert all(one.depth is None for one in variants(small_task(tmp_path, "b", latency_ms=5.0), 8))


def run(index: int, folder: Path, uri: str) -> None:
    torch.set_num_threads(1)
    task = small_task(folder, "tried", steps=500)
    probes = advise(task, uri, steps=6).probes
    (folder / "probes.json").write_text(json.dumps([asdict(one) for one in probes]))


def test_each_is_trained_from_the_untouched_base(tmp_path: Path) -> None:
    uri = register_base(tmp_path)
    spawn(run, args=(tmp_path, uri), nprocs=1)
    probes = json.loads((tmp_path / "probes.json").read_text())
    assert [(one["method"], one["rank"], one["embedding"], one["depth"]) for one in probes] == [
        ("lora", 2, False, 4),
        ("lora", 8, False, 4),
        ("lora", 32, False, 4),
        ("lora", 8, True, 4),
        ("norms", None, False, 4),
        ("full", None, False, 4),
        ("lora", 8, False, 2),
    ]
    assert len({one["before"] for one in probes[:6]}) == 1
    assert probes[1]["trained"] == 4 * probes[0]["trained"]
    assert probes[3]["trained"] > probes[1]["trained"]
    assert [version.name for version in registry.versions(uri)] == ["base"]
