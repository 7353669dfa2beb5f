"""The planner's estimates against real workers: memory of a worker, bytes between workers.

    python -m benchmarks.cluster.plan --json benchmarks/results/plan.json

Real DeepSpeed workers with a gloo group make steps of small runs. Memory: all tensors of worker 0 before a
step, plus the peak of what is alive during it, by the allocator's own record; the allocator's overhead is not
counted. Bytes: DeepSpeed's communication logger, which counts each message once and whole. Rows that are in
the file are not measured again.
"""

from __future__ import annotations

import gc
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import Tensor
from torch import distributed as dist

from benchmarks import bench
from benchmarks.bench import Results, Row
from cluster.planning.communication import collectives
from cluster.runs.deepspeed_import import import_deepspeed
from cluster.settings import PretrainSettings
from cluster.training import zero
from cluster.training.memory import parameter_sizes, unallocated, worker_memory
from cluster.training.teacher import Teacher, TeacherShape
from data.elastic import Batch
from odeformer.config import BasisConfig, ModelConfig
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
    {"stage": 1, "gradient": "checkpoint", "sets": 4, "batch": 4, "teacher": {"width": 64, "depth": 4}},
    {"stage": 0, "gradient": "direct", "sets": 4, "batch": 8, "teacher": {"width": 64, "depth": 4}},
    {"stage": 2, "gradient": "checkpoint", "sets": 4, "batch": 2, "teacher": {"width": 256, "depth": 16}},
)
BYTES: tuple[dict[str, Any], ...] = tuple(
    {"stage": stage, "workers": workers, "passes": passes, "threshold": threshold}
    for stage in (0, 1, 2, 3)
    for workers, passes, threshold in ((2, 1, 0), (2, 3, 0), (4, 1, 0), (2, 1, 20_000))
    if threshold == 0 or stage == 3
)
WIDTH, DEPTH, LENGTH, VOCABULARY, STEPS = 128, 8, 128, 2048, 4
IN_PARTS = ("all_gather", "all_gather_into_tensor")
"""Operations that are logged with one worker's part of the message; all others are logged with the whole."""


def settings_of(row: Row, workers: int, folder: str) -> PretrainSettings:
    """A small run with the shape of a row."""
    batch, passes = row.get("batch", 2), row.get("passes", 1)
    return PretrainSettings.model_validate(
        {
            "model": {
                "width": WIDTH,
                "heads": 4,
                "depth": DEPTH,
                "basis": row.get("basis") or {"size": row.get("sets", 4)},
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
            "teacher": {"model": "none"} if "teacher" in row else None,
            "run": {"dir": folder},
        }
    )


def teacher_of(row: Row) -> TeacherShape | None:
    """The shape of a row's teacher, which has D = K = 8."""
    if "teacher" not in row:
        return None
    config = ModelConfig(
        width=row["teacher"]["width"],
        heads=4,
        depth=DEPTH,
        basis=BasisConfig(size=DEPTH),
        vocabulary_size=VOCABULARY,
        context_length=LENGTH,
    )
    return TeacherShape(config, config.default_solver, row["teacher"]["depth"])


def start(rank: int, settings: PretrainSettings, folder: str) -> Any:
    """The engine of worker ``rank``."""
    torch.set_num_threads(1)
    workers = settings.cluster.workers
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=workers)
    import_deepspeed()
    torch.manual_seed(0)
    model = Odeformer(settings.model)
    train = settings.train
    model.options = SolveOptions(train.solver_for(settings.model), train.gradient, train.segment)
    return zero.initialize(model, train, settings.optim, settings.zero, Path(folder))


def step(engine: Any, settings: PretrainSettings, teacher: Teacher | None = None) -> None:
    """Make one optimizer step."""
    train = settings.train
    for _ in range(train.global_batch // (train.micro_batch * settings.cluster.workers)):
        ids = torch.randint(VOCABULARY, (train.micro_batch, LENGTH + 1))
        # It is there until the end of the backward pass, as in a run.
        taught = None if teacher is None else teacher.logits(Batch(ids, torch.arange(len(ids))), None)
        engine.backward(_loss(engine, ids, teacher, taught))
        zero.apply_gradients(engine, 1.0)


def _loss(engine: Any, ids: Tensor, teacher: Teacher | None, taught: Tensor | None) -> Tensor:
    logits = engine(ids[:, :-1], depth=DEPTH).logits
    losses = token_losses(logits, ids[:, 1:])
    if teacher is not None and taught is not None:
        losses = teacher.mix(losses, logits, taught)
    return losses.mean()


def measure_memory(rank: int, row: Row, folder: str) -> None:
    """Run worker ``rank``; the first writes its bytes."""
    settings = settings_of(row, 2, folder)
    engine, shape = start(rank, settings, folder), teacher_of(row)
    teacher = None if shape is None else Teacher(Odeformer(shape.model), shape.depth, 0.5)
    for _ in range(2):
        step(engine, settings, teacher)
    gc.collect()
    tensors = [item for item in gc.get_objects() if issubclass(type(item), torch.Tensor)]
    storages = [tensor.untyped_storage() for tensor in tensors]
    held = {storage.data_ptr(): storage.nbytes() for storage in storages if storage.device.type == "cpu"}
    peak = peak_bytes(lambda: step(engine, settings, teacher))
    _end(rank, folder, {"held": sum(held.values()), "peak": peak})


def measure_bytes(rank: int, row: Row, folder: str) -> None:
    """Run worker ``rank``; the first writes the bytes of each operation."""
    workers = row["workers"]
    settings = settings_of(row, workers, folder)
    engine = start(rank, settings, folder)
    # The first step is not logged: it also distributes what the start needs.
    step(engine, settings)
    comm = import_deepspeed().comm
    comm.configure(enabled=True, prof_all=True, verbose=False)
    for _ in range(STEPS):
        step(engine, settings)
    _end(rank, folder, bytes_by_operation(comm.comm.comms_logger.get_raw_data(), workers, STEPS))


def _end(rank: int, folder: str, result: dict[str, Any]) -> None:
    """Write the result of the first worker, then end the process."""
    if rank == 0:
        (Path(folder) / "result.json").write_text(json.dumps(result), encoding="utf-8")
    dist.barrier()
    os._exit(0)


def bytes_by_operation(logged: dict[str, dict[int, list[Any]]], workers: int, steps: int) -> dict[str, float]:
    """The bytes of each operation's messages per step, from ``{operation: {size: [count, …]}}``."""
    result = {}
    for operation, sizes in logged.items():
        total = sum(size * entry[0] for size, entry in sizes.items())
        if total:
            result[operation] = total * (workers if operation in IN_PARTS else 1) / steps
    return result


def run(measure: Callable[[int, Row, str], None], row: Row, workers: int) -> Any:
    """Start the workers of a run and return what the first one wrote."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(measure, args=(row, folder), nprocs=workers)
        return json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))


def main() -> None:
    """Measure the missing rows, print and write them."""
    results = Results(bench.parser(__doc__).parse_args().json)
    keys = ("found", "said", "date")
    known = [{key: row[key] for key in row if key not in keys} for row in results.rows]
    for row in MEMORY:
        wanted = {"kind": "memory", **row}
        if wanted not in known:
            device, host = worker_memory(settings_of(row, 2, "x"), teacher_of(row)).total()
            measured = run(measure_memory, row, 2)
            results.add({**wanted, "said": device + host, "found": measured["held"] + measured["peak"]})
            bench.print_row(results.rows[-1])
    for row in BYTES:
        wanted = {"kind": "bytes", **row}
        if wanted not in known:
            settings = settings_of(row, row["workers"], "x")
            sizes = parameter_sizes(unallocated(settings), settings.optim)
            planned = collectives(sizes, settings.zero, row["workers"], row["passes"])
            measured = run(measure_bytes, row, row["workers"])
            said = sum(collective.bytes for collective in planned)
            results.add({**wanted, "said": said, "found": sum(measured.values())})
            bench.print_row(results.rows[-1])
    results.write(machine=bench.stamp("torch")["machine"])


if __name__ == "__main__":
    main()
