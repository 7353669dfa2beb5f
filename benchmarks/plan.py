"""What a run is said to need against what it takes: memory of a worker, bytes between workers.

    python -m benchmarks.plan --json benchmarks/results/plan.json

Real DeepSpeed workers with a gloo group make steps of small runs. Memory: all tensors of worker 0 before a
step, and on top of them the most that lives at once during it, by the allocator's own record; what an
allocator keeps beside that is not in it. Bytes: DeepSpeed's communication logger, which counts each message
once and whole.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import distributed as dist

from benchmarks.rows_file import RowsFile
from benchmarks.traffic import bytes_by_operation
from cluster.planning.communication import collectives
from cluster.runs.deepspeed_import import import_deepspeed
from cluster.settings import PretrainSettings
from cluster.training import zero
from cluster.training.memory import parameter_sizes, unallocated, worker_memory
from odeformer.measure.memory import peak_bytes
from odeformer.model import Odeformer, SolveOptions, token_losses

MEMORY: tuple[dict[str, Any], ...] = (
    {"stage": 0, "gradient": "direct", "sets": 4, "batch": 4},
    {"stage": 0, "gradient": "checkpoint", "sets": 4, "batch": 4},
    {"stage": 0, "gradient": "reversible", "sets": 4, "batch": 4},
    {"stage": 0, "gradient": "direct", "sets": 8, "batch": 1},
    {"stage": 0, "gradient": "checkpoint", "sets": 8, "batch": 16},
    {"stage": 1, "gradient": "direct", "sets": 4, "batch": 4},
    {"stage": 1, "gradient": "checkpoint", "sets": 8, "batch": 8},
    {"stage": 1, "gradient": "reversible", "sets": 4, "batch": 8},
    {"stage": 2, "gradient": "direct", "sets": 8, "batch": 4},
    {"stage": 2, "gradient": "checkpoint", "sets": 4, "batch": 8},
    {"stage": 2, "gradient": "checkpoint", "sets": 4, "batch": 1},
    {"stage": 3, "gradient": "direct", "sets": 4, "batch": 4},
    {"stage": 3, "gradient": "checkpoint", "sets": 8, "batch": 4},
    {"stage": 3, "gradient": "checkpoint", "sets": 4, "batch": 16},
    {"stage": 1, "gradient": "direct", "sets": 4, "batch": 4, "passes": 2},
    {"stage": 1, "gradient": "checkpoint", "sets": 4, "batch": 4, "precision": "bf16"},
    {"stage": 0, "gradient": "direct", "sets": 4, "batch": 4, "precision": "bf16"},
    {"stage": 2, "gradient": "direct", "sets": 8, "batch": 2, "precision": "bf16"},
    {"stage": 3, "gradient": "checkpoint", "sets": 8, "batch": 16, "precision": "bf16"},
)
BYTES: tuple[dict[str, Any], ...] = tuple(
    {"stage": stage, "workers": workers, "passes": passes, "threshold": threshold}
    for stage in (0, 1, 2, 3)
    for workers, passes, threshold in ((2, 1, 0), (2, 3, 0), (4, 1, 0), (2, 1, 20_000))
    if threshold == 0 or stage == 3
)
WIDTH, DEPTH, LENGTH, VOCABULARY, STEPS = 128, 8, 128, 2048, 4


def settings_of(row: dict[str, Any], workers: int, folder: str) -> PretrainSettings:
    """A small run of that shape."""
    batch, passes = row.get("batch", 2), row.get("passes", 1)
    return PretrainSettings.model_validate(
        {
            "model": {
                "width": WIDTH,
                "heads": 4,
                "depth": DEPTH,
                "basis": {"size": row.get("sets", 4)},
                "vocabulary_size": VOCABULARY,
                "context_length": LENGTH,
            },
            "data": {"shards": "none", "sequence_length": LENGTH},
            "train": {
                "steps": STEPS,
                "global_batch": batch * workers * passes,
                "micro_batch": batch,
                "gradient": row.get("gradient", "direct"),
                "precision": row.get("precision", "fp32"),
            },
            "zero": {"stage": row["stage"], "param_persistence_threshold": row.get("threshold", 0)},
            "cluster": {"workers": workers},
            "run": {"dir": folder},
        }
    )


def start(rank: int, settings: PretrainSettings, folder: str) -> Any:
    """Worker ``rank`` of the run: its engine."""
    torch.set_num_threads(1)
    workers = settings.cluster.workers
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=workers)
    import_deepspeed()
    torch.manual_seed(0)
    model = Odeformer(settings.model)
    model.options = SolveOptions(settings.train.solver_for(settings.model))
    model.gradient, model.segment = settings.train.gradient, settings.train.segment
    return zero.initialize(model, settings.train, settings.optim, settings.zero, Path(folder))


def step(engine: Any, settings: PretrainSettings) -> None:
    """One optimizer step."""
    train = settings.train
    for _ in range(train.global_batch // (train.micro_batch * settings.cluster.workers)):
        ids = torch.randint(VOCABULARY, (train.micro_batch, LENGTH + 1))
        engine.backward(token_losses(engine(ids[:, :-1], depth=DEPTH).logits, ids[:, 1:]).mean())
        zero.apply_gradients(engine, 1.0)


def measure_memory(rank: int, row: dict[str, Any], folder: str) -> None:
    """Worker ``rank``; the first writes what it found."""
    settings = settings_of(row, 2, folder)
    engine = start(rank, settings, folder)
    for _ in range(2):
        step(engine, settings)
    gc.collect()
    held = {
        storage.data_ptr(): storage.nbytes()
        for one in gc.get_objects()
        if issubclass(type(one), torch.Tensor)
        for storage in [one.untyped_storage()]
        if storage.device.type == "cpu"
    }
    peak = peak_bytes(lambda: step(engine, settings))
    if rank == 0:
        found = {"held": sum(held.values()), "peak": peak}
        (Path(folder) / "row.json").write_text(json.dumps(found))
    dist.barrier()
    os._exit(0)


def measure_bytes(rank: int, row: dict[str, Any], folder: str) -> None:
    """Worker ``rank``; the first writes what it found."""
    import deepspeed

    settings = settings_of(row, row["workers"], folder)
    engine = start(rank, settings, folder)
    step(engine, settings)
    deepspeed.comm.configure(enabled=True, prof_all=True, verbose=False)
    for _ in range(STEPS):
        step(engine, settings)
    if rank == 0:
        logged = bytes_by_operation(deepspeed.comm.comm.comms_logger.get_raw_data(), row["workers"], STEPS)
        (Path(folder) / "row.json").write_text(json.dumps(logged))
    dist.barrier()
    os._exit(0)


def run(measure: Any, row: dict[str, Any], workers: int) -> Any:
    """What the first of so many workers found."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(measure, args=(row, folder), nprocs=workers)
        return json.loads((Path(folder) / "row.json").read_text())


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="rows in it are not run again")
    table = RowsFile(parser.parse_args().json)
    there = [{key: row[key] for key in row if key not in ("found", "said", "date")} for row in table.rows]
    for row in MEMORY:
        wanted = {"kind": "memory", **row}
        if wanted not in there:
            device, host = worker_memory(settings_of(row, 2, "x")).total()
            found = run(measure_memory, row, 2)
            table.add({**wanted, "said": device + host, "found": found["held"] + found["peak"]})
            show(table.rows[-1])
    for row in BYTES:
        wanted = {"kind": "bytes", **row}
        if wanted not in there:
            settings = settings_of(row, row["workers"], "x")
            sizes = parameter_sizes(unallocated(settings), settings.optim)
            said = collectives(sizes, settings.zero, row["workers"], row["passes"])
            found = run(measure_bytes, row, row["workers"])
            table.add({**wanted, "said": sum(one.bytes for one in said), "found": sum(found.values())})
            show(table.rows[-1])
    table.write(machine=f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}")


def show(row: dict[str, Any]) -> None:
    """A row, and how far what was said is from what was found."""
    shape = ", ".join(f"{k} {v}" for k, v in row.items() if k not in ("kind", "found", "said", "date"))
    off = row["said"] / row["found"] - 1 if row["found"] else float(bool(row["said"]))
    print(f"{row['kind']:<7} {shape:<60} {row['found'] / 1e6:8.2f} MB found, said {off:+.1%}", flush=True)


if __name__ == "__main__":
    main()
