"""The estimate of a worker's memory against the tensors of real engines and a real pass."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import spawn
from torch import Tensor
from torch import distributed as dist

from cluster.settings import OptimSettings, TrainSettings, ZeroSettings
from cluster.training import memory, zero
from odeformer.config import BasisConfig, ModelConfig
from odeformer.field import block_tensors, build_field
from odeformer.model import Odeformer, token_losses

# Sizes that two workers cannot share out evenly: both kinds of padding are there.
SHAPE = ModelConfig(
    flavour="llama",
    width=36,
    heads=3,
    depth=4,
    basis=BasisConfig(size=3),
    vocabulary_size=301,
    context_length=8,
)
WORKERS = 2
# Stage, what is on the host, and from which size on weights are shared out.
CASES: list[tuple[int, tuple[str, ...], int]] = [
    *((stage, (), 0) for stage in range(4)),
    (3, (), 1000),
    (1, ("optimizer",), 0),
    (3, ("optimizer",), 0),
    (3, ("optimizer", "parameters"), 1000),
    (3, ("parameters",), 1000),
]


def size(tensors: Iterable[Tensor | None]) -> int:
    """Bytes of the storages of tensors, each counted once."""
    given = [t.untyped_storage() for t in tensors if t is not None and t.numel() > 1]
    return sum({storage.data_ptr(): storage.nbytes() for storage in given}.values())


def everything(found: Any) -> Iterator[Tensor]:
    """All tensors in nested containers."""
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, dict | list | tuple):
        for inner in found.values() if isinstance(found, dict) else found:
            yield from everything(inner)


def held_by(engine: Any) -> dict[str, int]:
    """Bytes of parameters, gradients and optimizer state during a step, on the rank with most."""
    optimizer, stage = engine.optimizer, engine.zero_optimization_stage()
    parameters = list(engine.module.parameters())
    masters: list[Tensor] = []
    gradients: list[Tensor | None] = [parameter.grad for parameter in parameters]
    if stage in (1, 2):
        masters = optimizer.single_partition_of_fp32_groups
        gradients += everything([optimizer.all_grad_tensors, optimizer.averaged_gradients])
    elif stage == 3:
        masters = optimizer.fp32_partitioned_groups_flat
        gradients.append(optimizer.grad_partitions_flat_buffer)
    state = (optimizer.optimizer if stage else optimizer).state
    found = {
        "parameters": size([*parameters, *(getattr(p, "ds_tensor", None) for p in parameters)]),
        "gradients": size([*gradients, *(master.grad for master in masters)]),
        "optimizer": size([*masters, *everything(list(state.values()))]),
    }
    most = torch.tensor(list(found.values()))
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return dict(zip(found, most.tolist(), strict=True))


def compare(rank: int, folder: str) -> None:
    """Worker function: compares an engine for each case during its second step."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORKERS)
    train = TrainSettings(steps=9, global_batch=4 * WORKERS, micro_batch=2)
    sizes = memory.parameter_sizes(Odeformer(SHAPE), OptimSettings())
    ids = torch.zeros(2, 8, dtype=torch.long)
    for stage, offload, threshold in CASES:
        offloaded = {f"offload_{part}": "cpu" for part in offload}
        settings = ZeroSettings.model_validate(
            {"stage": stage, "param_persistence_threshold": threshold, **offloaded}
        )
        engine = zero.initialize(Odeformer(SHAPE), train, OptimSettings(), settings, Path(folder))
        for _ in range(3):
            engine.backward(token_losses(engine(ids).logits, ids).mean())
            zero.apply_gradients(engine, 1.0)
        device, host = memory.state_memory(sizes, settings, WORKERS)
        expected = {
            part: device.get(part, 0) + host.get(part, 0) for part in ("parameters", "gradients", "optimizer")
        }
        found = held_by(engine)
        assert found == expected, (stage, offload, threshold, found, expected)
        engine.destroy()
    os._exit(0)


def test_what_is_held_between_passes_is_exact_at_every_stage(tmp_path: Path) -> None:
    spawn(compare, args=(str(tmp_path),), nprocs=WORKERS)


@pytest.mark.parametrize("flavour", ["neox", "llama", "paper"])
@pytest.mark.parametrize("bf16", [False, True])
def test_what_an_evaluation_keeps_is_what_a_real_one_keeps(flavour: str, bf16: bool) -> None:
    config = ModelConfig.model_validate(
        {
            "flavour": flavour,
            "width": 32,
            "heads": 2,
            "depth": 4,
            "context_length": 16,
            "vocabulary_size": 9,
            "basis": {"size": 2},
        }
    )
    x = torch.zeros(3, 16, 32, requires_grad=True)
    weights = {n: torch.zeros(spec.shape, requires_grad=True) for n, spec in block_tensors(config).items()}
    kept: list[Tensor] = []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),  # type: ignore[func-returns-value]
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        build_field(config, x, True)(x, weights)
    given = {t.untyped_storage().data_ptr() for t in (x, *weights.values())}
    found = size(t for t in kept if t.untyped_storage().data_ptr() not in given)
    matrices = sum(2 * w.numel() for name, w in weights.items() if w.ndim == 2)
    expected = memory.evaluation_memory(config, 3, 16, bf16, separate_documents=False)
    # A projection keeps a cast of its matrix, of its bias nothing.
    assert found - (matrices if bf16 else 0) == expected
