"""Memory of a worker in bytes, computed without allocating anything.

Parameters, gradients and optimizer state follow from DeepSpeed's source (0.19.8,
``runtime/zero/stage_1_and_2.py`` and ``stage3.py``); a test compares them with a real engine byte by byte.
The memory of a pass is an estimate: the tensors saved for the backward pass are counted by running the field
on fake tensors, and the rest follows from the formulas below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from cluster.settings import OptimSettings, PretrainSettings, ZeroSettings
from cluster.training import zero
from cluster.training.teacher import TeacherShape
from odeformer.config import ModelConfig
from odeformer.field import block_size, block_tensors, build_field
from odeformer.gradients import gradient_named
from odeformer.gradients.method import PassSizes
from odeformer.model import Odeformer, SolveOptions, parameter_count
from odeformer.solvers import SOLVERS, ReversibleSolver, Solver, layer_solver_name, solver_named

FLOAT = 4
LIVE = 1_000_000_000
"""Elements of gathered parameters that stage 3 keeps at most, DeepSpeed's default."""


class Memory(NamedTuple):
    """Bytes by purpose, on the computing device and, with offloading, on the host."""

    device: dict[str, int]
    host: dict[str, int]

    def total(self) -> tuple[int, int]:
        return sum(self.device.values()), sum(self.host.values())


def worker_memory(settings: PretrainSettings, teacher: TeacherShape | None = None) -> Memory:
    """Peak memory of one worker, in a pass at the largest depth. Vocabulary and context must be known.

    Args:
        settings: those of the run.
        teacher: shape of the model in ``settings.teacher``, which every worker holds whole.
    """
    model = unallocated(settings)
    sizes, zero_settings, train = parameter_sizes(model, settings.optim), settings.zero, settings.train
    workers, on_gpu = settings.cluster.workers, settings.cluster.gpus_per_worker > 0

    held, host = state_memory(sizes, zero_settings, workers)
    if teacher is not None:
        held["teacher"] = FLOAT * parameter_count(teacher.model)
    gradients = {"gradients": held.pop("gradients")}
    sent = {"communication": communication_memory(sizes, zero_settings.stage, workers, on_gpu)}
    several = train.global_batch > train.micro_batch * workers or train.objective != "one_depth"

    moments = []
    passes = pass_memory(model, settings)
    if teacher is not None:
        passes["teacher"] = teacher_pass_memory(teacher, settings)
    for moment, parts in passes.items():
        # Stage 3 allocates its part of the gradients at the start, the others as the gradients arrive.
        has_gradients = zero_settings.stage == 3 or several or moment == "end"
        is_sending = zero_settings.stage == 3 or on_gpu or moment not in ("teacher", "loss")
        moments.append(held | (gradients if has_gradients else {}) | (sent if is_sending else {}) | parts)
    return Memory(max(moments, key=lambda parts: sum(parts.values())), host)


def unallocated(settings: PretrainSettings) -> Odeformer:
    """The run's model on the meta device."""
    with torch.device("meta"):
        model = Odeformer(settings.model)
    model.options = SolveOptions(settings.train.solver_for(settings.model))
    return model


def parameter_sizes(model: Odeformer, optim: OptimSettings) -> list[list[int]]:
    """Elements of each trained parameter, by optimizer group."""
    groups = zero.parameter_groups(model, optim)
    return [list(map(torch.Tensor.numel, group["params"])) for group in groups]


def state_memory(sizes: Sequence[Sequence[int]], settings: ZeroSettings, workers: int) -> Memory:
    """Memory of parameters, accumulated gradients and optimizer state, for the worker that holds most.

    Everything is float32. The optimizer state is two moments and, from stage 1 on, a master copy, which
    DeepSpeed makes of float32 weights as well. At stages 1 and 2 the flat groups are padded to a multiple of
    twice the number of workers, at stage 3 each parameter to a multiple of the number of workers; there the
    small parameters are also held unpartitioned.
    """
    whole, stage = sum(map(sum, sizes)), settings.stage
    if stage == 0:
        return Memory({"parameters": 4 * whole, "gradients": 4 * whole, "optimizer": 8 * whole}, {})
    if stage == 3:
        return _partitioned_memory(sizes, settings, workers)
    padded = [2 * workers * math.ceil(sum(group) / (2 * workers)) for group in sizes]
    part, gradients = sum(padded) // workers, whole if stage == 1 else _touched(sizes, padded, workers)
    held = {"parameters": FLOAT * sum(padded), "gradients": FLOAT * gradients}
    optimizer = 3 * FLOAT * part
    if settings.offload_optimizer == "none":
        return Memory({**held, "optimizer": optimizer}, {})
    # The optimizer step reads gradients in host memory. Gradients and new weights travel through buffers.
    largest = max(map(max, sizes))
    buffers = FLOAT * (part + largest)
    return Memory(
        {**held, "buffers": FLOAT * largest},
        {"optimizer": optimizer, "gradients": FLOAT * part, "buffers": buffers},
    )


def _partitioned_memory(sizes: Sequence[Sequence[int]], settings: ZeroSettings, workers: int) -> Memory:
    """The same at stage 3, where each parameter is partitioned separately."""
    all_sizes = list(chain.from_iterable(sizes))
    part = sum(math.ceil(size / workers) for size in all_sizes)
    small = [size for size in all_sizes if size <= settings.param_persistence_threshold]
    whole = FLOAT * sum(workers * math.ceil(size / workers) for size in small)
    device = {"parameters": whole + FLOAT * part, "gradients": FLOAT * part, "optimizer": 3 * FLOAT * part}
    host = {}
    if settings.offload_parameters == "cpu":
        device["parameters"], host["parameters"] = whole, FLOAT * part
    if settings.offload_optimizer == "cpu":  # and the gradients that its step reads
        device["gradients"], host["gradients"] = 0, 2 * FLOAT * part
        host["optimizer"] = device.pop("optimizer")
    return Memory(device, host)


def _touched(sizes: Sequence[Sequence[int]], padded: Sequence[int], workers: int) -> int:
    """Elements of the gradients that stay unpartitioned at stage 2, for the worker with most of them.

    They are those of all parameters that overlap the worker's part of the flat groups.
    """
    totals = [0] * workers
    for group, size in zip(sizes, padded, strict=True):
        part, start = size // workers, 0
        for parameter in group:
            for owner in range(start // part, (start + parameter - 1) // part + 1):
                totals[owner] += parameter
            start += parameter
    return max(totals)


def communication_memory(sizes: Sequence[Sequence[int]], stage: int, workers: int, on_gpu: bool) -> int:
    """Bytes of DeepSpeed's gradient bucket and, at stage 3, of gathered weights.

    On a GPU the bucket is allocated at full size. On a CPU only its used part takes memory, and nothing at
    stage 1, where gradients move into it. Stage 3 does not release a weight that is used again within 10⁹
    elements, so smaller models are completely gathered at the end of the forward pass.
    """
    whole = sum(map(sum, sizes))
    if stage == 0:
        return 0
    bucket = 0 if stage == 1 and not on_gpu else min(whole, zero.BUCKET)
    gathered = min(whole, LIVE) if stage == 3 and workers > 1 else 0
    return FLOAT * (bucket + gathered)


def pass_memory(model: Odeformer, settings: PretrainSettings) -> dict[str, dict[str, int]]:
    """Bytes of a micro-batch at the largest N, by purpose, at the three moments when they may peak.

    ``loss``: the logits exist together with everything saved for the backward pass. ``backward``: the
    gradients of W(t) accumulate. ``end`` of the backward pass: the gradients of the weight sets are computed
    from them.

    The gradient method determines which states, of 4 B · T · d bytes, are saved, and for how many times t
    weights exist at once (:meth:`odeformer.gradients.method.GradientMethod.memory`). The logits take three
    tensors of B · T · vocabulary elements: logits, log-softmax and gradient.
    """
    train, config = settings.train, settings.model
    solver, early, bf16 = SOLVERS[model.solver], config.prelude_layers, train.precision == "bf16"
    depth = max(config.depth, *train.depths) if train.depths else config.depth
    batch, length = train.micro_batch, settings.data.sequence_length
    state = FLOAT * batch * length * config.width
    block = block_size(config)
    evaluation = evaluation_memory(config, batch, length, bf16, settings.data.separate_documents)
    kept_of_pass = gradient_named(train.gradient).memory(
        PassSizes(
            state=state,
            solver_state=_solver_state(solver, state),
            evaluation=evaluation + state,
            depth=depth,
            prelude=early,
            evaluations=solver.evaluations,
            nodes=len(solver.nodes),
            segment=train.segment,
        )
    )
    at_loss, in_backward = kept_of_pass.at_loss, kept_of_pass.in_backward
    nodes = kept_of_pass.times + early * len(model.layer_solver().nodes)
    passed = batch * length * (config.vocabulary_size or 0)
    # Logits that are targets; at the loss those of a teacher come with two distributions.
    is_taught = settings.teacher is not None
    targets = FLOAT * passed * ((train.objective == "distillation") + is_taught)
    distributions = 2 * FLOAT * passed * is_taught
    weights = FLOAT * nodes * block
    # Matmuls in bf16 save a cast of W. With ``direct`` nothing else needs W then, and it is released.
    cast = 2 * block if bf16 else 0
    is_released = bf16 and train.gradient == "direct"
    kept = cast * depth * solver.evaluations if is_released else weights + cast * train.segment
    return {
        "loss": {
            "generated weights": min(kept, weights),
            "activations": at_loss + 3 * state,
            "logits": 3 * FLOAT * passed + targets + distributions,
        },
        "backward": {
            "generated weights": weights + kept,
            "activations": in_backward + 3 * state,
            "logits": targets,
        },
        "end": {
            "generated weights": weights if is_released else 2 * weights,
            "activations": state,
            "logits": targets,
        },
    }


def teacher_pass_memory(teacher: TeacherShape, settings: PretrainSettings) -> dict[str, int]:
    """Bytes of the teacher's pass over a micro-batch, by purpose. It keeps nothing for a backward pass."""
    config, train, data = teacher.model, settings.train, settings.data
    flow, early = solver_named(teacher.solver), config.prelude_layers
    layers = solver_named(layer_solver_name(teacher.solver, config.default_solver))
    nodes = early * len(layers.nodes) + (teacher.depth - early) * len(flow.nodes)
    batch, length, bf16 = train.micro_batch, data.sequence_length, train.precision == "bf16"
    return {
        "generated weights": FLOAT * nodes * block_size(config),
        "activations": evaluation_memory(config, batch, length, bf16, data.separate_documents),
        "logits": FLOAT * batch * length * (config.vocabulary_size or 0),
    }


def evaluation_memory(
    config: ModelConfig, batch: int, length: int, bf16: bool, separate_documents: bool
) -> int:
    """Bytes that one evaluation of the field saves for its backward pass, besides state and weights."""
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with FakeTensorMode():
        x = torch.zeros(batch, length, config.width, requires_grad=True)
        weights = {
            name: torch.zeros(spec.shape, requires_grad=True) for name, spec in block_tensors(config).items()
        }
        documents = torch.zeros(batch, length, dtype=torch.long) if separate_documents else None
        field = build_field(config, x, True, documents)
        inputs = {tensor.untyped_storage()._cdata for tensor in (x, *weights.values())}
        casts = sum(2 * weight.numel() for weight in weights.values() if weight.ndim == 2)
        with (
            saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=bf16),
        ):
            field(x, weights)
        total = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in inputs)
    return total - (casts if bf16 else 0)


def _solver_state(solver: Solver, state: int) -> int:
    """Bytes of a solver's state: a reversible solver has a pair in float64."""
    return 4 * state if isinstance(solver, ReversibleSolver) else state
