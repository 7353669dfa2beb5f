"""Bytes between workers for each optimizer step: weights that are mixed from K sets cost K sets' traffic.

    python -m benchmarks.traffic --json benchmarks/results/traffic.json

Two workers with a gloo group train three models of one shape, D = 8: the ordinary one, K = D and K = D/2, at
each ZeRO stage. DeepSpeed's communication logger counts: each tensor that is summed, scattered or gathered,
once and with its whole size. Where bytes for each stored parameter do not depend on the model, the traffic of
the depth weights is K/D of the ordinary model's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import distributed as dist

from cluster.runs.deepspeed_import import import_deepspeed
from cluster.settings import OptimSettings, TrainSettings, ZeroSettings
from cluster.training import zero
from odeformer.config import BasisConfig, ModelConfig
from odeformer.hypernetwork import depth_parameters
from odeformer.model import Odeformer, parameter_count, token_losses

WORKERS, STEPS, BATCH, LENGTH = 2, 4, 2, 64
IN_PARTS = ("all_gather", "all_gather_into_tensor")
"""Operations whose message is logged as one worker's part of it; of the others it is logged whole."""
MODELS = {"ordinary": ("none", 8), "K = D": ("smooth_mlp", 8), "K = D/2": ("smooth_mlp", 4)}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True)
    out: Path = parser.parse_args().json
    rows = []
    for stage in (0, 1, 2, 3):
        for name in MODELS:
            with tempfile.TemporaryDirectory() as folder:
                mp.spawn(measure, args=(folder, name, stage), nprocs=WORKERS)
                row = json.loads((Path(folder) / "row.json").read_text())
            rows.append(row)
            print(
                f"stage {stage}  {name:<9} {row['bytes'] / 1e6:8.2f} MB a step, "
                f"{row['bytes'] / row['parameters']:6.3f} bytes a parameter",
                flush=True,
            )
    result = {
        "rows": rows,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
        "date": time.strftime("%Y-%m-%d"),
    }
    out.write_text(json.dumps(result, indent=1) + "\n")


def measure(rank: int, folder: str, name: str, stage: int) -> None:
    """One worker; the first writes the row."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORKERS)
    deepspeed = import_deepspeed()
    kind, size = MODELS[name]
    config = ModelConfig(
        width=128,
        heads=4,
        depth=8,
        basis=BasisConfig.model_validate({"kind": kind, "size": size}),
        vocabulary_size=2048,
        context_length=LENGTH,
    )
    torch.manual_seed(0)
    engine = zero.initialize(
        Odeformer(config),
        TrainSettings(steps=STEPS + 1, global_batch=BATCH * WORKERS, micro_batch=BATCH),
        OptimSettings(),
        ZeroSettings.model_validate({"stage": stage, "param_persistence_threshold": 0}),
        Path(folder),
    )
    for step in range(STEPS + 1):
        if step == 1:  # the first one also shares out what the start needs
            deepspeed.comm.configure(enabled=True, prof_all=True, verbose=False)
        ids = torch.randint(config.vocabulary_size or 0, (BATCH, LENGTH + 1))
        loss = token_losses(engine(ids[:, :-1], depth=config.depth).logits, ids[:, 1:]).mean()
        engine.backward(loss)
        zero.apply_gradients(engine, OptimSettings().clip)
    if rank == 0:
        row = {
            "model": name,
            "stage": stage,
            "parameters": parameter_count(config),
            "depth_parameters": depth_parameters(config),
            "operations": bytes_by_operation(deepspeed.comm.comm.comms_logger.get_raw_data(), WORKERS, STEPS),
        }
        row["bytes"] = sum(row["operations"].values())
        (Path(folder) / "row.json").write_text(json.dumps(row))
    dist.barrier()
    os._exit(0)


def bytes_by_operation(logged: dict[str, dict[int, list[Any]]], workers: int, steps: int) -> dict[str, float]:
    """Of each operation the bytes of its messages for each step, from ``{operation: {size: [count, …]}}``."""
    sums = {
        operation: sum(size * entry[0] for size, entry in sizes.items())
        * (workers if operation in IN_PARTS else 1)
        / steps
        for operation, sizes in logged.items()
    }
    return {operation: total for operation, total in sums.items() if total}


if __name__ == "__main__":
    main()
