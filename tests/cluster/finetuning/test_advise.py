"""Methods tried out: what is tried, what is recommended, and that nothing is left in the registry."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
import torch.multiprocessing as mp
from small_tasks import register_base, small_task

from cluster import registry
from cluster.finetuning.advise import Probe, advise, recommended, variants


def probe(method: str, trained: int, after: float, depth: int = 8) -> Probe:
    return Probe(method, None, depth, trained, before=2.0, after=after, step_seconds=0.1)


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
    tried = [(one.method, one.adapter.rank, one.depth) for one in variants(task, model_depth=8)]
    ranks = [("lora", rank, None) for rank in (2, 4, 8, 32)]
    assert tried == [*ranks, ("norms", 4, None), ("full", 4, None), ("lora", 4, 4)]
    assert all(one.depth is None for one in variants(small_task(tmp_path, "b", latency_ms=5.0), 8))


def run(index: int, folder: Path, uri: str) -> None:
    torch.set_num_threads(1)
    task = small_task(folder, "tried", steps=500)
    (folder / "probes").mkdir()
    probes = advise(task, folder / "probes", uri, steps=6)
    (folder / "probes.json").write_text(json.dumps([asdict(one) for one in probes]))


def test_each_is_trained_from_the_untouched_base(tmp_path: Path) -> None:
    uri = register_base(tmp_path)
    mp.spawn(run, args=(tmp_path, uri), nprocs=1)
    probes = json.loads((tmp_path / "probes.json").read_text())
    assert [(one["method"], one["rank"], one["depth"]) for one in probes] == [
        ("lora", 2, 4),
        ("lora", 8, 4),
        ("lora", 32, 4),
        ("norms", None, 4),
        ("full", None, 4),
        ("lora", 8, 2),
    ]
    assert len({one["before"] for one in probes[:5]}) == 1
    assert probes[1]["trained"] == 4 * probes[0]["trained"]
    assert [version.name for version in registry.versions(uri)] == ["base"]
