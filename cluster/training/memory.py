"""What a worker's memory goes to, in bytes, before anything is allocated.

What is held between steps follows from DeepSpeed's source (0.19.8, ``runtime/zero/stage_1_and_2.py`` and
``stage3.py``), and a test compares it with a real engine's tensors, byte by byte. What a pass needs is an
estimate: the tensors that are kept for the backward pass are counted by asking the field itself, on tensors
without memory, and the rest by the formulas below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from cluster.settings import OptimSettings, PretrainSettings, ZeroSettings
from cluster.training import zero
from odeformer.config import ModelConfig
from odeformer.field import block_size, block_tensors, build_field
from odeformer.gradients import gradient_named
from odeformer.gradients.method import PassSizes
from odeformer.model import Odeformer, SolveOptions
from odeformer.solvers import SOLVERS, ReversibleSolver, Solver

FLOAT = 4
LIVE = 1_000_000_000
"""At most so many elements are kept whole at stage 3, by its default."""


class Memory(NamedTuple):
    """Bytes by what they are for: on the device that computes, and beside it on the host."""

    device: dict[str, int]
    host: dict[str, int]

    def total(self) -> tuple[int, int]:
        return sum(self.device.values()), sum(self.host.values())


def worker_memory(settings: PretrainSettings) -> Memory:
    """Of one worker of a run, whose vocabulary and context are known, at the moment of its deepest pass that
    takes most."""
    model = unallocated(settings)
    sizes, zero_settings, train = parameter_sizes(model, settings.optim), settings.zero, settings.train
    workers, on_gpu = settings.cluster.workers, settings.cluster.gpus_per_worker > 0
    held, host = state_memory(sizes, zero_settings, workers)
    gradients = {"gradients": held.pop("gradients")}
    sent = {"communication": communication_memory(sizes, zero_settings.stage, workers, on_gpu)}
    several = train.global_batch > train.micro_batch * workers or train.objective != "one_depth"
    found = []
    for moment, parts in pass_memory(model, settings).items():
        # Stage 3 has a place for its part of the gradients from the start, the others make it as they come.
        are_there = zero_settings.stage == 3 or several or moment == "end"
        is_sending = zero_settings.stage == 3 or on_gpu or moment != "loss"
        found.append(held | (gradients if are_there else {}) | (sent if is_sending else {}) | parts)
    return Memory(max(found, key=lambda parts: sum(parts.values())), host)


def unallocated(settings: PretrainSettings) -> Odeformer:
    """The run's model, its tensors without memory."""
    with torch.device("meta"):
        model = Odeformer(settings.model)
    model.options = SolveOptions(settings.train.solver_for(settings.model))
    return model


def parameter_sizes(model: Odeformer, optim: OptimSettings) -> list[list[int]]:
    """Elements of each trained parameter, in the optimizer's groups."""
    groups = zero.parameter_groups(model, optim)
    return [[parameter.numel() for parameter in group["params"]] for group in groups]


def state_memory(sizes: Sequence[Sequence[int]], settings: ZeroSettings, workers: int) -> Memory:
    """Parameters, gradients while they accumulate, and optimizer, of the worker that holds most.

    All float32. The optimizer: two moments and, from stage 1 on, a master copy of what they belong to, which
    DeepSpeed makes of float32 weights, too. From stage 1 on flat groups are padded to twice the number of
    workers; at stage 3 each parameter to the number of workers. There the small ones are held whole besides.
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
    # The gradients that the step reads lie beside the optimizer; the way there, and the new weights' way
    # back, have buffers.
    largest = max(size for group in sizes for size in group)
    buffers = FLOAT * (part + largest)
    return Memory(
        {**held, "buffers": FLOAT * largest},
        {"optimizer": optimizer, "gradients": FLOAT * part, "buffers": buffers},
    )


def _partitioned_memory(sizes: Sequence[Sequence[int]], settings: ZeroSettings, workers: int) -> Memory:
    """The same at stage 3, where each parameter is shared out by itself."""
    part = sum(math.ceil(size / workers) for group in sizes for size in group)
    small = [n for group in sizes for n in group if n <= settings.param_persistence_threshold]
    whole = FLOAT * sum(workers * math.ceil(size / workers) for size in small)
    device = {"parameters": whole + FLOAT * part, "gradients": FLOAT * part, "optimizer": 3 * FLOAT * part}
    host = {}
    if settings.offload_parameters == "cpu":
        device["parameters"], host["parameters"] = whole, FLOAT * part
    if settings.offload_optimizer == "cpu":  # with the gradients that its step reads
        device["gradients"], host["gradients"] = 0, 2 * FLOAT * part
        host["optimizer"] = device.pop("optimizer")
    return Memory(device, host)


def _touched(sizes: Sequence[Sequence[int]], padded: Sequence[int], workers: int) -> int:
    """Elements of the parameters that a worker's part of the flat groups touches: their gradients stay whole
    at stage 2. Of the worker whose part touches most."""
    totals = [0] * workers
    for group, size in zip(sizes, padded, strict=True):
        part, start = size // workers, 0
        for parameter in group:
            for owner in range(start // part, (start + parameter - 1) // part + 1):
                totals[owner] += parameter
            start += parameter
    return max(totals)


def communication_memory(sizes: Sequence[Sequence[int]], stage: int, workers: int, on_gpu: bool) -> int:
    """DeepSpeed's bucket for gradients, and at stage 3 weights that are whole for a while.

    On a GPU the bucket takes its full size at once; on a CPU what is written to it, and at stage 1,
    where gradients move into it when all are there, nothing beside them. A weight that is used again within
    10⁹ elements is not released, so below that all are whole by the end of the forward pass.
    """
    whole = sum(map(sum, sizes))
    if stage == 0:
        return 0
    bucket = 0 if stage == 1 and not on_gpu else min(whole, zero.BUCKET)
    gathered = min(whole, LIVE) if stage == 3 and workers > 1 else 0
    return FLOAT * (bucket + gathered)


def pass_memory(model: Odeformer, settings: PretrainSettings) -> dict[str, dict[str, int]]:
    """Generated weights, what is kept for the backward pass, and logits, of a micro-batch at the deepest N:
    at the ``loss``, where logits meet all that is kept; in the ``backward`` pass, where the gradients of W(t)
    pile up; at its ``end``, where those of the stored weights are made of them.

    What is kept, and for how many times t weights exist at once, is the gradient method's to say
    (:meth:`odeformer.gradients.method.GradientMethod.memory`), of states of 4 B · T · d bytes.

    Logits: of B · T · vocabulary numbers the logits, their log-softmax, and its gradient.
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
    teacher = FLOAT * passed if train.objective == "distillation" else 0
    weights = FLOAT * nodes * block
    # Products in bf16 keep a cast of W; with ``direct`` nothing else needs W then, and it goes.
    cast = 2 * block if bf16 else 0
    is_gone = bf16 and train.gradient == "direct"
    kept = cast * depth * solver.evaluations if is_gone else weights + cast * train.segment
    return {
        "loss": {
            "generated weights": min(kept, weights),
            "activations": at_loss + 3 * state,
            "logits": 3 * FLOAT * passed + teacher,
        },
        "backward": {
            "generated weights": weights + kept,
            "activations": in_backward + 3 * state,
        },
        "end": {"generated weights": weights if is_gone else 2 * weights, "activations": state},
    }


def evaluation_memory(
    config: ModelConfig, batch: int, length: int, bf16: bool, separate_documents: bool
) -> int:
    """Bytes that one evaluation of the field keeps for its backward pass, beside its state and weights."""
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
        given = {tensor.untyped_storage()._cdata for tensor in (x, *weights.values())}
        casts = sum(2 * weight.numel() for weight in weights.values() if weight.ndim == 2)
        with (
            saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=bf16),
        ):
            field(x, weights)
        total = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in given)
    return total - (casts if bf16 else 0)


def _solver_state(solver: Solver, state: int) -> int:
    """A reversible solver's is a pair in float64."""
    return 4 * state if isinstance(solver, ReversibleSolver) else state
