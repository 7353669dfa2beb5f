"""Compute time of an optimizer step on one GPU."""

from __future__ import annotations

from cluster.planning.hardware import Gpu
from cluster.settings import PretrainSettings
from cluster.training.compiling import wanted
from cluster.training.teacher import TeacherShape
from cluster.training.utilization import step_flops
from odeformer.config import ModelConfig
from odeformer.field import block_size
from odeformer.gradients import gradient_named
from odeformer.measure.cost import forward_flops
from odeformer.model import Odeformer
from odeformer.solvers import SOLVERS

EFFICIENCY = {False: 0.32, True: 0.38}
"""Fraction of peak FLOP/s that a GPU reaches in matmuls without and with ``torch.compile``: with these the
planner gives the published speeds of Llama 3.1 8B on 8 H100 (``python -m benchmarks.cluster.simulation``)."""


def model_flops(model: Odeformer, settings: PretrainSettings) -> float:
    """Model FLOPs of one optimizer step over all workers, averaged over the depths that it may draw."""
    train, config = settings.train, settings.model
    length = settings.data.sequence_length
    two_passes = train.objective != "one_depth"
    drawn = [n for n in train.depths or (config.depth,) if not two_passes or n != config.depth]
    varied = [step_flops(model, [n], train.global_batch, length) for n in drawn]
    fixed = step_flops(model, [config.depth], train.global_batch, length)
    late = sum(varied) / len(varied) + (fixed if two_passes else 0.0)
    return train.vary_from * fixed + (1 - train.vary_from) * late


def usual_efficiency(model: Odeformer, settings: PretrainSettings) -> tuple[float, str]:
    """The fraction of peak FLOP/s to expect in matmuls, and where the number is from."""
    compiled = wanted(settings.train, model, "cuda", settings.cluster.workers).compiled
    how = "with" if compiled else "without"
    return EFFICIENCY[compiled], f"published for Llama 3.1 8B on H100 {how} torch.compile"


def compute_seconds(
    model: Odeformer, settings: PretrainSettings, gpu: Gpu, efficiency: float, part: float, passes: int
) -> dict[str, float]:
    """Seconds of one step on each GPU, for matmuls, generating W(t) and the optimizer.

    Args:
        efficiency: fraction of its peak FLOP/s that a GPU reaches in matmuls.
        part: fraction of the optimizer state that one GPU holds.
        passes: forward and backward passes of one GPU per step.
    """
    config, workers = settings.model, settings.cluster.workers
    recomputed = gradient_named(settings.train.gradient).recomputed_passes / 3
    flops = model_flops(model, settings) * (1 + recomputed) / workers
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "products": flops / (_peak(settings, gpu) * efficiency),
        "weights W(t)": passes * _generation(config, model.solver, config.depth, gpu),
        # Two moments and the master copy are read and written, the gradient read, the weight written.
        "optimizer": 8 * 4 * parameters * part / gpu.memory_bandwidth,
    }


def teacher_flops(teacher: TeacherShape, settings: PretrainSettings) -> float:
    """FLOPs of the teacher's forward passes of one optimizer step over all workers.

    They are no model FLOPs of the run.
    """
    length = settings.data.sequence_length
    return settings.train.global_batch * forward_flops(teacher.model, teacher.solver, teacher.depth, length)


def teacher_seconds(
    teacher: TeacherShape, settings: PretrainSettings, gpu: Gpu, efficiency: float, micro_batches: int
) -> float:
    """Seconds of the teacher's forward passes on each GPU in one step, one for each micro-batch.

    Args:
        efficiency: fraction of its peak FLOP/s that a GPU reaches in matmuls.
        micro_batches: micro-batches of one GPU per step.
    """
    flops = teacher_flops(teacher, settings) / settings.cluster.workers
    generated = _generation(teacher.model, teacher.solver, teacher.depth, gpu, is_trained=False)
    return flops / (_peak(settings, gpu) * efficiency) + micro_batches * generated


def _peak(settings: PretrainSettings, gpu: Gpu) -> float:
    """Peak FLOP/s of a GPU in the run's precision."""
    return gpu.bf16_flops if settings.train.precision == "bf16" else gpu.fp32_flops


def _generation(config: ModelConfig, solver: str, depth: int, gpu: Gpu, is_trained: bool = True) -> float:
    """Seconds to generate W(t) from K sets at the nodes of N cells in float32, and for the backward pass.

    Arithmetic or memory bandwidth limits it.
    """
    block, sets = block_size(config), config.basis.size
    nodes = depth * len(SOLVERS[solver].nodes)
    if config.basis.kind == "none":
        return 0.0
    # Sets are read and W(t) written; backward, its gradient and the sets are read and theirs written.
    products, moved = (3, 3 * sets + 2 * nodes) if is_trained else (1, sets + nodes)
    arithmetic = 2.0 * products * nodes * sets * block / gpu.fp32_flops
    return max(arithmetic, 4.0 * moved * block / gpu.memory_bandwidth)
