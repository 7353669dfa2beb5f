"""DeepSpeed: configuration, engine, and access to gradients and weights at any ZeRO stage."""

from __future__ import annotations

import json
import math
import os
import re
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from cluster.runs.deepspeed_import import import_deepspeed
from cluster.settings import OptimSettings, TrainSettings, ZeroSettings
from odeformer.files.atomic import new_file

BUCKET = 500_000_000
"""Maximum elements of DeepSpeed's bucket, in which gradients are reduced together."""


def deepspeed_config(
    train: TrainSettings, optim: OptimSettings, zero: ZeroSettings, workers: int, parameters: int
) -> dict[str, Any]:
    """The configuration for DeepSpeed.

    Gradient accumulation follows from the global and the micro batch. To DeepSpeed a second pass over a
    micro-batch, at another depth, is one more micro-batch.

    Args:
        parameters: number of trained parameters, in elements.
    """
    passes = train.global_batch // (train.micro_batch * workers)
    passes *= 1 if train.objective == "one_depth" else 2
    return {
        "train_batch_size": passes * train.micro_batch * workers,
        "train_micro_batch_size_per_gpu": train.micro_batch,
        "gradient_accumulation_steps": passes,
        # Without ZeRO, :func:`apply_gradients` clips.
        "gradient_clipping": optim.max_norm if zero.stage and math.isfinite(optim.max_norm) else 0.0,
        # DeepSpeed's own Adam names would compile an operator at the first start; torch's AdamW does not.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": zero.stage,
            "stage3_param_persistence_threshold": zero.param_persistence_threshold,
            # Not larger than the model: on a GPU the whole bucket is allocated.
            "reduce_bucket_size": min(parameters, BUCKET),
            "offload_optimizer": {"device": zero.offload_optimizer, "pin_memory": True},
            "offload_param": {"device": zero.offload_parameters, "pin_memory": True},
        },
        # Autocast, as DeepSpeed's bf16 mode would cast the coefficient functions and t as well.
        # With no module listed as safe, gradients and parameters are communicated in float32.
        "torch_autocast": {
            "enabled": train.precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
        "steps_per_print": 10**9,
    }


def parameter_groups(model: nn.Module, optim: OptimSettings) -> list[dict[str, Any]]:
    """Trainable parameters in groups: Muon's weight sets, matrices, vectors, coefficient functions.

    Weight decay applies to matrices only. ``rate`` is a group's learning rate relative to
    ``optim.learning_rate``.
    """
    orthogonal: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    coefficients: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # Weight sets have a leading dimension K: a set of vectors has two dimensions but is no matrix.
            is_vector = name.endswith(("_bias", "_norm_weight")) or parameter.ndim < 2
            kind = coefficients if ".basis." in name else vectors if is_vector else matrices
            if kind is matrices and optim.name == "muon" and re.match(r"hypernetwork\.\w+$", name):
                kind = orthogonal
            kind.append(parameter)
    groups = [
        {"params": orthogonal, "weight_decay": optim.weight_decay, "rate": optim.muon_rate, "use_muon": True},
        {"params": matrices, "weight_decay": optim.weight_decay, "rate": 1.0},
        {"params": vectors, "weight_decay": 0.0, "rate": 1.0},
        {"params": coefficients, "weight_decay": 0.0, "rate": optim.coefficient_rate},
    ]
    return [group for group in groups if group["params"]]


def initialize(
    model: nn.Module, train: TrainSettings, optim: OptimSettings, zero: ZeroSettings, folder: Path
) -> Any:
    """Create the DeepSpeed engine for a model whose weights are initialized, and complete on every worker.

    The configuration is written to ``deepspeed.json`` in ``folder``.

    The model must not be built inside ``zero.Init``, where plain initializers see partitions and silently
    produce wrong weights.
    """
    deepspeed = import_deepspeed()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else "cpu"
    groups = parameter_groups(model.to(device), optim)
    optimizer = build_optimizer(groups, optim)
    trained = chain.from_iterable(group["params"] for group in groups)
    parameters = sum(parameter.numel() for parameter in trained)
    config = deepspeed_config(train, optim, zero, dist.get_world_size(), parameters)
    if dist.get_rank() == 0:
        with new_file(folder / "deepspeed.json") as temporary:
            temporary.write_text(json.dumps(config, indent=2), encoding="utf-8")
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine


def build_optimizer(groups: list[dict[str, Any]], optim: OptimSettings) -> torch.optim.Optimizer:
    """The optimizer of these :func:`parameter_groups`."""
    if optim.name == "adamw":
        return torch.optim.AdamW(groups, lr=optim.learning_rate, betas=optim.betas)
    from cluster.training.muon import build_muon

    return build_muon(groups, optim)


def apply_gradients(engine: Any, clip: float) -> float:
    """End a micro-batch; the last one of a step applies the gradients.

    Gradients with a norm that is not finite are not applied on any rank, which agree as the norm is that of
    all ranks' gradients. With ZeRO, DeepSpeed does this itself; without, it would apply any gradient, and
    clip without returning the norm.

    Returns:
        The gradient norm before clipping; 0 before the last micro-batch.
    """
    if not engine.is_gradient_accumulation_boundary():
        engine.step()
        return 0.0
    if engine.zero_optimization_stage() == 0:
        norm = float(nn.utils.clip_grad_norm_(engine.module.parameters(), clip))
        if not math.isfinite(norm):
            engine.zero_grad()  # the optimizer skips parameters without gradients
        engine.step()
        return norm
    engine.step()
    return float(engine.get_global_grad_norm() or 0.0)


def trained_tensors(engine: Any) -> list[torch.Tensor]:
    """The trained weights, or this rank's partitions of them at stage 3."""
    trained = [parameter for parameter in engine.module.parameters() if parameter.requires_grad]
    return [p.ds_tensor for p in trained] if engine.zero_optimization_stage() == 3 else trained


def whole_state(engine: Any) -> dict[str, torch.Tensor]:
    """The model's complete state dict on the CPU, on rank 0; empty elsewhere. All ranks must call it."""
    deepspeed = import_deepspeed()
    module, partitioned = engine.module, engine.zero_optimization_stage() == 3
    state: dict[str, torch.Tensor] = {}
    with deepspeed.zero.GatheredParameters(list(module.parameters()), enabled=partitioned):
        if dist.get_rank() == 0:
            state = {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}
    return state
