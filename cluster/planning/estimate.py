"""Estimate of a run on given machines: memory, speed and cost, and the fastest settings.

Memory and communication volume follow from DeepSpeed's source and are compared with real workers
(``python -m benchmarks.cluster.plan``). Times are a model without any overlap: matmuls run at a given
fraction of peak FLOP/s, W(t) and the optimizer at memory bandwidth, communication by latency and bandwidth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from cluster.planning.communication import collectives, seconds
from cluster.planning.compute import (
    EFFICIENCY,
    compute_seconds,
    model_flops,
    teacher_seconds,
    usual_efficiency,
)
from cluster.planning.hardware import Gpu, Network
from cluster.planning.reliability import Reliability, reliability
from cluster.settings import PretrainSettings
from cluster.training.memory import Memory, parameter_sizes, unallocated, worker_memory
from cluster.training.teacher import TeacherShape
from odeformer.gradients import GRADIENTS
from odeformer.solvers import solver_named

USABLE = 0.92
"""Usable fraction of a GPU's memory; driver, libraries and fragmentation take the rest."""
POWER_USAGE = 1.2
"""Energy of a data center, with hosts and cooling, relative to that of its GPUs."""


@dataclass(frozen=True)
class Machines:
    """GPUs and network for a run."""

    gpus: int
    gpu: Gpu
    network: Network
    efficiency: float | None = None
    """Measured fraction of peak FLOP/s that a GPU reaches in matmuls; when not given that of a published run,
    with or without ``torch.compile`` like the run itself."""
    price: float | None = None
    """Price per GPU hour, in any currency."""


@dataclass(frozen=True)
class Estimate:
    """Estimate of a run on some machines."""

    settings: PretrainSettings
    machines: Machines
    efficiency: float
    """Fraction of peak FLOP/s in matmuls."""
    efficiency_source: str
    """Source of ``efficiency``."""
    memory: Memory
    seconds: dict[str, float]
    """Seconds of an optimizer step, by activity."""
    bytes_sent: dict[str, int]
    """Bytes of an optimizer step by collective operation, before partitioning."""
    flops: float
    """Model FLOPs of an optimizer step."""
    commit_bytes: float
    """Bytes that a GPU copies for a commit: its part of optimizer state and weights (all at stage 0)."""
    reliability: Reliability

    @property
    def step_seconds(self) -> float:
        return sum(self.seconds.values())

    @property
    def fits(self) -> bool:
        return self.memory.total()[0] <= USABLE * self.machines.gpu.memory

    @property
    def tokens_per_second(self) -> float:
        """Throughput without failures."""
        train = self.settings.train
        return train.global_batch * self.settings.data.sequence_length / self.step_seconds

    @property
    def utilization(self) -> float:
        """Model FLOPs utilization: the fraction of the GPUs' peak FLOP/s."""
        return self.flops / self.step_seconds / (self.machines.gpus * self.machines.gpu.bf16_flops)

    def content(self) -> dict[str, Any]:
        """The estimate and its consequences for the whole run, as plain values for JSON."""
        train, machines, reliable = self.settings.train, self.machines, self.reliability
        days = train.steps * self.step_seconds / reliable.goodput / 86400
        gpu_hours = 24 * days * machines.gpus
        return {
            "gpus": machines.gpus,
            "gpu": machines.gpu.name,
            "network": machines.network.name,
            "efficiency": self.efficiency,
            "efficiency_source": self.efficiency_source,
            "stage": self.settings.zero.stage,
            "gradient": train.gradient,
            "micro_batch": train.micro_batch,
            "memory": self.memory._asdict(),
            "memory_of_gpu": machines.gpu.memory,
            "fits": self.fits,
            "seconds": self.seconds,
            "step_seconds": self.step_seconds,
            "bytes_sent": self.bytes_sent,
            "mfu": self.utilization,
            "tokens_per_second": self.tokens_per_second,
            "tokens_per_day": 86400 * self.tokens_per_second * reliable.goodput,
            **reliable._asdict(),
            "days": days,
            "gpu_hours": gpu_hours,
            "megawatt_hours": gpu_hours * machines.gpu.watts * POWER_USAGE / 1e6,
            "price": None if machines.price is None else gpu_hours * machines.price,
        }


def estimate(settings: PretrainSettings, machines: Machines, teacher: TeacherShape | None = None) -> Estimate:
    """Estimate a run. Its vocabulary and context must be known.

    Args:
        settings: those of the run.
        machines: what it runs on.
        teacher: shape of the model in ``settings.teacher``.

    Raises:
        ValueError: when the GPUs cannot share the global batch in whole micro-batches.
    """
    settings = on_machines(settings, machines.gpus)
    model = unallocated(settings)
    sizes, workers = parameter_sizes(model, settings.optim), machines.gpus
    memory, train = worker_memory(settings, teacher), settings.train
    micro_batches = train.global_batch // (train.micro_batch * workers)
    passes = micro_batches * (1 if train.objective == "one_depth" else 2)
    sent = collectives(sizes, settings.zero, workers, passes)
    part = 1.0 if settings.zero.stage == 0 else 1.0 / workers
    efficiency, source = usual_efficiency(model, settings)
    if machines.efficiency is not None:
        efficiency, source = machines.efficiency, "as given"
    spent = compute_seconds(model, settings, machines.gpu, efficiency, part, passes)
    if teacher is not None:
        of_teacher = machines.efficiency or EFFICIENCY[False]  # it is not compiled
        spent["teacher"] = teacher_seconds(teacher, settings, machines.gpu, of_teacher, micro_batches)
    spent["communication"] = sum(seconds(each, workers, machines.gpu, machines.network) for each in sent)
    state = sum(place.get("optimizer", 0) + place.get("parameters", 0) for place in memory)
    return Estimate(
        settings,
        machines,
        efficiency,
        source,
        memory,
        spent,
        {each.operation: each.bytes for each in sent},
        model_flops(model, settings),
        state,
        reliability(workers, state),
    )


def on_machines(settings: PretrainSettings, gpus: int) -> PretrainSettings:
    """The run with one worker on each of ``gpus`` GPUs.

    Raises:
        ValueError: when they cannot share the global batch in whole micro-batches.
    """
    train = settings.train
    if train.global_batch % (gpus * train.micro_batch):
        suggested = _next(train.global_batch, gpus * train.micro_batch)
        raise ValueError(
            f"train.global_batch {train.global_batch} cannot be shared by {gpus} GPUs in micro-batches of "
            f"{train.micro_batch}: --set train.global_batch={suggested}"
        )
    cluster = settings.cluster.model_copy(
        update={"workers": gpus, "min_workers": None, "gpus_per_worker": 1, "address": None}
    )
    return settings.model_copy(update={"cluster": cluster})


def _next(number: int, divisor: int) -> int:
    """The smallest multiple of ``divisor`` that is not less than ``number``."""
    return -(-number // divisor) * divisor


def choices(
    settings: PretrainSettings, machines: Machines, teacher: TeacherShape | None = None
) -> list[Estimate]:
    """Estimates for every ZeRO stage and every gradient method that the solver allows.

    Each is at the largest micro-batch that fits. Those that fit come first, the fastest at the top. The
    arguments are those of :func:`estimate`.

    Raises:
        ValueError: when the GPUs cannot share the global batch.
    """
    solver = solver_named(settings.train.solver_for(settings.model))
    gradients = [name for name, method in GRADIENTS.items() if method.is_exact and method.goes_with(solver)]
    estimates = [
        _largest(settings, machines, teacher, *choice) for choice in product((0, 1, 2, 3), gradients)
    ]
    return sorted(estimates, key=lambda estimate: (not estimate.fits, estimate.step_seconds))


def _largest(
    settings: PretrainSettings, machines: Machines, teacher: TeacherShape | None, stage: int, gradient: str
) -> Estimate:
    zero = settings.zero.model_copy(
        update={"stage": stage}
        | ({"offload_parameters": "none"} if stage != 3 else {})
        | ({"offload_optimizer": "none"} if stage == 0 else {})
    )
    for micro_batch in _micro_batches(settings.train.global_batch, machines.gpus):
        train = settings.train.model_copy(update={"gradient": gradient, "micro_batch": micro_batch})
        changed = settings.model_copy(update={"train": train, "zero": zero})
        result = estimate(changed, machines, teacher)
        if result.fits:
            break
    return result


def _micro_batches(global_batch: int, gpus: int) -> Iterator[int]:
    """The divisors of a GPU's share of the batch, from the largest."""
    if global_batch % gpus:
        raise ValueError(
            f"train.global_batch {global_batch} cannot be shared by {gpus} GPUs: "
            f"--set train.global_batch={_next(global_batch, gpus)}"
        )
    share = global_batch // gpus
    yield from (n for n in range(share, 0, -1) if share % n == 0)
